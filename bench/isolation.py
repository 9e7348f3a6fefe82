"""A network of one's own, with the loopback interface alone, for this process and its children.

Ray's inner servers listen on all addresses and cannot be told otherwise. Where there is no other
address, nobody can reach them. All servers are measured there, so that none is favoured.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

MARK = "TORCHHERD_BENCH_ISOLATED"
UP = "ip link set lo up"


def isolated() -> bool:
    """Whether this process has a network of its own."""
    return MARK in os.environ


def enter(arguments: Sequence[str]) -> str:
    """Run this program with these arguments in a network of its own, in place of this process.

    Comes back only when that cannot be done, with the reason in a line.
    """
    unshare = ["unshare", "--net"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    try:
        tried = subprocess.run(
            [*unshare, "sh", "-c", UP], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "the command unshare (util-linux) is not installed"
    if tried.returncode != 0:
        reason = " ".join(tried.stderr.split())
        return f"this user cannot make a network namespace: {reason}"
    os.environ[MARK] = "1"
    program = [sys.executable, *arguments]
    os.execvp(unshare[0], [*unshare, "sh", "-c", f'{UP} && exec "$@"', "sh", *program])
