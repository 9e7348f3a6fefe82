"""The files of models: TorchScript and AOTInductor packages, written, read and told apart.

Both are zip archives with one folder at the top. What torchherd adds is one record in that folder's
extra/, where PyTorch keeps what is not its own: Settings, as JSON.
"""

import contextlib
import copy
import io
import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torch._inductor.runtime.cache_dir_utils import cache_dir

SETTINGS = "torchherd.json"

TORCHSCRIPT = "TorchScript"
PACKAGE = "AOTInductor package"
PROGRAM = "exported program"
WEIGHTS = "weights file"

_COMPILER = {
    # For profilers, with the compiler's paths: two thirds of a small model's code.
    "aot_inductor.enable_line_tables": False,
    # The bounds that a package checks, if AOTI_RUNTIME_CHECK_INPUTS=1 asks it to, are narrower than
    # what it was exported for: 2 to 15 for 1 to 16, as the compiler tried no others. The settings
    # tell the true ones.
    "aot_inductor.check_lowerbound": False,
    "aot_inductor.check_upperbound": False,
}

# Records that the writer adds by itself when an archive is closed.
_WRITERS_OWN = {"version", ".data/version", ".data/serialization_id"}


@dataclass(frozen=True)
class Settings:
    """What a server must know of a model, and a reader may like to.

    size is that of the pictures, "WIDTHxHEIGHT" or "keep"; range the values of the tensors in and
    out; architecture and made_by are for people; precision is what the model computes in, "fp32",
    "bf16" or "fp16", while its tensors in and out are float32.

    The others are those of a compiled package, and None for TorchScript, which is free in them:
    input is the shape [C, H, W] of one item; batch the least and the greatest number of items; and
    device "cpu" or "cuda".
    """

    size: str
    range: tuple[float, float]
    architecture: str
    made_by: str
    precision: str | None = None
    input: tuple[int, int, int] | None = None
    batch: tuple[int, int] | None = None
    device: str | None = None

    def to_json(self) -> bytes:
        """The record as it stands in a file: without the fields that are None."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(said, indent=1).encode()


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


def torchscript_bytes(
    module: torch.jit.ScriptModule,
    settings: Settings | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> bytes:
    """A scripted or traced module as the bytes of a TorchScript file, with its settings inside.

    extra_files are what torch.jit.save puts beside the module: names and contents.

    The same module gives the same bytes with the same PyTorch. Two things stand in the way, and are
    dealt with here: torch.jit.save names the archive after the file (not when it writes to memory),
    and it records the exporter's source paths in .debug_pkl records, which are left out. Without
    them an error inside the model shows the module's own code, not the exporter's Python.
    """
    full = io.BytesIO()
    with quiet_jit():
        torch.jit.save(module, full, _extra_files=dict(extra_files or {}))
    return _rewritten(full.getvalue(), _without_traces, settings)


def _rewritten(
    archive: bytes, change: Callable[[str, bytes], bytes | None], settings: Settings | None
) -> bytes:
    """The archive with settings, and with what change makes of each record, given its name.

    A record of which it makes None is left out.
    """
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    lean = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(lean)
    for name in reader.get_all_records():
        if name in _WRITERS_OWN:
            continue
        record = change(name, reader.get_record(name))
        if record is not None:
            writer.write_record(name, record, len(record))
    if settings is not None:
        record = settings.to_json()
        writer.write_record(f"extra/{SETTINGS}", record, len(record))
    writer.write_end_of_file()
    return lean.getvalue()


def _without_traces(name: str, record: bytes) -> bytes | None:
    """A record of TorchScript, or None for one of the exporter's source paths."""
    return None if name.endswith(".debug_pkl") else record


def _without_sources(name: str, record: bytes) -> bytes:
    """A record of a package; of the C++ that the compiler made on the way, with paths, nothing.

    Its name stays: PyTorch 2.11 finds the package's metadata by it. Messages of the compiled code
    name the files that it was made of; slashes take the place of this machine's part of them, which
    leaves them as long as they were.
    """
    if name.endswith(".cpp"):
        return b""
    for path in (Path(torch.__file__).parents[1], Path(cache_dir())):
        text = str(path).encode()
        record = record.replace(text, b"/" * len(text))
    return record


def package_bytes(
    module: torch.nn.Module,
    settings: Settings,
    freeze: bool = True,
    options: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """A module compiled by AOTInductor for this machine, as the bytes of a .pt2 package.

    settings says for which input, batch and device. With freeze, the weights are laid out as the
    device's convolutions want them; they lose their names. options are further ones of the
    compiler. The C++ that the compiler made on the way, with this machine's paths in it, is left
    out.
    """
    assert settings.input is not None and settings.batch is not None
    low, high = settings.batch
    module = copy.deepcopy(module).to(settings.device)
    # Export takes an example of one as a sign that the size never changes.
    example = torch.rand(min(max(low, 2), high), *settings.input, device=settings.device)
    dynamic = None
    if low < high:
        dynamic = ({0: torch.export.Dim("batch", min=low, max=high)},)
    # The compiler freezes only where no gradients are wanted.
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = torch._inductor.aoti_compile_and_package(
            torch.export.export(module, (example,), dynamic_shapes=dynamic),
            package_path=str(Path(folder, "model.pt2")),
            inductor_configs={**_known(_COMPILER), **options, "freezing": freeze},
        )
        return _rewritten(Path(made).read_bytes(), _without_sources, settings)


def _known(options: dict[str, bool]) -> dict[str, bool]:
    """Those of the compiler's options that this PyTorch has."""
    names = torch._inductor.config.get_config_copy()
    return {name: value for name, value in options.items() if name in names}


def load_package(path: Path, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """The model of an AOTInductor package, which runs on the device that it was compiled for.

    It takes and gives tensors on the CPU. On CUDA it computes in float32 proper, not in TF32.
    """
    compiled = torch._inductor.aoti_load_package(str(path))

    def run(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # Compiled code reads memory in the order it was made for, whatever the strides say.
            return compiled(x.contiguous().to(device)).cpu()

    return run


def records(path: Path) -> list[str]:
    """The names of a model file's records, without the folder at the top; none for no zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile:
        return []


def kind(path: Path) -> str:
    """What a file is, by its content: one of the four above, or "" for none of them."""
    names = records(path)
    if any(name.startswith("data/aotinductor/") for name in names):
        return PACKAGE
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return PROGRAM
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return TORCHSCRIPT
    return WEIGHTS if "data.pkl" in names or is_old(path) else ""


def is_old(path: Path) -> bool:
    """Whether a file is what torch.save wrote before PyTorch 1.6, as the book's weights are.

    It is no archive, but several pickles in a row, of which the first is a known number.
    """
    mark = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
    with path.open("rb") as lines:
        return lines.read(len(mark)) == mark


def read_record(path: Path, name: str) -> bytes | None:
    """A record of a model file, by its name below the top folder; None if it is not there."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.partition("/")[2] == name:
                return archive.read(entry)
    return None


def read_settings(path: Path) -> Settings | None:
    """The settings inside a model file; None if it has none. Raises ValueError if broken."""
    record = read_record(path, f"extra/{SETTINGS}")
    if record is None:
        return None
    try:
        found = json.loads(record)
        return Settings(**{name: _tuple(value) for name, value in found.items()})
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: the settings in {SETTINGS} are broken: {error}") from error


def _tuple(value: object) -> object:
    """The value, or a tuple in place of a list, which JSON has alone."""
    return tuple(value) if isinstance(value, list) else value
