"""A network namespace for this process and its children, with only the loopback interface.

Ray's internal servers listen on all addresses, and no option changes that. In the namespace no
other machine can reach them. All servers are measured there, under the same conditions.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

MARK = "TORCHHERD_BENCH_ISOLATED"
UP = "ip link set lo up"


def isolated() -> bool:
    """Report whether this process is in its own network namespace."""
    return MARK in os.environ


def enter(arguments: Sequence[str]) -> str:
    """Replace this process by Python with these arguments in a network namespace.

    Returns only if that fails, with the reason in a line.
    """
    unshare = ["unshare", "--net"]
    if os.geteuid() != 0:
        unshare += ["--user", "--map-root-user"]
    try:
        attempt = subprocess.run(
            [*unshare, "sh", "-c", UP], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "the command unshare (util-linux) is not installed"
    if attempt.returncode != 0:
        reason = " ".join(attempt.stderr.split())
        return f"this user cannot make a network namespace: {reason}"
    os.environ[MARK] = "1"
    program = [sys.executable, *arguments]
    os.execvp(unshare[0], [*unshare, "sh", "-c", f'{UP} && exec "$@"', "sh", *program])
