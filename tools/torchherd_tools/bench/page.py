"""Write docs/benchmarks.md from the results of a run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torchherd_tools import files
from torchherd_tools.bench import plots, servers, targets, workload
from torchherd_tools.bench.results import BASELINE, Cell, Results
from torchherd_tools.bench.spread import Spread, spread

INTRODUCTION = """\
# Benchmarks

`make bench` writes this page; no figure in it is typed by hand. It compares torchherd with other
servers for the same task, and with *floors*: loops without a server that do the necessary work of
every server.

Every server does the same task: it receives an image by HTTP, decodes it, scales it to 228x228,
runs a TorchScript model, and responds with a JPEG of quality 75. The peers follow the advice of
their documentation, in [peers](../tools/torchherd_tools/bench/peers), and decode and encode with
Pillow; torchherd and the codec floor use libtorchherd. A server whose responses have a PSNR of less
than 40 dB to torchherd's is left out.

There are two regimes. The model that only negates measures the server: HTTP, queues, batches, the
codec. The CycleGAN generator, ngf 64 and 9 blocks, measures the model's arithmetic, and how much
of its speed a server loses.

Method: one server runs at a time. It is started, its responses are compared, and it is loaded by
`torchherd bench`, in which each client sends the next image when the last response has arrived.
Then it is stopped, and the next server follows. Each round measures all servers, in another order.
Figures are medians over the rounds, with the minimum and maximum in parentheses; ratios are taken
within a round. A rate counts good responses only. † marks loads for which the load generator fell
behind: it sent late, or used more than a quarter of the cores, so the server may be faster.

Limits: the load generator runs on the same cores as the server, and uses more of them the faster
the server is, so that differences between fast servers appear smaller than they are. Ratios differ
on other machines, above all with a GPU or many cores. Every client sends the same image, without
pauses. Servers with a short queue (the demo's numbers) refuse most of 16 clients that send at
once; refused clients send again immediately, which also costs time.
"""


def write(data: Mapping[str, object], folder: Path) -> None:
    """Write benchmarks.md into a folder, and its plots into benchmarks/ there."""
    results = Results(data)
    drawn = plots.write(results, folder / "benchmarks")
    files.write_whole(folder / "benchmarks.md", page(results, drawn).encode())


def page(results: Results, drawn: Sequence[str]) -> str:
    """Return the text of the page. drawn are the names of the existing plots."""
    parts = [INTRODUCTION, _run(results), _machine(results)]
    if (overhead := results.regime(servers.OVERHEAD)) is not None:
        parts += _overhead(results, overhead, drawn)
    if (compute := results.regime(servers.COMPUTE)) is not None:
        parts += _compute(results, compute, drawn)
    parts += [_starts(results), targets.section(results), _settings(results), _left_out(results)]
    return "\n".join(part for part in parts if part)


def _run(results: Results) -> str:
    data = results.data
    return (
        f"The run started at {data['began'].replace('T', ' ')} and took "
        f"{data['took_minutes']:.0f} minutes: {_count(data['rounds'], 'round')}, loads of "
        f"{data['seconds']} s (longer with the CycleGAN). The command:\n\n"
        f"<!-- not run: takes {data['took_minutes']:.0f} minutes -->\n"
        f"```sh\n{data['command']}\n```\n\n"
        "All measurements are in [results.json](benchmarks/results.json);\n"
        "`python -m torchherd_tools bench page` writes this page from them.\n"
    )


def _machine(results: Results) -> str:
    both = [*results.data["machine"].items(), *results.data["versions"].items()]
    return "## Machine and versions\n\n" + _table(("", ""), both)


def _overhead(results: Results, regime: Mapping[str, object], drawn: Sequence[str]) -> list[str]:
    parts = [
        "## Overhead: a model that only negates\n",
        _plot("overhead.svg", "images/s by server, for each image", drawn),
    ]
    for image in regime["pictures"]:
        parts.append(_overhead_table(results, regime, image))
    parts.append(_plot("latency.svg", "latencies by server", drawn))
    parts += [_many(results, regime), _steady(results, regime)]
    return parts


def _overhead_table(
    results: Results, regime: Mapping[str, object], image: Mapping[str, object]
) -> str:
    """Return one image's table: rates by clients; ratios and latencies at the most clients."""
    cells = [Cell(servers.OVERHEAD, image["name"], clients) for clients in regime["clients"]]
    most = cells[-1]
    floor = Cell(servers.OVERHEAD, image["name"], 0)
    kilobytes = results.data["picture_bytes"][image["name"]] / 1000
    rows = [
        [
            row["name"],
            *(_rate(results, row["name"], cell) for cell in cells),
            _ratio(results.ratio(row["name"], most, BASELINE)),
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
    clients = [f"{_count(cell.clients)}, images/s" for cell in cells]
    header = ["", *clients, f"to {BASELINE}", "to the floor", "p50, ms", "p99, ms", "failed"]
    title = f"### {image['width']}x{image['height']}, {kilobytes:.0f} kB\n\n"
    note = f"Ratios, latencies and failures are those with {_count(most.clients)}.\n"
    return f"{title}{_table(header, rows)}\n{note}"


def _many(results: Results, regime: Mapping[str, object]) -> str:
    """Return the section on loads with hundreds of clients."""
    rows = []
    for image in regime["many_pictures"]:
        for clients in (regime["clients"][-1], *regime["many"]):
            cell = Cell(servers.OVERHEAD, image["name"], clients)
            if results.figure(BASELINE, cell) is not None:
                latencies = _latencies(results, BASELINE, cell)
                rows.append([_count(clients), _rate(results, BASELINE, cell), *latencies])
    if len(rows) < 2:
        return ""
    return (
        f"### {BASELINE} with many clients, the middle image\n\n"
        + _table(("", "images/s", "p50, ms", "p99, ms", "failed"), rows)
        + "\nIt refuses requests beyond its queue at once, and serves those in the queue.\n"
    )


def _steady(results: Results, regime: Mapping[str, object]) -> str:
    """Return the section on latencies below the maximum rate, and with one client."""
    rows = []
    for image in regime["pictures"]:
        name = image["name"]
        steady = Cell(servers.OVERHEAD, name, 0, open=True)
        alone = Cell(servers.OVERHEAD, name, 1)
        bare = results.figure("lone", Cell(servers.OVERHEAD, name, 0), "p50")
        if results.figure(BASELINE, steady) is not None:
            rows.append(
                [
                    f"{image['width']}x{image['height']}",
                    _rate(results, BASELINE, steady),
                    *_latencies(results, BASELINE, steady)[:2],
                    _spread(results.figure(BASELINE, alone, "p50")),
                    _spread(bare),
                ]
            )
    if not rows:
        return ""
    header = ("", "images/s", "p50, ms", "p99, ms", "p50 of 1 client, ms", "without a server, ms")
    return (
        f"### {BASELINE} at {workload.OPEN_SHARE:.0%} of its rate, and with one client\n\n"
        + _table(header, rows)
        + "\nThe first three columns are of an open loop: requests are sent at random times that\n"
        "do not depend on responses, and latencies count from those times. Then follow one\n"
        "client, and the time of decode, model and encode in sequence, without a server.\n"
    )


def _compute(results: Results, regime: Mapping[str, object], drawn: Sequence[str]) -> list[str]:
    cell = Cell(servers.COMPUTE, regime["pictures"][0]["name"], regime["clients"][-1])
    alone = Cell(servers.COMPUTE, "", 0)
    rows = [
        [
            f"*{row['about']}*" if floor else row["name"],
            _rate(results, row["name"], where),
            _ratio(results.ratio(row["name"], where, BASELINE, cell)),
            _ratio(results.ratio(row["name"], where, "forward", alone)),
            *(("", "", "") if floor else _latencies(results, row["name"], where)),
        ]
        for where, floor in ((alone, True), (cell, False))
        for row in results.ranked(servers.COMPUTE, where, floor)
    ]
    header = (
        *("", "images/s", f"to {BASELINE}", "to LibTorch alone"),
        *("p50, ms", "p99, ms", "failed"),
    )
    return [
        "## Compute: a full CycleGAN generator\n",
        _plot("compute.svg", "images/s of servers and floors", drawn),
        _table(header, rows),
        f"The servers have {_count(cell.clients)}. The floors, in italics, are loops on all\n"
        "cores, LibTorch's with batches of 2, like torchherd's, and PyTorch's with batches of 4.\n",
    ]


def _starts(results: Results) -> str:
    """Return the section on the time to the first good response, and the memory then."""
    rows = []
    for row in results.data["rows"]:
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
        "The time from the start of the process to the first good response, and the memory one\n"
        "second later, idle: the sum of the proportional set sizes (PSS) of all of the server's\n"
        "processes, in which a shared page counts once. The last column is the least PSNR of the\n"
        "responses to torchherd's.\n\n" + _table([*header, "responses, dB"], rows)
    )


def _settings(results: Results) -> str:
    rows = [(row["name"], row["about"], f"`{row['settings']}`") for row in results.data["rows"]]
    return "## Settings\n\nThe peers' other settings are in their files.\n\n" + _table(
        ("", "what", "command"), rows
    )


def _left_out(results: Results) -> str:
    reasons = results.data["left_out"].values()
    if not reasons:
        return ""
    return "## Left out\n\n" + "".join(f"- {reason}\n" for reason in reasons)


def _plot(name: str, what: str, drawn: Sequence[str]) -> str:
    return f"![{what}](benchmarks/{name})\n" if name in drawn else ""


def _latencies(results: Results, row: str, cell: Cell) -> tuple[str, str, str]:
    """Return median and 99th percentile in ms, and the share of failed requests."""
    usual, rare = (results.figure(row, cell, figure) for figure in ("p50", "p99"))
    failed = results.failed_share(row, cell)
    return (
        "" if usual is None else _number(usual.median),
        "" if rare is None else _number(rare.median),
        f"{failed:.0%}" if failed else "",
    )


def _rate(results: Results, row: str, cell: Cell) -> str:
    """Format a row's rate with its spread, marked if the load generator fell behind."""
    mark = " †" if results.behind(row, cell) else ""
    return f"{_spread(results.figure(row, cell))}{mark}"


def _count(count: int, what: str = "client") -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _spread(figure: Spread | None) -> str:
    """Format a median with its minimum and maximum in parentheses."""
    if figure is None:
        return ""
    if figure.least == figure.greatest:
        return _number(figure.median)
    least, greatest = _number(figure.least), _number(figure.greatest)
    return f"{_number(figure.median)} ({least}..{greatest})"


def _ratio(figure: Spread | None) -> str:
    return "" if figure is None else f"{figure.median:.2f}"


def _number(value: float) -> str:
    """Format a value with at least three digits, and no more decimals than needed."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
