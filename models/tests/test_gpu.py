"""The measurement of a GPU: what can be told without one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gpu

# As `go test` prints it.
NAME = "BenchmarkCUDAForward/model="
TOLD = f"""\
goos: linux
{NAME}cyclegan.pt/precision=bf16/graphs=false/batch=4-16  100  2 ns/op  1500 pictures/s
{NAME}a.pt2/precision=compiled/graphs=true/batch=32  1  9 ns/op  1.2e+04 pictures/s
PASS
"""


def test_forward_rates_are_read_from_the_benchmark(tmp_path):
    program = tmp_path / "torch.test"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{TOLD}END\n")
    program.chmod(0o755)
    args = gpu.parse(
        ["--programs", str(tmp_path), "--floors", "f", "--model", "cyclegan.pt", "--out", "o"]
    )
    assert gpu.forward_rates(args) == {
        ("cyclegan.pt", False, 4): 1500,
        ("a.pt2", True, 32): 12000,
    }


def test_table_tells_the_best_shares():
    row = {"batch": 4, "forward": 5000, "end_to_end": 3000, "failed": 0, "behind": ""}
    text = gpu.table(
        {
            "card": "a card",
            "pytorch": "2.11.0",
            "machine": {"cores": "16"},
            "matrix_flop_per_second": 786e12,
            "codec": 4000,
            "rows": [
                row | {"row": "one", "of_matrix": 0.5, "of_floors": 0.75},
                row | {"row": "two", "of_matrix": 0.25, "of_floors": 0.85, "failed": 3},
            ],
        }
    )
    assert "786 TFLOP/s" in text
    assert "3 failed" in text
    assert "best of matrix: 0.50, wanted 0.50" in text
    assert "best of floors: 0.85, wanted 0.80" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which it would measure")
def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, gpu.__file__, "--programs", "p", "--floors", "f", "--model", "m"]
    done = subprocess.run(
        [*command, "--out", str(Path(tmp_path, "o.json"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "gpu.py: PyTorch finds no GPU here; this measures one\n",
    )
