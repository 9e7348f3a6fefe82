"""Start, measure and stop a server with all of its processes. For Linux.

Some servers start processes in sessions of their own, and some leave processes behind when they
exit. So the processes of a server are found by descent, and this process adopts orphans.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
STOP_SECONDS = 15
POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose parent exited, so that tree finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree(root: int) -> list[int]:
    """Return the ids of a process and its descendants, without zombies, in no order."""
    children: dict[int, list[int]] = {}
    alive = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The process name, in brackets, may contain any character.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(folder.name))
            if state != "Z":
                alive.add(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return [pid for pid in found if pid in alive]


def memory(pids: Sequence[int]) -> int:
    """Return the memory of processes in bytes: the sum of their proportional set sizes.

    A page that several processes share counts once. Processes that exit meanwhile count as 0.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name == "Pss":
                    total += int(rest.split()[0]) * 1024
    return total


@contextlib.contextmanager
def started(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command inside the block, with its output in a new file.

    After the block, the command and all new descendants of this process are stopped.
    """
    others = _descendants()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process, others)


def _stop(process: subprocess.Popen[bytes], others: set[int]) -> None:
    """Terminate the process, then its remaining descendants, and kill those that still run."""
    stopped = _descendants() - others
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in _descendants() - others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        deadline = time.monotonic() + STOP_SECONDS
        while _descendants() - others and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    process.wait()
    for pid in stopped:
        # Adopted processes stay zombies until this process waits for them.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _descendants() -> set[int]:
    return set(tree(os.getpid())) - {os.getpid()}
