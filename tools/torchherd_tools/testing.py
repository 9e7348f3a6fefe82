"""Start processes for tests without the seconds that the import of PyTorch takes.

A fork server imports the packages once, and every process is forked from it. It starts with the
first process, and exits with the tests.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["torchherd_tools.testing", "torchherd_tools.models.export", "torchherd_tools.parity.reference"]
)


def start(
    function: Callable[..., object],
    *arguments: object,
    stdout: Path = Path(os.devnull),
    stderr: Path = Path(os.devnull),
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Call a function in a new process, with its result as the exit status.

    stdout and stderr are files, pipes or terminals; environment is added to that of the process.
    """
    process = _SERVER.Process(
        target=_call,
        args=(function, arguments, stdout, stderr, cwd or Path.cwd(), environment or {}),
        daemon=True,  # killed if the tests exit before it
    )
    process.start()
    return process


def run(
    function: Callable[..., object],
    *arguments: object,
    timeout: float = 300,
    **options: object,
) -> subprocess.CompletedProcess[str]:
    """Call a function in a new process, as start does, and return its status and output."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = start(function, *arguments, stdout=stdout, stderr=stderr, **options)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(str(arguments), timeout)
        return subprocess.CompletedProcess(
            arguments, process.exitcode, stdout.read_text(), stderr.read_text()
        )


def run_script(
    path: Path, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python file as a user does, by `python FILE`, and return its status and output.

    The fork server can't do that: a script may import its neighbours.
    """
    return subprocess.run(
        [sys.executable, path],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _call(
    function: Callable[..., object],
    arguments: tuple[object, ...],
    stdout: Path,
    stderr: Path,
    cwd: Path,
    environment: Mapping[str, str],
) -> None:
    for path, stream in ((stdout, 1), (stderr, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOCTTY)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(cwd)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
