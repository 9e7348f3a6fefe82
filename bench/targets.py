"""What torchherd is to reach, and whether a run shows that it does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import servers
import spread
from results import YARDSTICK, Cell, Results
from spread import Spread

# The widest load of the comparison, and the widest of all.
CLIENTS, MANY_CLIENTS = 16, 512
PEERS = ("mosec", "litserve", "bentoml", "ray", "torchserve", "fastapi")
DEMOS = ("demo", "demo-tuned", "reference", "reference-tuned")


@dataclass(frozen=True)
class Target:
    """A figure that a run gives, and the bound that it is to keep: at least, or at most."""

    what: str
    bound: float
    measure: Callable[[Results], Spread | None]
    at_most: bool = False
    unit: str = ""

    def line(self, results: Results) -> list[str] | None:
        """A row of the table; None when the run did not measure it."""
        figure = self.measure(results)
        if figure is None:
            return None
        reached = figure.median <= self.bound if self.at_most else figure.median >= self.bound
        return [
            self.what,
            f"{'at most' if self.at_most else 'at least'} {self.bound:g}{self.unit}",
            f"{figure.median:.2f} ({figure.least:.2f}..{figure.greatest:.2f}){self.unit}",
            "yes" if reached else "**no**",
        ]


def section(results: Results) -> str:
    """The page's section on targets; empty when nothing of them was measured."""
    lines = [line for target in _targets() if (line := target.line(results)) is not None]
    if not lines:
        return ""
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        "## What torchherd is to reach\n\n"
        f"Ratios with {CLIENTS} clients, unless another number stands there; medians of the\n"
        "rounds' ratios, with the least and the greatest.\n\n"
        f"| | wanted | measured | reached |\n| --- | --- | --- | --- |\n{rows}"
    )


def _targets() -> Iterator[Target]:
    for picture, to_floor, to_peer, to_demo in (
        ("small", 0.35, 2.4, 5.5),
        ("medium", 0.70, 2.1, 4.5),
        ("large", 0.80, 1.7, 3.3),
    ):
        for what, bound, bases in (
            ("the codec floor", to_floor, ("codec",)),
            ("the best peer", to_peer, PEERS),
            ("the demo at its best", to_demo, DEMOS),
        ):
            yield Target(
                f"negating, {picture}: over {what}",
                bound,
                lambda r, p=picture, b=bases: _overhead(r, YARDSTICK, p, b),
            )
    yield Target(
        "negating, large, `--jpeg-scale`: over the best peer",
        3.0,
        lambda r: _overhead(r, "torchherd-scaled", "large", PEERS),
    )
    for row, bound, base, what in (
        (YARDSTICK, 0.98, "forward-kept", "LibTorch alone, likewise allocated"),
        (YARDSTICK, 1.10, "python-torchscript", "PyTorch's own TorchScript loop"),
        ("torchherd-pt2", 1.15, "python-eager", "PyTorch eager"),
        ("torchherd-bf16", 2.1, "python-eager", "PyTorch eager in float32"),
        ("torchherd-pt2-bf16", 2.1, "python-eager", "PyTorch eager in float32"),
    ):
        yield Target(
            f"CycleGAN, {row}: over {what}", bound, lambda r, o=row, b=base: _compute(r, o, b)
        )
    for picture in ("small", "medium", "large"):
        yield Target(
            f"negating, {picture}, 1 client: above decode, model and encode alone",
            1.0,
            lambda r, p=picture: _lone(r, p),
            at_most=True,
            unit=" ms",
        )
    yield Target("negating: start to the first good answer", 1.0, _start, at_most=True, unit=" s")
    yield Target("negating: memory, of the demo's", 0.25, _memory, at_most=True)
    for picture in ("small", "medium", "large"):
        yield Target(
            f"negating, {picture}, open loop at 70 %: p99 over p50",
            3.0,
            lambda r, p=picture: _tail(r, p),
            at_most=True,
        )
    yield Target(f"negating, medium: {MANY_CLIENTS} clients over {CLIENTS}", 0.95, _kept)


def _overhead(results: Results, row: str, picture: str, bases: tuple[str, ...]) -> Spread | None:
    """A row's rate over the best of the bases."""
    cell = Cell(servers.OVERHEAD, picture, CLIENTS)
    alone = Cell(servers.OVERHEAD, picture, 0)
    rated = [
        (figure.median, base, where)
        for base in bases
        for where in (cell, alone)
        if (figure := results.figure(base, where)) is not None
    ]
    if not rated:
        return None
    _, best, where = max(rated, key=lambda each: each[0])
    return results.ratio(row, cell, best, where)


def _compute(results: Results, row: str, base: str) -> Spread | None:
    regime = results.regime(servers.COMPUTE)
    if regime is None:
        return None
    cell = Cell(servers.COMPUTE, regime["pictures"][0]["name"], CLIENTS)
    return results.ratio(row, cell, base, Cell(servers.COMPUTE, "", 0))


def _lone(results: Results, picture: str) -> Spread | None:
    served = results.by_round(YARDSTICK, Cell(servers.OVERHEAD, picture, 1), "p50")
    bare = results.by_round("lone", Cell(servers.OVERHEAD, picture, 0), "p50")
    return spread.spread([served[n] - bare[n] for n in served if n in bare])


def _start(results: Results) -> Spread | None:
    return spread.spread(results.starts(YARDSTICK, servers.OVERHEAD, "seconds"))


def _memory(results: Results) -> Spread | None:
    ours = results.starts(YARDSTICK, servers.OVERHEAD, "memory")
    for demo in DEMOS:
        if theirs := results.starts(demo, servers.OVERHEAD, "memory"):
            base = spread.spread(theirs)
            return spread.spread([each / base.median for each in ours])
    return None


def _tail(results: Results, picture: str) -> Spread | None:
    cell = Cell(servers.OVERHEAD, picture, 0, open=True)
    p99, p50 = (results.by_round(YARDSTICK, cell, figure) for figure in ("p99", "p50"))
    return spread.ratio(p99, p50)


def _kept(results: Results) -> Spread | None:
    many, few = (Cell(servers.OVERHEAD, "medium", n) for n in (MANY_CLIENTS, CLIENTS))
    return results.ratio(YARDSTICK, many, YARDSTICK, few)
