"""Atomic writes and digests of files."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write data to path atomically: a reader sees the old file or the whole new one.

    If check is given, it is called with the path of the new file before that replaces path. If
    check raises, the new file is removed, path is left as it was, and the exception propagates.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=f".part{path.suffix}"
    )
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        # mkstemp makes files that only their owner can read; other users may read a model.
        part.chmod(0o644)
        if check is not None:
            check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """Return the SHA-256 digest in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
