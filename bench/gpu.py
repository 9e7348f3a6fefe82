#!/usr/bin/env python3
"""How much of a GPU torchherd uses: the bare forward, the bare codec and the whole server.

Prints a table and writes JSON. Three rates stand beside each other, in pictures a second:

- the forward alone, by the benchmark of torch/, and the share that it is of the card's matrix rate,
  which is measured here too;
- the codec alone, on all cores: a JPEG of 640x640 decoded and resized to what the model takes, and
  such a picture encoded;
- the server, asked by `torchherd bench` on the same machine, and the share that it is of the lower
  of the two. The load generator takes its part of the cores.

scripts/gpu_check.sh runs this; it needs a GPU, and programs built for this machine.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))

import files
import machine
import serving

ROOT = Path(__file__).resolve().parent.parent

# Products and sums of the published generator for a picture of 228x228, without its norms.
FLOP_PER_PICTURE = 78.6e9
SIDE = 228
SENT_SIDE = 640
BATCHES = (4, 8, 16, 32)
PHOTOGRAPH = ROOT / "testdata" / "pictures" / "jpeg-large.jpg"
# What is hoped for on one card of NVIDIA's Hopper kind with 16 cores.
WANTED_OF_MATRIX = 0.5
WANTED_OF_FLOORS = 0.8
MATRIX_SIDE = 8192
MATRIX_ROUNDS = 10
MATRIX_PRODUCTS = 10
START_SECONDS = 300
WARM_UP_SECONDS = 2
CLIENTS_PER_PICTURE = 4
# Those of torchherd bench that come with figures: all is well, no answer was good, it fell behind.
LOAD_STATUSES = (0, 1, 3)
_RESULT = re.compile(
    r"BenchmarkCUDAForward/model=([^/]+)/precision=(\w+)/graphs=(true|false)/batch=(\d+)\S*\s"
    r".*?([\d.e+]+) pictures/s"
)


class GPUError(Exception):
    """It cannot be measured. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Row:
    """A way to run the model: the file, the flags of `torchherd serve`, and whether by graphs."""

    name: str
    model: Path
    flags: tuple[str, ...]
    graphs: bool


@dataclass
class Measured:
    """A row at one batch size. Rates are in pictures a second; shares are of 1."""

    row: str
    batch: int
    forward: float
    of_matrix: float
    end_to_end: float
    of_floors: float
    failed: int
    behind: str


def rows(model: Path, packages: Sequence[Path]) -> list[Row]:
    """What is measured: TorchScript in bfloat16 and each package, without graphs and with."""
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
    """The card's rate of bfloat16 matrix products in FLOP/s: the best of several rounds."""
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
    """Pictures a second of the bare forward, by the file's name, graphs and the batch size."""
    command = [
        *(args.programs / "torch.test", "-test.run", "^$", "-test.timeout", "20m"),
        *("-test.bench", "CUDAForward/./precision=(bf16|compiled)", "-test.benchtime", "2s"),
        *("-model", args.model.resolve()),
        *("-packages", ",".join(str(path.resolve()) for path in args.packages)),
    ]
    told = output(command, cwd=ROOT / "torch")
    found = {
        (name, graphs == "true", int(batch)): float(rate)
        for name, _, graphs, batch, rate in _RESULT.findall(told)
    }
    if not found:
        raise GPUError(f"{shlex.join(map(str, command))}: no benchmark ran: {told.strip()[-300:]}")
    return found


def codec_rate(floors: Path, picture: Path, cores: int, seconds: int) -> float:
    """Pictures a second that all cores decode and encode, with nothing else to do."""
    command = [
        *(floors, "codec", "--threads", str(cores), "--seconds", str(seconds)),
        *("--size", f"{SIDE}x{SIDE}", picture),
    ]
    return json.loads(output(command))["pictures_per_second"]


def end_to_end(row: Row, batch: int, args: argparse.Namespace, picture: Path) -> dict:
    """What `torchherd bench` says of a server that runs a row at a batch size."""
    torchherd = str(args.programs / "torchherd")
    serve = [
        *(torchherd, "serve", "--device", "cuda:0", "--listen", "127.0.0.1:{port}"),
        *("--admin-listen", "off"),
        *("--max-batch-size", str(batch), "--max-queue-size", str(CLIENTS_PER_PICTURE * batch)),
        *("--max-wait", "5ms", "--log-level", "error", *row.flags, str(row.model.resolve())),
    ]
    with serving.started(shlex.join(serve), START_SECONDS) as url:
        serving.await_answer(url, picture.read_bytes(), START_SECONDS)
        bench = [
            *(torchherd, "bench", url, "--picture", picture, "--json", "-", "--quiet"),
            *("--clients", str(CLIENTS_PER_PICTURE * batch), "--duration", f"{args.seconds}s"),
            *("--warm-up", f"{WARM_UP_SECONDS}s"),
        ]
        return json.loads(output(bench, LOAD_STATUSES))


def output(command: Sequence[object], statuses: Sequence[int] = (0,), cwd: Path = ROOT) -> str:
    """What a command prints. Raises GPUError when it ends with none of the statuses."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    except OSError as error:
        raise GPUError(f"{words[0]}: {error.strerror}; scripts/gpu_check.sh builds it") from error
    if done.returncode not in statuses:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise GPUError(f"{shlex.join(words)}: status {done.returncode}: {last}")
    return done.stdout


def make_picture(folder: Path) -> Path:
    """The JPEG that is sent."""
    path = folder / f"sent-{SENT_SIDE}.jpg"
    size = (SENT_SIDE, SENT_SIDE)
    ImageOps.fit(Image.open(PHOTOGRAPH).convert("RGB"), size).save(path, "JPEG", quality=90)
    return path


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Measure everything. Gives the results, ready for JSON. Raises GPUError or ServingError."""
    if not torch.cuda.is_available():
        raise GPUError("PyTorch finds no GPU here; this measures one")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture = make_picture(args.out.parent)
    cores = machine.cores()
    matrix = matrix_rate()
    # The card's memory is the server's now.
    torch.cuda.empty_cache()
    forward = forward_rates(args)
    codec = codec_rate(args.floors, picture, cores, args.seconds)
    measured = []
    for row in rows(args.model, args.packages):
        for batch in BATCHES:
            bare = forward.get((row.model.name, row.graphs, batch))
            if bare is None:
                raise GPUError(
                    f"{row.name}, batch {batch}: the benchmark of the forward skipped it"
                )
            told = end_to_end(row, batch, args, picture)
            measured.append(
                Measured(
                    row=row.name,
                    batch=batch,
                    forward=bare,
                    of_matrix=bare * FLOP_PER_PICTURE / matrix,
                    end_to_end=told["goodput"],
                    of_floors=told["goodput"] / min(bare, codec),
                    failed=told["requests"] - told["good"],
                    behind=told["behind"]["why"],
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
    """The results as text."""
    lines = [
        f"{results['card']}, PyTorch {results['pytorch']}, {results['machine']['cores']} cores",
        f"bf16 matrix products: {results['matrix_flop_per_second'] / 1e12:.0f} TFLOP/s",
        f"codec alone: {results['codec']:.0f} pictures/s",
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
        lines.append(f"best {name.replace('_', ' ')}: {best:.2f}, wanted {wanted:.2f}")
    return "\n".join(lines)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--programs",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="where torchherd and torch.test lie",
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
        help="the same compiled for this card, for batches of 1 to 32 of 228x228",
    )
    parser.add_argument("--seconds", type=int, default=5, help="of each load; default: 5")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        results = measure(args)
        files.write_whole(args.out, (json.dumps(results, indent=1) + "\n").encode())
    except (GPUError, serving.ServingError, OSError) as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 1
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
