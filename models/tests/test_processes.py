import os
import subprocess
import sys
from pathlib import Path

import processes


def test_memory_grows_with_what_a_process_holds():
    code = "import sys; kept = b'x' * {} ; print(flush=True); sys.stdin.read()"
    weighed = []
    for size in (1, 64 << 20):
        command = [sys.executable, "-c", code.format(size)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes) as process:
            process.stdout.readline()
            weighed.append(processes.memory(processes.tree(process.pid)))
            process.communicate()
    assert 60 << 20 < weighed[1] - weighed[0] < 70 << 20


def test_a_tree_holds_grandchildren_and_no_zombies():
    command = ["sh", "-c", "sleep 60 & sh -c 'sleep 60 & echo; wait' & true & wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        names = [
            Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes.tree(process.pid)
        ]
        os.killpg(process.pid, 9)
    assert sorted(names) == ["sh", "sh", "sleep", "sleep"]


def test_what_leaves_its_parent_and_its_session_is_ended(root, tmp_path):
    # In a process of its own, which then is the parent of orphans.
    note, log = tmp_path / "pid", tmp_path / "log"
    server = f"setsid sleep 60 & echo $! >{note}.part; mv {note}.part {note}; sleep 60"
    code = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(root / "bench")!r})
import processes
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
