#!/usr/bin/env python3
"""Compare torchherd with other servers and with what a server cannot be faster than.

  compare.py run      measure everything, write the results, and the page from them
  compare.py page     write the page anew from the results of an earlier run

One server runs at a time. In each round every row has its turn, in an order that moves on from
round to round, so that a machine that grows slower is slower for all. `make bench` runs this.
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

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))

import argument_types
import files
import isolation
import machine
import measure
import page
import processes
import servers
import serving
import workload

ROOT = servers.ROOT


Named = TypeVar("Named", servers.Server | servers.Floor, workload.Regime)


class CompareError(Exception):
    """The comparison cannot be made. The text says what happened, to what, and what to do."""


class Comparison:
    """The rows, what was measured of them in which regimes, and which were left out and why."""

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

    def run(self, rounds: int, yardstick: servers.Server) -> None:
        """Measure every row in every round.

        Raises measure.MeasureError when the yardstick or a floor fails; another row that fails is
        left out from then on.
        """
        right = {}
        for regime in self.regimes:
            with measure.running(yardstick, regime, self.plan) as running:
                right[regime.name] = measure.answers(running, regime, self.plan)
        for number in range(rounds):
            for regime in self.regimes:
                for row in turn(self.rows, number):
                    if isinstance(row, servers.Floor):
                        self._floor(row, regime, number)
                    elif regime.name in row.regimes and row.name not in self.left_out:
                        self._server(row, regime, number, right[regime.name])

    def leave_out(self, name: str, reason: str) -> None:
        """Do not measure a row any more, and say why."""
        for folder in (self.plan.work, ROOT):
            # The page has no use for where they lie on this machine.
            reason = reason.replace(f"{folder}/", "")
        self.left_out[name] = reason
        tell(f"left out: {reason}")

    def _floor(self, row: servers.Floor, regime: workload.Regime, number: int) -> None:
        if row.regime == regime.name:
            for load in measure.floor(row, regime, self.plan, number):
                self._keep(load)

    def _server(
        self, row: servers.Server, regime: workload.Regime, number: int, right: dict[str, bytes]
    ) -> None:
        try:
            with measure.running(row, regime, self.plan) as running:
                ours = measure.answers(running, regime, self.plan)
                decibels = measure.check(ours, right, row)
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
        who = "open loop" if load.open else f"{load.clients} clients" if load.clients else "floor"
        failed = f", {load.failed} failed" if load.failed else ""
        tell(
            f"round {load.round + 1}  {load.regime:8}  {load.row:19} {load.picture:6} {who:12} "
            f"{load.rate:8.1f} pictures/s{failed}"
        )


def turn(
    rows: Sequence[servers.Server | servers.Floor], number: int
) -> list[servers.Server | servers.Floor]:
    """The rows in the order of a round: each round begins with another one."""
    first = number % len(rows)
    return [*rows[first:], *rows[:first]]


def tell(line: str) -> None:
    """Say how far the run is, on stderr."""
    print(line, file=sys.stderr, flush=True)


def run(args: argparse.Namespace, not_isolated: str) -> dict[str, object]:
    """Measure what the arguments ask for. Gives the results, ready for JSON.

    not_isolated is why this process has no network of its own, or empty. Raises CompareError,
    measure.MeasureError or workload.WorkloadError.
    """
    processes.adopt_orphans()
    # So that a run that is told to stop ends the server that it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("compare.py: told to stop"))
    cores = machine.cores()
    every = servers.servers(cores, args.peers_python, args.demo)
    rows = choose(args.only, [*every, *servers.floors(cores)], "row")
    regimes = choose(args.regimes, list(workload.REGIMES), "regime")
    workload.make_pictures(args.work)
    comparison = Comparison(rows, regimes, measure.Plan(args.work, args.seconds))
    if not_isolated:
        for row in rows:
            if isinstance(row, servers.Server) and row.isolated:
                comparison.leave_out(row.name, f"{row.name}: {not_isolated}")
    begun = datetime.now(UTC)
    comparison.run(args.rounds, every[0])
    return {
        "began": begun.isoformat(timespec="minutes"),
        "took_minutes": (datetime.now(UTC) - begun).total_seconds() / 60,
        "command": command(args),
        "seconds": args.seconds,
        "rounds": args.rounds,
        "machine": machine.describe(),
        "versions": machine.versions(args.peers_python, every),
        "regimes": [dataclasses.asdict(regime) for regime in regimes],
        "picture_bytes": {
            each.name: each.path(args.work).stat().st_size for each in workload.PICTURES
        },
        "rows": [describe(row) for row in rows],
        "left_out": comparison.left_out,
        "loads": [dataclasses.asdict(load) for load in comparison.loads],
        "starts": [dataclasses.asdict(start) for start in comparison.starts],
    }


def command(args: argparse.Namespace) -> str:
    """The make command that does what the arguments ask for."""
    words = [f"BENCH_SECONDS={args.seconds}", f"BENCH_ROUNDS={args.rounds}"]
    words += [f"BENCH_ONLY={args.only}"] * bool(args.only)
    words += [f"BENCH_REGIMES={args.regimes}"] * bool(args.regimes)
    words += ["DEMO=..."] * bool(args.demo)
    return " ".join(["make", "bench", *words])


def describe(row: servers.Server | servers.Floor) -> dict[str, object]:
    """A row for the page: its name, what it is, and its settings, free of this machine's paths."""
    environment = row.environment if isinstance(row, servers.Server) else {}
    settings = [f"{name}={value}" for name, value in environment.items()]
    return {
        "name": row.name,
        "about": row.about,
        "floor": isinstance(row, servers.Floor),
        "settings": " ".join(_plain(word) for word in [*settings, *row.command]),
    }


def _plain(word: str) -> str:
    """A word of a command without a path that only this machine has."""
    path = Path(word).resolve()
    if "/" not in word or not path.exists():
        return word
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else Path(word).name


def choose(only: str, rows: list[Named], what: str) -> list[Named]:
    """The rows whose names a user asked for, or all. Raises CompareError for an unknown name."""
    wanted = [name for name in only.split(",") if name]
    names = [row.name for row in rows]
    for name in wanted:
        if name not in names:
            raise CompareError(f"no {what} is called {name}; there are: {', '.join(names)}")
    return [row for row in rows if row.name in wanted or not wanted]


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, or exit with status 2 and a usage line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "page"))
    whole = argument_types.at_least_one
    parser.add_argument("--seconds", type=whole, default=2, help="of a load; default: 2")
    parser.add_argument("--rounds", type=whole, default=3, help="default: 3")
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
        help="the Sanic demo, a program with bench/reference.py's flags, measured in its place",
    )
    parser.add_argument(
        "--peers-python",
        default=sys.executable,
        metavar="PYTHON",
        help="the interpreter that has bench/requirements.txt; default: this one",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "bench",
        metavar="FOLDER",
        help="for pictures, models and logs; default: build/bench",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "docs",
        metavar="FOLDER",
        help="gets benchmarks.md, and benchmarks/ with results.json and the plots; default: docs",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status: 0, or 1 with one line on stderr."""
    args = parse(arguments)
    results_file = args.out / "benchmarks" / "results.json"
    try:
        if args.what == "run":
            # Does not come back where it can be done.
            reason = "" if isolation.isolated() else isolation.enter([__file__, *arguments])
            results = run(args, reason)
            files.write_whole(results_file, (json.dumps(results, indent=1) + "\n").encode())
        page.write(json.loads(results_file.read_text()), args.out)
    except (
        CompareError,
        measure.MeasureError,
        serving.ServingError,
        workload.WorkloadError,
        OSError,
    ) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
