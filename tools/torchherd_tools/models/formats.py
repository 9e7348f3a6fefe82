"""Model files: write, read and recognize TorchScript and AOTInductor packages.

Both are zip archives with one top-level folder. torchherd adds one record to that folder's extra/,
where PyTorch keeps what is not its own: Settings, as JSON.
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
# Further settings of a server, which override those of the record.
MODEL_YAML = "model.yaml"

TORCHSCRIPT = "TorchScript"
PACKAGE = "AOTInductor package"
PROGRAM = "exported program"
WEIGHTS = "weights file"

_COMPILER = {
    # Line tables are for profilers, contain the compiler's paths, and are two thirds of a small
    # model's code.
    "aot_inductor.enable_line_tables": False,
    # With AOTI_RUNTIME_CHECK_INPUTS=1, a package checks batch bounds that are narrower than those
    # it was exported for: 2 to 15 for 1 to 16, since the compiler tries no others. The true bounds
    # are in the settings.
    "aot_inductor.check_lowerbound": False,
    "aot_inductor.check_upperbound": False,
}

# Records that the writer adds when it closes an archive.
_WRITERS_OWN = {"version", ".data/version", ".data/serialization_id"}


@dataclass(frozen=True)
class Settings:
    """Properties of a model that a server must know, and some for people.

    size is the size of the images, "WIDTHxHEIGHT" or "keep". range is that of the values in the
    input and output tensors; None leaves it to model.yaml. architecture and made_by are for people.
    precision is what the model computes in, "fp32", "bf16" or "fp16"; its input and output are
    float32.

    The other fields belong to a compiled package and are None for TorchScript, which leaves them
    open: input is the shape [C, H, W] of one item, batch the minimum and maximum number of items,
    and device "cpu" or "cuda".
    """

    size: str
    range: tuple[float, float] | None
    architecture: str
    made_by: str
    precision: str | None = None
    input: tuple[int, int, int] | None = None
    batch: tuple[int, int] | None = None
    device: str | None = None

    def to_json(self) -> bytes:
        """Return the record as JSON, without the fields that are None."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known, indent=1).encode()


@contextlib.contextmanager
def quiet_jit() -> Iterator[None]:
    """Silence two kinds of warning inside the block.

    They are torch.jit's deprecation notices, and the tracer's warnings about shape checks inside
    torch.nn, which a trace omits.
    """
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=category)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=r"torch\.nn\.")
        yield


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Return the TorchScript module of a file, on the CPU, in eval mode."""
    with quiet_jit():
        return torch.jit.load(str(path), map_location="cpu").eval()


def torchscript_bytes(
    module: torch.jit.ScriptModule,
    settings: Settings | None = None,
    extra_files: Mapping[str, str] | None = None,
) -> bytes:
    """Return a scripted or traced module as the bytes of a TorchScript file with these settings.

    extra_files are further files that torch.jit.save writes beside the module, by name.

    The same module and the same PyTorch give the same bytes. torch.jit.save alone does not: it
    names the archive after the file, unless it writes to memory, and it records source paths of
    this machine in .debug_pkl records, which are left out here. Without them, an error inside the
    model shows the module's TorchScript instead of this machine's Python.
    """
    full = io.BytesIO()
    with quiet_jit():
        torch.jit.save(module, full, _extra_files=dict(extra_files or {}))
    return _rewritten(full.getvalue(), _without_traces, settings)


def _rewritten(
    archive: bytes,
    change: Callable[[str, bytes], bytes | None],
    settings: Settings | None,
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Return the archive with settings, and with each record replaced by change(name, record).

    A record is left out if change returns None. extra_files are added, by name.
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
    for name, text in extra_files.items():
        record = text.encode()
        writer.write_record(f"extra/{name}", record, len(record))
    writer.write_end_of_file()
    return lean.getvalue()


def _without_traces(name: str, record: bytes) -> bytes | None:
    """Return a record of TorchScript, or None if it holds source paths."""
    return None if name.endswith(".debug_pkl") else record


def _without_sources(name: str, record: bytes) -> bytes:
    """Return a record of a package without paths of this machine.

    A record of generated C++ becomes empty; it must exist, since PyTorch 2.11 finds the package's
    metadata by its name. In compiled code, slashes of the same length replace the paths.
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
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Export a module, compile it by compile_program, and return the bytes of a .pt2 package."""
    program = export_program(copy.deepcopy(module).to(settings.device), settings)
    return compile_program(program, settings, freeze, options, extra_files)


def example(settings: Settings) -> Tensor:
    """Return noise in 0..1 of the input that settings state, of two items if the batch allows."""
    assert settings.input is not None and settings.batch is not None
    low, high = settings.batch
    # Export specializes a batch of one: it takes the size as constant.
    return torch.rand(min(max(low, 2), high), *settings.input, device=settings.device)


def export_program(module: torch.nn.Module, settings: Settings) -> torch.export.ExportedProgram:
    """Export a module, which is on the device in settings, for their input and batch."""
    assert settings.batch is not None
    low, high = settings.batch
    dynamic = None
    if low < high:
        dynamic = ({0: torch.export.Dim("batch", min=low, max=high)},)
    # The compiler freezes weights only without gradients.
    with torch.no_grad():
        return torch.export.export(module, (example(settings),), dynamic_shapes=dynamic)


def compile_program(
    program: torch.export.ExportedProgram,
    settings: Settings,
    freeze: bool = True,
    options: Mapping[str, object] = MappingProxyType({}),
    extra_files: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Compile a program by AOTInductor for this machine, and return the bytes of a .pt2 package.

    The settings hold the input, batch and device that it was exported for. With freeze, the weights
    lose their names and get the memory layout of the device's convolutions. options are passed on
    to the compiler. extra_files are written beside the settings, by name. The package has no C++
    sources and no paths of this machine.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        package = torch._inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder, "model.pt2")),
            inductor_configs={**_known(_COMPILER), **options, "freezing": freeze},
        )
        return _rewritten(Path(package).read_bytes(), _without_sources, settings, extra_files)


def _known(options: dict[str, bool]) -> dict[str, bool]:
    """Return the compiler options that this PyTorch has."""
    names = torch._inductor.config.get_config_copy()
    return {name: value for name, value in options.items() if name in names}


def load_package(path: Path, device: str = "cpu") -> Callable[[Tensor], Tensor]:
    """Load an AOTInductor package and return its model as a function.

    The function takes and returns tensors on the CPU, and runs on the device that the package was
    compiled for. On CUDA it computes in float32, not in TF32.
    """
    compiled = torch._inductor.aoti_load_package(str(path))

    def run(x: Tensor) -> Tensor:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # Compiled code ignores the strides of its input.
            return compiled(x.contiguous().to(device)).cpu()

    return run


def records(path: Path) -> list[str]:
    """Return the names of a file's records below the top folder; none if it is not a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile:
        return []


def kind(path: Path) -> str:
    """Return the kind of a file, one of the four above, by its content; "" if it is unknown."""
    names = records(path)
    if any(name.startswith("data/aotinductor/") for name in names):
        return PACKAGE
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return PROGRAM
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return TORCHSCRIPT
    return WEIGHTS if "data.pkl" in names or is_legacy(path) else ""


def is_legacy(path: Path) -> bool:
    """Report whether torch.save wrote a file before PyTorch 1.6, as it did the book's weights.

    Such a file is a sequence of pickles, the first of which is a magic number.
    """
    magic = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def read_record(path: Path, name: str) -> bytes | None:
    """Return a record of a model file by its name below the top folder; None if missing."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.partition("/")[2] == name:
                return archive.read(entry)
    return None


def read_settings(path: Path) -> Settings | None:
    """Return the settings inside a model file; None if it has none.

    Raises ValueError if they are invalid.
    """
    record = read_record(path, f"extra/{SETTINGS}")
    if record is None:
        return None
    try:
        found = json.loads(record)
        known = {name: _tuple(value) for name, value in found.items()}
        return Settings(**{"range": None, **known})
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: invalid settings in {SETTINGS}: {error}") from error


def _tuple(value: object) -> object:
    """Return the value, with a list, JSON's only sequence, converted to a tuple."""
    return tuple(value) if isinstance(value, list) else value
