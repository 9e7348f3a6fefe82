"""The targets of torchherd, and whether a run meets them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torchherd_tools.bench import servers, spread
from torchherd_tools.bench.results import BASELINE, Cell, Results
from torchherd_tools.bench.spread import Spread

# The most clients in the comparison, and in all loads.
CLIENTS, MANY_CLIENTS = 16, 512
PEERS = ("mosec", "litserve", "bentoml", "ray", "torchserve", "fastapi")
DEMOS = ("demo", "demo-tuned", "reference", "reference-tuned")


@dataclass(frozen=True)
class Target:
    """A figure of a run, and its lower or upper bound."""

    what: str
    bound: float
    measure: Callable[[Results], Spread | None]
    at_most: bool = False
    unit: str = ""

    def line(self, results: Results) -> list[str] | None:
        """Return a row of the table; None if the run did not measure the figure."""
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
    """Return the page's section on targets; empty if none of them was measured."""
    lines = [line for target in _targets() if (line := target.line(results)) is not None]
    if not lines:
        return ""
    rows = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        "## Targets\n\n"
        f"Ratios are with {CLIENTS} clients unless stated otherwise: the median over the rounds,\n"
        "with the minimum and maximum.\n\n"
        f"| | target | measured | met |\n| --- | --- | --- | --- |\n{rows}"
    )


def _targets() -> Iterator[Target]:
    for image, to_floor, to_peer, to_demo in (
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
                f"negating, {image}: over {what}",
                bound,
                lambda r, p=image, b=bases: _overhead(r, BASELINE, p, b),
            )
    yield Target(
        "negating, large, `--jpeg-scale`: over the best peer",
        3.0,
        lambda r: _overhead(r, "torchherd-scaled", "large", PEERS),
    )
    for row, bound, base, what in (
        (BASELINE, 0.98, "forward-kept", "LibTorch alone, with the same allocator"),
        (BASELINE, 1.10, "python-torchscript", "PyTorch's own TorchScript loop"),
        ("torchherd-pt2", 1.15, "python-eager", "PyTorch eager"),
        ("torchherd-bf16", 2.1, "python-eager", "PyTorch eager in float32"),
        ("torchherd-pt2-bf16", 2.1, "python-eager", "PyTorch eager in float32"),
    ):
        yield Target(
            f"CycleGAN, {row}: over {what}", bound, lambda r, o=row, b=base: _compute(r, o, b)
        )
    for image in ("small", "medium", "large"):
        yield Target(
            f"negating, {image}, 1 client: above decode, model and encode alone",
            1.0,
            lambda r, p=image: _lone(r, p),
            at_most=True,
            unit=" ms",
        )
    yield Target("negating: start to the first good response", 1.0, _start, at_most=True, unit=" s")
    yield Target("negating: memory over the demo's", 0.25, _memory, at_most=True)
    for image in ("small", "medium", "large"):
        yield Target(
            f"negating, {image}, open loop at 70 %: p99 over p50",
            3.0,
            lambda r, p=image: _tail(r, p),
            at_most=True,
        )
    yield Target(f"negating, medium: {MANY_CLIENTS} clients over {CLIENTS}", 0.95, _kept)


def _overhead(results: Results, row: str, image: str, bases: tuple[str, ...]) -> Spread | None:
    """Return a row's rate over that of the best base."""
    cell = Cell(servers.OVERHEAD, image, CLIENTS)
    alone = Cell(servers.OVERHEAD, image, 0)
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


def _lone(results: Results, image: str) -> Spread | None:
    served = results.by_round(BASELINE, Cell(servers.OVERHEAD, image, 1), "p50")
    bare = results.by_round("lone", Cell(servers.OVERHEAD, image, 0), "p50")
    return spread.spread([served[n] - bare[n] for n in served if n in bare])


def _start(results: Results) -> Spread | None:
    return spread.spread(results.starts(BASELINE, servers.OVERHEAD, "seconds"))


def _memory(results: Results) -> Spread | None:
    ours = results.starts(BASELINE, servers.OVERHEAD, "memory")
    for demo in DEMOS:
        if theirs := results.starts(demo, servers.OVERHEAD, "memory"):
            base = spread.spread(theirs)
            return spread.spread([each / base.median for each in ours])
    return None


def _tail(results: Results, image: str) -> Spread | None:
    cell = Cell(servers.OVERHEAD, image, 0, open=True)
    p99, p50 = (results.by_round(BASELINE, cell, figure) for figure in ("p99", "p50"))
    return spread.ratio(p99, p50)


def _kept(results: Results) -> Spread | None:
    many, few = (Cell(servers.OVERHEAD, "medium", n) for n in (MANY_CLIENTS, CLIENTS))
    return results.ratio(BASELINE, many, BASELINE, few)
