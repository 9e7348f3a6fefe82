"""A server's processes: started together, weighed together, ended together. For Linux.

Servers start processes of their own, some in sessions of their own, and some leave them behind when
they are ended. So what belongs to a server is told by descent, and this process takes the place of
a parent that ended.
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
    """Make this process the parent of descendants whose parent ended, so that tree finds them."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def tree(root: int) -> list[int]:
    """The ids of a process and of all that descend from it, in no order. Zombies are left out."""
    children: dict[int, list[int]] = {}
    alive = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append(int(folder.name))
            if state != "Z":
                alive.add(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return [pid for pid in found if pid in alive]


def memory(pids: Sequence[int]) -> int:
    """The bytes of memory that processes hold together: the sum of their proportional set sizes.

    A page that several processes share counts once, in parts. Processes that end meanwhile count
    nothing.
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
    """Run a command while the block runs; its output goes to a file, which is made anew.

    Afterwards the command is ended, and every descendant of this process that came meanwhile.
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
        _end(process, others)


def _end(process: subprocess.Popen[bytes], others: set[int]) -> None:
    """Ask the process to end, then what it left behind, and then force what is still there."""
    ended = _descendants() - others
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
    for pid in ended:
        # Those that were adopted stay zombies until somebody asks how they ended.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _descendants() -> set[int]:
    return set(tree(os.getpid())) - {os.getpid()}
