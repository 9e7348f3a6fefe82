"""Compare torchherd with other servers, and with floors: loops that no server can exceed.

  bench run      measure all rows, and write the results and the page
  bench page     write the page again from the results of an earlier run

One server runs at a time. Each round measures every row, in an order that rotates from round to
round, so that a machine that becomes slower is slower for all rows. `make bench` runs this.
"""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from torchherd_tools import command, files, paths, serving
from torchherd_tools.bench import isolation, machine, measure, page, processes, servers, workload
from torchherd_tools.errors import ToolError

Named = TypeVar("Named", servers.Server | servers.Floor, workload.Regime)


class ComparisonError(ToolError):
    """The comparison cannot be made."""


class Comparison:
    """The rows and regimes, their measurements, and the rows left out with the reasons."""

    def __init__(
        self,
        rows: list[servers.Server | servers.Floor],
        regimes: list[workload.Regime],
        plan: measure.Plan,
    ) -> None:
        self.rows = rows
        self.regimes = regimes
        self.plan = plan
        self.loads: list[measure.Load] = []
        self.starts: list[measure.Start] = []
        self.left_out: dict[str, str] = {}

    def run(self, rounds: int, baseline: servers.Server) -> None:
        """Measure every row in every round.

        Raises measure.MeasureError if the baseline or a floor fails; another row that fails is left
        out from then on.
        """
        expected = {}
        for regime in self.regimes:
            with measure.running(baseline, regime, self.plan) as running:
                expected[regime.name] = measure.responses(running, regime, self.plan)
        for number in range(rounds):
            for regime in self.regimes:
                for row in rotated(self.rows, number):
                    if isinstance(row, servers.Floor):
                        self._floor(row, regime, number)
                    elif regime.name in row.regimes and row.name not in self.left_out:
                        self._server(row, regime, number, expected[regime.name])

    def leave_out(self, name: str, reason: str) -> None:
        """Stop measuring a row, and report the reason."""
        for folder in (self.plan.work, paths.root()):
            # The page does not show paths of this machine.
            reason = reason.replace(f"{folder}/", "")
        self.left_out[name] = reason
        log(f"left out: {reason}")

    def _floor(self, row: servers.Floor, regime: workload.Regime, number: int) -> None:
        if row.regime == regime.name:
            for load in measure.floor(row, regime, self.plan, number):
                self._keep(load)

    def _server(
        self, row: servers.Server, regime: workload.Regime, number: int, expected: dict[str, bytes]
    ) -> None:
        try:
            with measure.running(row, regime, self.plan) as running:
                ours = measure.responses(running, regime, self.plan)
                decibels = measure.check(ours, expected, row)
                seconds, memory = running.seconds, running.memory
                self.starts.append(
                    measure.Start(row.name, regime.name, number, seconds, memory, decibels)
                )
                for load in measure.loads(running, regime, self.plan, number):
                    self._keep(load)
        except (measure.MeasureError, serving.ServingError, workload.WorkloadError) as error:
            self.leave_out(row.name, str(error))

    def _keep(self, load: measure.Load) -> None:
        self.loads.append(load)
        kind = "open loop" if load.open else f"{load.clients} clients" if load.clients else "floor"
        failed = f", {load.failed} failed" if load.failed else ""
        log(
            f"round {load.round + 1}  {load.regime:8}  {load.row:19} {load.picture:6} {kind:12} "
            f"{load.rate:8.1f} images/s{failed}"
        )


def rotated(
    rows: Sequence[servers.Server | servers.Floor], number: int
) -> list[servers.Server | servers.Floor]:
    """Return the rows in the order of a round: each round starts with another row."""
    first = number % len(rows)
    return [*rows[first:], *rows[:first]]


def log(line: str) -> None:
    """Print the progress of the run to stderr."""
    print(line, file=sys.stderr, flush=True)


def run(args: argparse.Namespace, not_isolated: str) -> dict[str, object]:
    """Measure the rows that the arguments select, and return the results, ready for JSON.

    not_isolated is the reason why this process has no network namespace, or empty. Raises
    ComparisonError, measure.MeasureError or workload.WorkloadError.
    """
    processes.adopt_orphans()
    # SIGTERM raises SystemExit, so that the started server is stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: stopped by SIGTERM"))
    cores = machine.cores()
    every = servers.servers(cores, args.peers_python, args.demo)
    rows = choose(args.only, [*every, *servers.floors(cores)], "row")
    regimes = choose(args.regimes, list(workload.REGIMES), "regime")
    work = args.work or paths.root() / "build" / "bench"
    workload.make_images(work)
    comparison = Comparison(rows, regimes, measure.Plan(work, args.seconds))
    if not_isolated:
        for row in rows:
            if isinstance(row, servers.Server) and row.isolated:
                comparison.leave_out(row.name, f"{row.name}: {not_isolated}")
    start = datetime.now(UTC)
    comparison.run(args.rounds, every[0])
    return {
        "began": start.isoformat(timespec="minutes"),
        "took_minutes": (datetime.now(UTC) - start).total_seconds() / 60,
        "command": make_command(args),
        "seconds": args.seconds,
        "rounds": args.rounds,
        "machine": machine.describe(),
        "versions": machine.versions(args.peers_python, every),
        "regimes": [dataclasses.asdict(regime) for regime in regimes],
        "picture_bytes": {each.name: each.path(work).stat().st_size for each in workload.IMAGES},
        "rows": [describe(row) for row in rows],
        "left_out": comparison.left_out,
        "loads": [dataclasses.asdict(load) for load in comparison.loads],
        "starts": [dataclasses.asdict(start) for start in comparison.starts],
    }


def make_command(args: argparse.Namespace) -> str:
    """Return the make command with the effect of the arguments."""
    words = [f"BENCH_SECONDS={args.seconds}", f"BENCH_ROUNDS={args.rounds}"]
    words += [f"BENCH_ONLY={args.only}"] * bool(args.only)
    words += [f"BENCH_REGIMES={args.regimes}"] * bool(args.regimes)
    words += ["DEMO=..."] * bool(args.demo)
    return " ".join(["make", "bench", *words])


def describe(row: servers.Server | servers.Floor) -> dict[str, object]:
    """Describe a row for the page: name, description, and settings without local paths."""
    environment = row.environment if isinstance(row, servers.Server) else {}
    settings = [f"{name}={value}" for name, value in environment.items()]
    return {
        "name": row.name,
        "about": row.about,
        "floor": isinstance(row, servers.Floor),
        "settings": " ".join(_plain(word) for word in [*settings, *row.command]),
    }


def _plain(word: str) -> str:
    """Shorten a word of a command that is a path: relative to the checkout, or its name."""
    path, root = Path(word).resolve(), paths.root()
    if "/" not in word or not path.exists():
        return word
    return str(path.relative_to(root)) if path.is_relative_to(root) else Path(word).name


def choose(only: str, rows: list[Named], what: str) -> list[Named]:
    """Return the rows of these names, or all. Raises ComparisonError for an unknown name."""
    wanted = [name for name in only.split(",") if name]
    names = [row.name for row in rows]
    for name in wanted:
        if name not in names:
            raise ComparisonError(f"unknown {what} {name}; have: {', '.join(names)}")
    return [row for row in rows if row.name in wanted or not wanted]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line, or exit with status 2 and a usage line."""
    parser = command.parser("bench", __doc__)
    parser.add_argument("what", choices=("run", "page"))
    count = command.at_least_one
    parser.add_argument("--seconds", type=count, default=2, help="length of a load; default: 2")
    parser.add_argument("--rounds", type=count, default=3, help="default: 3")
    parser.add_argument(
        "--only", default="", metavar="NAME,...", help="rows to measure; default: all"
    )
    parser.add_argument(
        "--regimes", default="", metavar="NAME,...", help="overhead, compute; default: both"
    )
    parser.add_argument(
        "--demo",
        default="",
        metavar="COMMAND",
        help="the Sanic demo, a program with the flags of the command reference, which it replaces",
    )
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PYTHON",
        help="interpreter with tools/requirements-peers.txt; default: this one",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="for images, models and logs; default: build/bench",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for benchmarks.md, and benchmarks/ with results.json and plots; default: docs",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    try:
        out = args.out or paths.root() / "docs"
        results_file = out / "benchmarks" / "results.json"
        if args.what == "run":
            reason = ""
            if not isolation.isolated():
                # Returns only on failure.
                reason = isolation.enter(["-m", "torchherd_tools", "bench", *arguments])
            results = run(args, reason)
            files.write_whole(results_file, (json.dumps(results, indent=1) + "\n").encode())
        page.write(json.loads(results_file.read_text()), out)
    except (ToolError, OSError) as error:
        return command.failed("bench", error)
    return 0
