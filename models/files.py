"""What the scripts here share about files: whole writes, and digests."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write data to path so that a reader sees the old file or the whole new one, never a part.

    check, if given, gets the path of the new file before it takes its place. When it raises, the
    new file is removed, an old one stays, and the exception passes on.
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
        # mkstemp makes files that only their owner can read; a model is no secret.
        part.chmod(0o644)
        if check is not None:
            check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """The SHA-256 digest in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
