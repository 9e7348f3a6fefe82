"""docs/benchmarks.md, written from the results of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import files
import plots
import servers
import targets
import workload
from results import YARDSTICK, Cell, Results
from spread import Spread, spread

INTRODUCTION = """\
# Benchmarks

`make bench` wrote this page; no figure in it was typed. It measures torchherd beside the servers
that people use for the same job, and beside *floors*: loops without a server that do only what no
server can leave out.

Every server does the same: it takes a picture's bytes by HTTP, decodes them, scales to 228x228,
runs a TorchScript model, and answers with a JPEG of quality 75. The peers are written as their
documents advise, in [bench/peers](../bench/peers), and decode and encode by Pillow; torchherd and
the codec floor do so by libtorchherd. A server whose answers are less than 40 dB near torchherd's
does another job and is left out.

There are two regimes. With a model that only negates, what is measured is the server: HTTP,
queues, batches, the codec. With a CycleGAN generator, ngf 64 and 9 blocks, it is the model's
arithmetic, and what a server spoils of it.

How it is measured: one server runs at a time. It is started, its answers are compared, and it is
put under each load, by `torchherd bench`, which keeps so many clients busy that each send their
next picture when the last one's answer has come. Then it is ended, and the next one has its turn.
Each round goes through all of them, in another order. Figures are medians of the rounds, with the
least and the greatest in brackets; ratios are taken within a round. A rate counts good answers
only. With † the load generator could not keep up: it came late, or took more than a quarter of the
cores, so the server may be faster than that.

What this page cannot show: the load generator runs on the same cores as the server, and takes
more of them the faster the server is; so differences at the top are greater than they look. One
machine's ratios need not be another's, above all not one's with a GPU or many cores. Every client
sends the same picture, without pauses. Servers with a short queue (those with the demo's numbers)
refuse most clients when 16 come at once; the refused ask again at once, which costs time too.
"""


def write(told: Mapping[str, object], folder: Path) -> None:
    """Write benchmarks.md into a folder, and its plots into benchmarks/ there."""
    results = Results(told)
    drawn = plots.write(results, folder / "benchmarks")
    files.write_whole(folder / "benchmarks.md", page(results, drawn).encode())


def page(results: Results, drawn: Sequence[str]) -> str:
    """The page's text. drawn are the names of the plots that there are."""
    parts = [INTRODUCTION, _run(results), _machine(results)]
    if (overhead := results.regime(servers.OVERHEAD)) is not None:
        parts += _overhead(results, overhead, drawn)
    if (compute := results.regime(servers.COMPUTE)) is not None:
        parts += _compute(results, compute, drawn)
    parts += [_starts(results), targets.section(results), _settings(results), _left_out(results)]
    return "\n".join(part for part in parts if part)


def _run(results: Results) -> str:
    told = results.told
    return (
        f"The figures are of a run begun {told['began'].replace('T', ' ')}, which took "
        f"{told['took_minutes']:.0f} minutes: {_count(told['rounds'], 'round')}, loads of "
        f"{told['seconds']} s (longer with the CycleGAN). The command:\n\n"
        f"```\n{told['command']}\n```\n\n"
        "The single measurements are in [results.json](benchmarks/results.json), from which\n"
        "`bench/compare.py page` makes this page anew.\n"
    )


def _machine(results: Results) -> str:
    both = [*results.told["machine"].items(), *results.told["versions"].items()]
    return "## Machine and versions\n\n" + _table(("", ""), both)


def _overhead(results: Results, regime: Mapping[str, object], drawn: Sequence[str]) -> list[str]:
    parts = [
        "## Overhead: a model that only negates\n",
        _plot("overhead.svg", "pictures a second by server, for each picture", drawn),
    ]
    for picture in regime["pictures"]:
        parts.append(_overhead_table(results, regime, picture))
    parts.append(_plot("latency.svg", "latencies by server", drawn))
    parts += [_many(results, regime), _steady(results, regime)]
    return parts


def _overhead_table(
    results: Results, regime: Mapping[str, object], picture: Mapping[str, object]
) -> str:
    """One picture's table: rates by clients; at the most clients also ratios and latencies."""
    cells = [Cell(servers.OVERHEAD, picture["name"], clients) for clients in regime["clients"]]
    most = cells[-1]
    floor = Cell(servers.OVERHEAD, picture["name"], 0)
    kilobytes = results.told["picture_bytes"][picture["name"]] / 1000
    rows = [
        [
            row["name"],
            *(_rate(results, row["name"], cell) for cell in cells),
            _ratio(results.ratio(row["name"], most, YARDSTICK)),
            _ratio(results.ratio(row["name"], most, "codec", floor)),
            *_latencies(results, row["name"], most),
        ]
        for row in results.ranked(servers.OVERHEAD, most)
    ]
    codec = results.figure("codec", floor)
    if codec is not None:
        blanks = [""] * (len(cells) - 1)
        rows.insert(
            0, ["*codec floor*", *blanks, _spread(codec), "", _ratio(Spread(1, 1, 1)), "", "", ""]
        )
    clients = [f"{_count(cell.clients)}, pictures/s" for cell in cells]
    header = ["", *clients, f"to {YARDSTICK}", "to the floor", "p50, ms", "p99, ms", "no answer"]
    title = f"### {picture['width']}x{picture['height']}, {kilobytes:.0f} kB\n\n"
    note = f"Ratios, latencies and refusals are those with {_count(most.clients)}.\n"
    return f"{title}{_table(header, rows)}\n{note}"


def _many(results: Results, regime: Mapping[str, object]) -> str:
    """What the rows do that were asked by hundreds of clients."""
    rows = []
    for picture in regime["many_pictures"]:
        for clients in (regime["clients"][-1], *regime["many"]):
            cell = Cell(servers.OVERHEAD, picture["name"], clients)
            if results.figure(YARDSTICK, cell) is not None:
                latencies = _latencies(results, YARDSTICK, cell)
                rows.append([_count(clients), _rate(results, YARDSTICK, cell), *latencies])
    if len(rows) < 2:
        return ""
    return (
        f"### {YARDSTICK} with many clients, the middle picture\n\n"
        + _table(("", "pictures/s", "p50, ms", "p99, ms", "no answer"), rows)
        + "\nBeyond its queue it refuses at once, and goes on serving those that wait.\n"
    )


def _steady(results: Results, regime: Mapping[str, object]) -> str:
    """Latencies at less than the greatest rate, and those of a request that comes alone."""
    rows = []
    for picture in regime["pictures"]:
        name = picture["name"]
        steady = Cell(servers.OVERHEAD, name, 0, open=True)
        alone = Cell(servers.OVERHEAD, name, 1)
        bare = results.figure("lone", Cell(servers.OVERHEAD, name, 0), "p50")
        if results.figure(YARDSTICK, steady) is not None:
            rows.append(
                [
                    f"{picture['width']}x{picture['height']}",
                    _rate(results, YARDSTICK, steady),
                    *_latencies(results, YARDSTICK, steady)[:2],
                    _spread(results.figure(YARDSTICK, alone, "p50")),
                    _spread(bare),
                ]
            )
    if not rows:
        return ""
    header = ("", "pictures/s", "p50, ms", "p99, ms", "p50 of 1 client, ms", "without a server, ms")
    return (
        f"### {YARDSTICK} at {workload.OPEN_SHARE:.0%} of its rate, and alone\n\n"
        + _table(header, rows)
        + "\nFirst an open loop: requests come at random times, whatever the server does,\n"
        "and latencies count from when they should have begun. Then one client, and beside it the\n"
        "bare time of decode, model and encode, one after the other.\n"
    )


def _compute(results: Results, regime: Mapping[str, object], drawn: Sequence[str]) -> list[str]:
    cell = Cell(servers.COMPUTE, regime["pictures"][0]["name"], regime["clients"][-1])
    alone = Cell(servers.COMPUTE, "", 0)
    rows = [
        [
            f"*{row['about']}*" if floor else row["name"],
            _rate(results, row["name"], where),
            _ratio(results.ratio(row["name"], where, YARDSTICK, cell)),
            _ratio(results.ratio(row["name"], where, "forward", alone)),
            *(("", "", "") if floor else _latencies(results, row["name"], where)),
        ]
        for where, floor in ((alone, True), (cell, False))
        for row in results.ranked(servers.COMPUTE, where, floor)
    ]
    header = (
        *("", "pictures/s", f"to {YARDSTICK}", "to LibTorch alone"),
        *("p50, ms", "p99, ms", "no answer"),
    )
    return [
        "## Compute: a full CycleGAN generator\n",
        _plot("compute.svg", "pictures a second by server, and of the floors", drawn),
        _table(header, rows),
        f"The servers have {_count(cell.clients)}; the floors, in italics, are loops on all\n"
        "cores, LibTorch's over batches of 2, as torchherd has them, and PyTorch's of 4.\n",
    ]


def _starts(results: Results) -> str:
    """How long each server takes to its first good answer, and what it then holds."""
    rows = []
    for row in results.told["rows"]:
        cells = []
        for regime in servers.REGIMES:
            seconds = spread(results.starts(row["name"], regime, "seconds"))
            memory = spread(results.starts(row["name"], regime, "memory"))
            cells.append(_spread(seconds))
            cells.append("" if memory is None else f"{memory.median / 2**20:.0f}")
        if any(cells):
            near = [
                each
                for regime in servers.REGIMES
                for each in results.starts(row["name"], regime, "decibels")
                if each is not None
            ]
            rows.append([row["name"], *cells, f"{min(near):.1f}" if near else "same pixels"])
    if not rows:
        return ""
    header = ["", "negating: start, s", "memory, MiB", "CycleGAN: start, s", "memory, MiB"]
    return (
        "## Start and memory\n\n"
        "From the start of the process to the first good answer; and the memory a second after\n"
        "it, idle, as the sum of the proportional set sizes (PSS) of all of the server's\n"
        "processes: a page that several share counts once. The last column says how near the\n"
        "answers are to torchherd's: the least PSNR over the pictures.\n\n"
        + _table([*header, "answers, dB"], rows)
    )


def _settings(results: Results) -> str:
    rows = [(row["name"], row["about"], f"`{row['settings']}`") for row in results.told["rows"]]
    return "## Settings\n\nThe rest of the peers' settings is in their files.\n\n" + _table(
        ("", "what", "command"), rows
    )


def _left_out(results: Results) -> str:
    reasons = results.told["left_out"].values()
    if not reasons:
        return ""
    return "## Left out\n\n" + "".join(f"- {reason}\n" for reason in reasons)


def _plot(name: str, what: str, drawn: Sequence[str]) -> str:
    return f"![{what}](benchmarks/{name})\n" if name in drawn else ""


def _latencies(results: Results, row: str, cell: Cell) -> tuple[str, str, str]:
    """Median and 99th percentile in ms, and the part of requests without a good answer."""
    usual, rare = (results.figure(row, cell, figure) for figure in ("p50", "p99"))
    failed = results.failed_share(row, cell)
    return (
        "" if usual is None else _number(usual.median),
        "" if rare is None else _number(rare.median),
        f"{failed:.0%}" if failed else "",
    )


def _rate(results: Results, row: str, cell: Cell) -> str:
    """A row's rate with its spread, marked when the load generator could not keep up."""
    mark = " †" if results.behind(row, cell) else ""
    return f"{_spread(results.figure(row, cell))}{mark}"


def _count(count: int, what: str = "client") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _spread(figure: Spread | None) -> str:
    """A median with its least and greatest value in brackets."""
    if figure is None:
        return ""
    if figure.least == figure.greatest:
        return _number(figure.median)
    least, greatest = _number(figure.least), _number(figure.greatest)
    return f"{_number(figure.median)} ({least}..{greatest})"


def _ratio(figure: Spread | None) -> str:
    return "" if figure is None else f"{figure.median:.2f}"


def _number(value: float) -> str:
    """Three digits or more, and no more decimals than that takes."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
