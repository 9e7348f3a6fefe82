"""The plots of docs/benchmarks.md, as SVG that is readable on light and dark backgrounds."""

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from torchherd_tools import files
from torchherd_tools.bench import servers
from torchherd_tools.bench.results import BASELINE, Cell, Results

GREY = "#808080"
OTHERS = "#6f9fd8"
OWN = "#e07b39"
STYLE = {
    "font.size": 9,
    "svg.fonttype": "none",
    # Without a salt, ids inside the file are random.
    "svg.hashsalt": "torchherd",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), GREY),
    **dict.fromkeys(("xtick.color", "ytick.color"), GREY),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write(results: Results, folder: Path) -> list[str]:
    """Plot the results into a folder, and return the names of the files."""
    drawn = {
        "overhead.svg": _overhead,
        "latency.svg": _latency,
        "compute.svg": _compute,
    }
    written = []
    with matplotlib.rc_context(STYLE):
        for name, draw in drawn.items():
            figure = draw(results)
            if figure is not None:
                out = io.BytesIO()
                figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
                files.write_whole(folder / name, out.getvalue())
                written.append(name)
    return written


def _panels(count: int, rows: int) -> tuple[Figure, list[matplotlib.axes.Axes]]:
    size = (3.2 * count + 0.8, 0.6 + 0.26 * max(rows, 2))
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _bars(axes: matplotlib.axes.Axes, names: list[str], figures: list, text: list[str]) -> None:
    """Draw horizontal bars of medians, the first on top, with spreads as lines and texts."""
    middles = [each.median for each in figures]
    spreads = [
        [each.median - each.least for each in figures],
        [each.greatest - each.median for each in figures],
    ]
    places = range(len(names))
    axes.barh(places, middles, xerr=spreads, color=_colours(names), ecolor=GREY)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, each, label in zip(places, figures, text, strict=True):
        axes.annotate(
            label, (each.greatest, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.margins(x=0.2)


def _colours(names: list[str]) -> list[str]:
    return [OWN if name.startswith(BASELINE) else OTHERS for name in names]


def _overhead(results: Results) -> Figure | None:
    """Plot images/s with the most clients, in one panel per image."""
    regime = results.regime(servers.OVERHEAD)
    if regime is None:
        return None
    cells = [
        Cell(servers.OVERHEAD, image["name"], regime["clients"][-1]) for image in regime["pictures"]
    ]
    ranked = [results.ranked(servers.OVERHEAD, cell) for cell in cells]
    if not any(ranked):
        return None
    figure, panels = _panels(len(cells), max(map(len, ranked)))
    for axes, cell, rows in zip(panels, cells, ranked, strict=True):
        names = [row["name"] for row in rows]
        figures = [results.figure(name, cell) for name in names]
        _bars(axes, names, figures, [f"{each.median:.0f}" for each in figures])
        image = next(each for each in regime["pictures"] if each["name"] == cell.picture)
        axes.set_title(f"{image['width']}x{image['height']}", color=GREY, fontsize=9)
        axes.set_xlabel(f"images/s, {cell.clients} clients")
    return figure


def _compute(results: Results) -> Figure | None:
    """Plot images/s of servers and floors, in one panel."""
    regime = results.regime(servers.COMPUTE)
    if regime is None:
        return None
    cell = Cell(servers.COMPUTE, regime["pictures"][0]["name"], regime["clients"][-1])
    floor = Cell(servers.COMPUTE, "", 0)
    rated = [
        (row["name"], results.figure(row["name"], where))
        for where, floors in ((cell, False), (floor, True))
        for row in results.ranked(servers.COMPUTE, where, floors)
    ]
    if not rated:
        return None
    figure, (axes,) = _panels(1, len(rated))
    figure.set_figwidth(6)
    rated.sort(key=lambda each: -each[1].median)
    names, figures = zip(*rated, strict=True)
    _bars(axes, list(names), list(figures), [f"{each.median:.2f}" for each in figures])
    axes.set_xlabel(f"images/s, {cell.clients} clients")
    return figure


def _latency(results: Results) -> Figure | None:
    """Plot the median and the 99th percentile of the latency for the middle image."""
    regime = results.regime(servers.OVERHEAD)
    if regime is None:
        return None
    middle = regime["pictures"][len(regime["pictures"]) // 2]["name"]
    cell = Cell(servers.OVERHEAD, middle, regime["clients"][-1])
    rated = []
    for row in results.rows(servers.OVERHEAD):
        usual, rare = (results.figure(row["name"], cell, which) for which in ("p50", "p99"))
        if usual is not None and rare is not None:
            rated.append((usual.median, rare.median, row["name"]))
    if not rated:
        return None
    rated.sort()
    figure, (axes,) = _panels(1, len(rated))
    figure.set_figwidth(6)
    usual, rare, names = (list(column) for column in zip(*rated, strict=True))
    places = range(len(rated))
    axes.hlines(places, usual, rare, color=_colours(names), linewidth=2)
    axes.scatter(usual, places, color=_colours(names), label="median", zorder=2)
    axes.scatter(rare, places, color=_colours(names), marker="|", s=80, label="99 %", zorder=2)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(axis="x", color=GREY, alpha=0.25)
    axes.set_xlabel(f"ms from median (dot) to 99 % (bar), {cell.clients} clients")
    return figure
