"""The machine that runs the benchmark, and the versions of the programs."""

import contextlib
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

from torchherd_tools import paths
from torchherd_tools.bench import servers


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Describe the machine: processor, cores, memory, kernel and C library."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(cores()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "C library": " ".join(platform.libc_ver()),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


def versions(python: str, rows: Sequence[servers.Server]) -> dict[str, str]:
    """Return the versions of torchherd and of the rows' Python packages.

    python is the peers' interpreter; packages that it does not have are left out.
    """
    output = subprocess.run(
        [paths.torchherd(), "version"], capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.split(" ", 1) for line in output.splitlines())
    names = [row.distribution for row in rows if row.distribution]
    names += ["torch", "torchvision", "pillow", "numpy", "uvicorn"]
    script = (
        "import sys, platform\n"
        "from importlib import metadata\n"
        "print('Python', platform.python_version())\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(name, metadata.version(name))\n"
        "    except metadata.PackageNotFoundError:\n"
        "        pass\n"
    )
    # Names may repeat, such as that of the demo's two rows; the dict keeps one.
    output = subprocess.run(
        [python, "-c", script, *names], capture_output=True, text=True, check=True
    ).stdout
    return found | dict(line.split(" ", 1) for line in output.splitlines())
