"""Measure one server or floor once: start it, check it, load it, stop it."""

import contextlib
import http
import io
import json
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from torchherd_tools import paths, serving
from torchherd_tools.bench import processes, servers, workload
from torchherd_tools.errors import ToolError
from torchherd_tools.parity.compare import psnr

START_SECONDS = 180
POLL_SECONDS = 0.02
# After its first response, a server may still be initializing.
REST_SECONDS = 1.0
REQUEST_SECONDS = 120
GRACE_SECONDS = 2 * REQUEST_SECONDS
# The exit statuses of torchherd bench with results: ok, no good response, it fell behind.
LOAD_STATUSES = (0, 1, 3)
LAST_LINES = 5


class MeasureError(ToolError):
    """A row cannot be measured."""


@dataclass(frozen=True)
class Load:
    """The result of one load. The field names are keys of results.json.

    rate counts good responses per second; latencies are in milliseconds. behind is the reason why
    the load generator fell behind, or empty. A floor has 0 clients, and no latencies unless it
    takes one image at a time. An open loop has 0 clients too.
    """

    row: str
    regime: str
    round: int
    picture: str
    clients: int
    rate: float
    good: int = 0
    failed: int = 0
    p50: float | None = None
    p99: float | None = None
    behind: str = ""
    open: bool = False


@dataclass(frozen=True)
class Start:
    """One start of a server: seconds until the first good response, and bytes of memory then.

    decibels is the least PSNR of its responses to the baseline's; None for equal pixels.
    """

    row: str
    regime: str
    round: int
    seconds: float
    memory: int
    decibels: float | None


@dataclass
class Plan:
    """Settings of all measurements: the work folder, and the length of a load in seconds."""

    work: Path
    seconds: int


@dataclass
class Running:
    """A started server: the URL that takes images, and the figures of its start."""

    server: servers.Server
    url: str
    seconds: float
    memory: int

    def send(self, body: bytes) -> bytes:
        """Send an image and return the response. Raises MeasureError if its status is not 200."""
        response = serving.put(self.url, body, self.server.method)
        if response.status != http.HTTPStatus.OK:
            text = response.body[:200].decode(errors="replace")
            raise MeasureError(f"{self.server.name}: refused an image: {response.status} {text}")
        return response.body


@contextlib.contextmanager
def running(server: servers.Server, regime: workload.Regime, plan: Plan) -> Iterator[Running]:
    """Run a server with a regime's model inside the block.

    Raises MeasureError if it exits, or has no good response within START_SECONDS.
    """
    port = serving.free_port()
    model = workload.model(regime.name, server.model, plan.work)
    values = {"port": port, "model": model}
    environment = {
        name: servers.fill_word(word, values) for name, word in server.environment.items()
    }
    log = plan.work / "logs" / f"{server.name}-{regime.name}.log"
    url = f"http://{serving.HOST}:{port}{server.path}"
    body = regime.pictures[0].path(plan.work).read_bytes()
    start = time.monotonic()
    with processes.started(servers.fill(server.command, values), environment, log) as process:
        _wait_until_serving(process, server, url, body, log)
        seconds = time.monotonic() - start
        time.sleep(REST_SECONDS)
        yield Running(server, url, seconds, processes.memory(processes.tree(process.pid)))


def _wait_until_serving(
    process: subprocess.Popen[bytes], server: servers.Server, url: str, body: bytes, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    last = "no response"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MeasureError(
                f"{server.name}: exited with status {process.returncode} before it served: "
                f"{_last_lines(log)}"
            )
        with contextlib.suppress(serving.ServingError):
            response = serving.put(url, body, server.method)
            if response.status == http.HTTPStatus.OK:
                return
            last = f"status {response.status}"
        time.sleep(POLL_SECONDS)
    raise MeasureError(
        f"{server.name}: {last} after {START_SECONDS} s; its output is in {log}: {_last_lines(log)}"
    )


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-LAST_LINES:])


def responses(running: Running, regime: workload.Regime, plan: Plan) -> dict[str, bytes]:
    """Return a server's responses to the regime's images, by name."""
    return {
        image.name: running.send(image.path(plan.work).read_bytes()) for image in regime.pictures
    }


def check(
    ours: dict[str, bytes], baseline: dict[str, bytes], server: servers.Server
) -> float | None:
    """Return the least PSNR of a server's responses to the baseline's in dB; None if equal.

    Raises MeasureError if that is below the server's least_decibels.
    """
    worst = math.inf
    for name, body in ours.items():
        mine, theirs = (
            Image.open(io.BytesIO(each)).convert("RGB") for each in (body, baseline[name])
        )
        if mine.size != theirs.size:
            raise MeasureError(f"{server.name}: {name}: size {mine.size}, want {theirs.size}")
        worst = min(worst, psnr(mine, theirs))
    if worst < server.least_decibels:
        raise MeasureError(
            f"{server.name}: responses differ from torchherd's: {worst:.1f} dB, "
            f"want {server.least_decibels:g}"
        )
    return None if worst == math.inf else worst


def loads(running: Running, regime: workload.Regime, plan: Plan, number: int) -> Iterator[Load]:
    """Yield the results of the regime's loads, one after the other.

    Raises MeasureError if a load has no good response: the server hangs, or is down.
    """
    thorough = running.server.thorough
    for image in regime.pictures:
        for clients in regime.clients:
            load = _load(running, regime, plan, image, number, clients=clients)
            yield load
        if thorough and image in regime.open_pictures:
            rate = workload.OPEN_SHARE * load.rate
            yield _load(running, regime, plan, image, number, rate=rate)
    for image in regime.many_pictures if thorough else ():
        for clients in regime.many:
            yield _load(running, regime, plan, image, number, clients=clients)


def _load(
    running: Running,
    regime: workload.Regime,
    plan: Plan,
    image: workload.SentImage,
    number: int,
    *,
    clients: int = 0,
    rate: float = 0.0,
) -> Load:
    """Run one load: a closed loop of clients, or an open loop with a rate in requests/s."""
    seconds = plan.seconds * regime.stretch
    kind = ("--clients", str(clients)) if clients else ("--rate", f"{rate:.1f}")
    command = [
        *(str(paths.torchherd()), "bench", running.url, "--method", running.server.method),
        *("--picture", str(image.path(plan.work)), *kind),
        *("--warm-up", f"{regime.warm_up_seconds}s", "--duration", f"{seconds}s"),
        *("--request-timeout", f"{REQUEST_SECONDS}s", "--json", "-", "--quiet"),
    ]
    result = _output(command, regime.warm_up_seconds + seconds, LOAD_STATUSES)
    if not result["good"]:
        failures = {**result["statuses"], **result["errors"]}
        raise MeasureError(
            f"{running.server.name}: no good response to {' '.join(kind)} with {image.name}: "
            f"{failures or 'no response at all'}"
        )
    return Load(
        row=running.server.name,
        regime=regime.name,
        round=number,
        picture=image.name,
        clients=clients,
        rate=result["goodput"],
        good=result["good"],
        failed=result["requests"] - result["good"],
        p50=result["latency_ms"]["p50"],
        p99=result["latency_ms"]["p99"],
        behind=result["behind"]["why"],
        open=not clients,
    )


def floor(row: servers.Floor, regime: workload.Regime, plan: Plan, number: int) -> Iterator[Load]:
    """Run a floor once, or for each of the regime's images."""
    seconds = plan.seconds * regime.stretch
    model = workload.model(regime.name, "torchscript", plan.work)
    for image in regime.pictures:
        values = {"model": model, "seconds": seconds, "picture": image.path(plan.work)}
        result = _output(servers.fill(row.command, values), seconds)
        name = image.name if row.per_picture else ""
        rate = result["pictures_per_second"]
        yield Load(row.name, regime.name, number, name, 0, rate, p50=result.get("p50_ms"))
        if not row.per_picture:
            return


def _output(command: list[str], seconds: int, statuses: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run a command that takes these seconds, and return the JSON that it prints.

    Raises MeasureError if it prints no JSON, or exits with another status.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False
        )
        if done.returncode in statuses:
            return json.loads(done.stdout)
        reason = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        reason = str(error)
    raise MeasureError(f"{' '.join(command)}: {reason}")
