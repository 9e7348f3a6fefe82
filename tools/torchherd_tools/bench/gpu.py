"""Measure how much of a GPU torchherd uses: the forward alone, the codec alone, and the server.

Prints a table and writes JSON with three rates in images/s:

- the forward alone, measured by the benchmark of torch/, and its share of the card's rate of matrix
  products, which is measured here;
- the codec alone, on all cores: decode a JPEG of 640x640, resize it to the model's input, and
  encode an image of that size;
- the server, loaded by `torchherd bench` on the same machine, and its share of the lower of the
  other two. The load generator uses some of the cores.

scripts/gpu_check.sh runs this command. It needs a GPU, and programs built for this machine.
"""

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from torchherd_tools import command, files, paths, serving
from torchherd_tools.bench import machine
from torchherd_tools.errors import ToolError

# Multiplications and additions of the published generator for an image of 228x228, without norms.
FLOP_PER_IMAGE = 78.6e9
SIDE = 228
SENT_SIDE = 640
BATCHES = (4, 8, 16, 32)
# The targets on one card of NVIDIA's Hopper generation with 16 cores.
WANTED_OF_MATRIX = 0.5
WANTED_OF_FLOORS = 0.8
MATRIX_SIDE = 8192
MATRIX_ROUNDS = 10
MATRIX_PRODUCTS = 10
START_SECONDS = 300
WARM_UP_SECONDS = 2
CLIENTS_PER_IMAGE = 4
# The exit statuses of torchherd bench with results: ok, no good response, it fell behind.
LOAD_STATUSES = (0, 1, 3)
_RESULT = re.compile(
    r"BenchmarkCUDAForward/model=([^/]+)/precision=(\w+)/graphs=(true|false)/batch=(\d+)\S*\s"
    r".*?([\d.e+]+) (?:images|pictures)/s"
)


class GPUError(ToolError):
    """The GPU cannot be measured."""


@dataclass(frozen=True)
class Row:
    """A way to run the model: the file, the flags of `torchherd serve`, and CUDA graphs or not."""

    name: str
    model: Path
    flags: tuple[str, ...]
    graphs: bool


@dataclass
class Measured:
    """The result of a row at one batch size. Rates are in images/s; shares are of 1."""

    row: str
    batch: int
    forward: float
    of_matrix: float
    end_to_end: float
    of_floors: float
    failed: int
    behind: str


def rows(model: Path, packages: Sequence[Path]) -> list[Row]:
    """Return all rows: TorchScript in bfloat16 and each package, without graphs and with."""
    found = []
    for graphs in (False, True):
        flags = ("--cuda-graphs",) if graphs else ()
        ending = ", graphs" if graphs else ""
        found.append(
            Row(f"TorchScript bf16{ending}", model, ("--precision", "bf16", *flags), graphs)
        )
        found += [Row(f"{path.name}{ending}", path, flags, graphs) for path in packages]
    return found


def matrix_rate() -> float:
    """Return the card's rate of bfloat16 matrix products in FLOP/s, the best of several rounds."""
    left, right = (
        torch.randn(MATRIX_SIDE, MATRIX_SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    )
    best = float("inf")
    for _ in range(MATRIX_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(MATRIX_PRODUCTS):
            torch.matmul(left, right)
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1000 / MATRIX_PRODUCTS)
    return 2 * MATRIX_SIDE**3 / best


def forward_rates(args: argparse.Namespace) -> dict[tuple[str, bool, int], float]:
    """Return the images/s of the forward alone, by file name, graphs and batch size."""
    words = [
        *(args.programs / "torch.test", "-test.run", "^$", "-test.timeout", "20m"),
        *("-test.bench", "CUDAForward/./precision=(bf16|compiled)", "-test.benchtime", "2s"),
        *("-model", args.model.resolve()),
        *("-packages", ",".join(str(path.resolve()) for path in args.packages)),
    ]
    text = output(words, cwd=paths.root() / "torch")
    found = {
        (name, graphs == "true", int(batch)): float(rate)
        for name, _, graphs, batch, rate in _RESULT.findall(text)
    }
    if not found:
        raise GPUError(f"{shlex.join(map(str, words))}: no benchmark ran: {text.strip()[-300:]}")
    return found


def codec_rate(floors: Path, image: Path, cores: int, seconds: int) -> float:
    """Return the images/s that all cores decode and encode, without other work."""
    words = [
        *(floors, "codec", "--threads", str(cores), "--seconds", str(seconds)),
        *("--size", f"{SIDE}x{SIDE}", image),
    ]
    return json.loads(output(words))["pictures_per_second"]


def end_to_end(row: Row, batch: int, args: argparse.Namespace, image: Path) -> dict:
    """Return the results of `torchherd bench` for a server that runs a row at a batch size."""
    torchherd = str(args.programs / "torchherd")
    serve = [
        *(torchherd, "serve", "--device", "cuda:0", "--listen", "127.0.0.1:{port}"),
        *("--admin-listen", "off"),
        *("--max-batch-size", str(batch), "--max-queue-size", str(CLIENTS_PER_IMAGE * batch)),
        *("--max-wait", "5ms", "--log-level", "error", *row.flags, str(row.model.resolve())),
    ]
    with serving.started(shlex.join(serve), START_SECONDS) as url:
        serving.wait_until_serving(url, image.read_bytes(), START_SECONDS)
        bench = [
            *(torchherd, "bench", url, "--picture", image, "--json", "-", "--quiet"),
            *("--clients", str(CLIENTS_PER_IMAGE * batch), "--duration", f"{args.seconds}s"),
            *("--warm-up", f"{WARM_UP_SECONDS}s"),
        ]
        return json.loads(output(bench, LOAD_STATUSES))


def output(
    command: Sequence[object], statuses: Sequence[int] = (0,), cwd: Path | None = None
) -> str:
    """Return the output of a command. Raises GPUError if it exits with another status."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    except OSError as error:
        raise GPUError(f"{words[0]}: {error.strerror}; build it by scripts/gpu_check.sh") from error
    if done.returncode not in statuses:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise GPUError(f"{shlex.join(words)}: status {done.returncode}: {last}")
    return done.stdout


def make_image(folder: Path) -> Path:
    """Write the JPEG to send, and return its path."""
    path = folder / f"sent-{SENT_SIDE}.jpg"
    photograph = Image.open(paths.testdata() / "pictures" / "jpeg-large.jpg").convert("RGB")
    ImageOps.fit(photograph, (SENT_SIDE, SENT_SIDE)).save(path, "JPEG", quality=90)
    return path


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Measure all rows, and return the results, ready for JSON.

    Raises GPUError or ServingError.
    """
    if not torch.cuda.is_available():
        raise GPUError("PyTorch finds no GPU; this command measures one")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    image = make_image(args.out.parent)
    cores = machine.cores()
    matrix = matrix_rate()
    # Frees the card's memory for the server.
    torch.cuda.empty_cache()
    forward = forward_rates(args)
    codec = codec_rate(args.floors, image, cores, args.seconds)
    measured = []
    for row in rows(args.model, args.packages):
        for batch in BATCHES:
            bare = forward.get((row.model.name, row.graphs, batch))
            if bare is None:
                raise GPUError(
                    f"{row.name}, batch {batch}: the benchmark of the forward skipped it"
                )
            result = end_to_end(row, batch, args, image)
            measured.append(
                Measured(
                    row=row.name,
                    batch=batch,
                    forward=bare,
                    of_matrix=bare * FLOP_PER_IMAGE / matrix,
                    end_to_end=result["goodput"],
                    of_floors=result["goodput"] / min(bare, codec),
                    failed=result["requests"] - result["good"],
                    behind=result["behind"]["why"],
                )
            )
    return {
        "card": torch.cuda.get_device_name(0),
        "pytorch": torch.__version__,
        "machine": machine.describe(),
        "matrix_flop_per_second": matrix,
        "codec": codec,
        "sent": f"{SENT_SIDE}x{SENT_SIDE}",
        "computed": f"{SIDE}x{SIDE}",
        "rows": [asdict(each) for each in measured],
    }


def table(results: dict) -> str:
    """Format the results as text."""
    lines = [
        f"{results['card']}, PyTorch {results['pytorch']}, {results['machine']['cores']} cores",
        f"bf16 matrix products: {results['matrix_flop_per_second'] / 1e12:.0f} TFLOP/s",
        f"codec alone: {results['codec']:.0f} images/s",
        "",
        f"{'':28} {'batch':>5} {'forward':>9} {'of matrix':>9} {'server':>9} {'of floors':>9}",
    ]
    for row in results["rows"]:
        remarks = f"  {row['failed']} failed" if row["failed"] else ""
        remarks += f"  load generator: {row['behind']}" if row["behind"] else ""
        lines.append(
            f"{row['row']:28} {row['batch']:5} {row['forward']:9.0f} {row['of_matrix']:9.2f} "
            f"{row['end_to_end']:9.0f} {row['of_floors']:9.2f}{remarks}"
        )
    for name, wanted in (("of_matrix", WANTED_OF_MATRIX), ("of_floors", WANTED_OF_FLOORS)):
        best = max(row[name] for row in results["rows"])
        lines.append(f"best {name.replace('_', ' ')}: {best:.2f}, target {wanted:.2f}")
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("gpu", __doc__)
    parser.add_argument(
        "--programs",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the folder with torchherd and torch.test",
    )
    parser.add_argument("--floors", type=Path, required=True, metavar="PROGRAM")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FILE.pt", help="the published generator"
    )
    parser.add_argument(
        "--packages",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE.pt2",
        help="the generator compiled for this card, for batches of 1 to 32 of 228x228",
    )
    parser.add_argument("--seconds", type=int, default=5, help="length of a load; default: 5")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        results = measure(args)
        files.write_whole(args.out, (json.dumps(results, indent=1) + "\n").encode())
    except (ToolError, OSError) as error:
        return command.failed("gpu", error)
    print(table(results))
    return 0
