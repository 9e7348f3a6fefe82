"""One server or floor measured once: started, checked, put under load, ended."""

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

import parity
import processes
import servers
import serving
import workload

START_SECONDS = 180
POLL_SECONDS = 0.02
# After its first answer a server may still be putting things in order.
REST_SECONDS = 1.0
REQUEST_SECONDS = 120
GRACE_SECONDS = 2 * REQUEST_SECONDS
# Those of torchherd bench that come with figures: all well, no answer was good, it fell behind.
LOAD_STATUSES = (0, 1, 3)
LAST_LINES = 5


class MeasureError(Exception):
    """A row cannot be measured. The text says what happened, to what, and what to do."""


@dataclass(frozen=True)
class Load:
    """What one load gave. The rate is of good answers in a second; latencies are in milliseconds.

    behind is why the load generator could not keep up, or empty. A floor has no clients (0) and no
    latencies, except that of one picture at a time. An open loop has no clients either.
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
    """One start of a server: seconds until the first good answer, and bytes of memory after it.

    decibels is how near its answers were to the yardstick's, the least PSNR; None for equal pixels.
    """

    row: str
    regime: str
    round: int
    seconds: float
    memory: int
    decibels: float | None


@dataclass
class Plan:
    """What all measurements share: the work folder, and how long a load lasts in seconds."""

    work: Path
    seconds: int


@dataclass
class Running:
    """A started server: the URL that takes pictures, and how it started."""

    server: servers.Server
    url: str
    seconds: float
    memory: int

    def ask(self, body: bytes) -> bytes:
        """The answer to a picture. Raises MeasureError when it is a refusal."""
        answer = serving.put(self.url, body, self.server.method)
        if answer.status != http.HTTPStatus.OK:
            text = answer.body[:200].decode(errors="replace")
            raise MeasureError(f"{self.server.name}: refused a picture: {answer.status} {text}")
        return answer.body


@contextlib.contextmanager
def running(server: servers.Server, regime: workload.Regime, plan: Plan) -> Iterator[Running]:
    """Run a server with a regime's model while the block runs.

    Raises MeasureError when it ends, or gives no good answer in START_SECONDS.
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
    begun = time.monotonic()
    with processes.started(servers.fill(server.command, values), environment, log) as process:
        _await_answer(process, server, url, body, log)
        seconds = time.monotonic() - begun
        time.sleep(REST_SECONDS)
        yield Running(server, url, seconds, processes.memory(processes.tree(process.pid)))


def _await_answer(
    process: subprocess.Popen[bytes], server: servers.Server, url: str, body: bytes, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    last = "no answer"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise MeasureError(
                f"{server.name}: ended with status {process.returncode} before it served: "
                f"{_last_lines(log)}"
            )
        with contextlib.suppress(serving.ServingError):
            answer = serving.put(url, body, server.method)
            if answer.status == http.HTTPStatus.OK:
                return
            last = f"status {answer.status}"
        time.sleep(POLL_SECONDS)
    raise MeasureError(
        f"{server.name}: {last} after {START_SECONDS} s; its output is in {log}: {_last_lines(log)}"
    )


def _last_lines(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " / ".join(line.strip() for line in lines[-LAST_LINES:])


def answers(running: Running, regime: workload.Regime, plan: Plan) -> dict[str, bytes]:
    """A server's answers to the regime's pictures, by their names."""
    return {
        picture.name: running.ask(picture.path(plan.work).read_bytes())
        for picture in regime.pictures
    }


def check(
    ours: dict[str, bytes], yardstick: dict[str, bytes], server: servers.Server
) -> float | None:
    """How near a server's answers are to the yardstick's: the least PSNR in dB; None when equal.

    Raises MeasureError when that is below what the server must reach: it does another job.
    """
    worst = math.inf
    for name, body in ours.items():
        mine, theirs = (
            Image.open(io.BytesIO(each)).convert("RGB") for each in (body, yardstick[name])
        )
        if mine.size != theirs.size:
            raise MeasureError(f"{server.name}: {name}: size {mine.size}, wanted {theirs.size}")
        worst = min(worst, parity.psnr(mine, theirs))
    if worst < server.least_decibels:
        raise MeasureError(
            f"{server.name}: its answers differ from torchherd's: {worst:.1f} dB, "
            f"wanted {server.least_decibels:g}"
        )
    return None if worst == math.inf else worst


def loads(running: Running, regime: workload.Regime, plan: Plan, number: int) -> Iterator[Load]:
    """Put a server under each of the regime's loads, one after the other.

    Raises MeasureError when no answer to a load was good: such a server hangs, or is down.
    """
    thorough = running.server.thorough
    for picture in regime.pictures:
        for clients in regime.clients:
            load = _load(running, regime, plan, picture, number, clients=clients)
            yield load
        if thorough and picture in regime.open_pictures:
            rate = workload.OPEN_SHARE * load.rate
            yield _load(running, regime, plan, picture, number, rate=rate)
    for picture in regime.many_pictures if thorough else ():
        for clients in regime.many:
            yield _load(running, regime, plan, picture, number, clients=clients)


def _load(
    running: Running,
    regime: workload.Regime,
    plan: Plan,
    picture: workload.Picture,
    number: int,
    *,
    clients: int = 0,
    rate: float = 0.0,
) -> Load:
    """One load: a closed loop of clients, or an open one of so many requests a second."""
    seconds = plan.seconds * regime.stretch
    kind = ("--clients", str(clients)) if clients else ("--rate", f"{rate:.1f}")
    command = [
        *(servers.TORCHHERD, "bench", running.url, "--method", running.server.method),
        *("--picture", str(picture.path(plan.work)), *kind),
        *("--warm-up", f"{regime.warm_up_seconds}s", "--duration", f"{seconds}s"),
        *("--request-timeout", f"{REQUEST_SECONDS}s", "--json", "-", "--quiet"),
    ]
    told = _output(command, regime.warm_up_seconds + seconds, LOAD_STATUSES)
    if not told["good"]:
        failures = {**told["statuses"], **told["errors"]}
        raise MeasureError(
            f"{running.server.name}: no good answer to {' '.join(kind)} with {picture.name}: "
            f"{failures or 'none came'}"
        )
    return Load(
        row=running.server.name,
        regime=regime.name,
        round=number,
        picture=picture.name,
        clients=clients,
        rate=told["goodput"],
        good=told["good"],
        failed=told["requests"] - told["good"],
        p50=told["latency_ms"]["p50"],
        p99=told["latency_ms"]["p99"],
        behind=told["behind"]["why"],
        open=not clients,
    )


def floor(row: servers.Floor, regime: workload.Regime, plan: Plan, number: int) -> Iterator[Load]:
    """Run a floor: once, or for each of the regime's pictures."""
    seconds = plan.seconds * regime.stretch
    model = workload.model(regime.name, "torchscript", plan.work)
    for picture in regime.pictures:
        values = {"model": model, "seconds": seconds, "picture": picture.path(plan.work)}
        told = _output(servers.fill(row.command, values), seconds)
        name = picture.name if row.per_picture else ""
        rate = told["pictures_per_second"]
        yield Load(row.name, regime.name, number, name, 0, rate, p50=told.get("p50_ms"))
        if not row.per_picture:
            return


def _output(command: list[str], seconds: int, statuses: Sequence[int] = (0,)) -> dict[str, Any]:
    """The JSON that a command prints, which is to take so many seconds.

    Raises MeasureError when it prints none, or ends with none of the statuses.
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
