"""What the scripts here share about files: whole writes, and TorchScript without debug records."""

import contextlib
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

# Records that the writer adds by itself when an archive is closed.
_WRITERS_OWN = {"version", ".data/version", ".data/serialization_id"}


def write_whole(path: Path, data: bytes, check: Callable[[Path], None] | None = None) -> None:
    """Write data to path so that a reader sees the old file or the whole new one, never a part.

    check, if given, gets the path of the new file before it takes its place. When it raises, the
    new file is removed, an old one stays, and the exception passes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
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


@contextlib.contextmanager
def quiet_jit() -> Iterator[None]:
    """Silence two kinds of warning inside the block, and nothing else.

    torch.jit's own deprecation notices; and the tracer's remarks on the checks of shapes inside
    torch.nn, which a trace leaves out.
    """
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=category)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.")
        yield


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """The TorchScript module of a file, on the CPU, in eval mode."""
    with quiet_jit():
        return torch.jit.load(str(path), map_location="cpu").eval()


def torchscript_bytes(module: torch.jit.ScriptModule) -> bytes:
    """A scripted or traced module as the bytes of a TorchScript file.

    The same module gives the same bytes with the same PyTorch. Two things stand in the way, and are
    dealt with here: torch.jit.save names the archive after the file (not when it writes to memory),
    and it records the exporter's source paths in .debug_pkl records, which are left out. Without
    them an error inside the model shows the module's own code, not the exporter's Python.
    """
    full = io.BytesIO()
    with quiet_jit():
        torch.jit.save(module, full)
    reader = torch._C.PyTorchFileReader(io.BytesIO(full.getvalue()))
    lean = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(lean)
    for name in reader.get_all_records():
        if name not in _WRITERS_OWN and not name.endswith(".debug_pkl"):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return lean.getvalue()


def sha256(data: bytes) -> str:
    """The SHA-256 digest in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
