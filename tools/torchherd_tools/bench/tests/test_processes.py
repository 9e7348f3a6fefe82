import os
import subprocess
import sys
import time
from pathlib import Path

from torchherd_tools.bench import processes


def test_memory_grows_with_what_a_process_holds():
    code = "import sys; kept = b'x' * {} ; print(flush=True); sys.stdin.read()"
    measured = []
    for size in (1, 64 << 20):
        command = [sys.executable, "-c", code.format(size)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:
            process.stdout.readline()
            measured.append(processes.memory(processes.tree(process.pid)))
            process.communicate()
    assert 60 << 20 < measured[1] - measured[0] < 70 << 20


def test_a_tree_holds_grandchildren_and_no_zombies():
    # The sleep that replaces the first shell never waits for `true`, which stays a zombie.
    command = ["sh", "-c", "sleep 60 & sh -c 'sleep 60 & wait' & true & exec sleep 60"]
    with subprocess.Popen(command, start_new_session=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline = time.monotonic() + 30
        # Wait until each process has executed its command.
        while time.monotonic() < deadline:
            tree = processes.tree(process.pid)
            zombies = [int(pid) for pid in children.read_text().split() if state(int(pid)) == "Z"]
            names = sorted(Path(f"/proc/{pid}/comm").read_text().strip() for pid in tree)
            if zombies and names == ["sh", "sleep", "sleep", "sleep"]:
                break
            time.sleep(0.01)
        os.killpg(process.pid, 9)
    assert names == ["sh", "sleep", "sleep", "sleep"]
    assert len(zombies) == 1
    assert zombies[0] not in tree


def state(pid: int) -> str:
    """Return the letter of a process's state, Z for a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_leaves_its_parent_and_session_is_stopped(tmp_path):
    # A process of its own adopts the orphans.
    note, log = tmp_path / "pid", tmp_path / "log"
    server = f"setsid sleep 60 & echo $! >{note}.part; mv {note}.part {note}; sleep 60"
    code = f"""
import os, pathlib, time
from torchherd_tools.bench import processes
processes.adopt_orphans()
orphan = ["sh", "-c", "({server}) & wait"]
with processes.started(orphan, {{}}, pathlib.Path({str(log)!r})) as process:
    while not pathlib.Path({str(note)!r}).exists():
        time.sleep(0.01)
print(len(processes.tree(os.getpid())))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1\n", done.stderr
    assert not Path(f"/proc/{note.read_text().strip()}").exists()
