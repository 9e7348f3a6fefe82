"""The measurement of a GPU: the parts that need none."""

import pytest
import torch

from torchherd_tools.bench import gpu

# The format of `go test`.
NAME = "BenchmarkCUDAForward/model="
OUTPUT = f"""\
goos: linux
{NAME}cyclegan.pt/precision=bf16/graphs=false/batch=4-16  100  2 ns/op  1500 images/s
{NAME}a.pt2/precision=compiled/graphs=true/batch=32  1  9 ns/op  1.2e+04 images/s
PASS
"""


def test_forward_rates_are_read_from_the_benchmark(tmp_path):
    program = tmp_path / "torch.test"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{OUTPUT}END\n")
    program.chmod(0o755)
    args = gpu.parse(
        ["--programs", str(tmp_path), "--floors", "f", "--model", "cyclegan.pt", "--out", "o"]
    )
    assert gpu.forward_rates(args) == {
        ("cyclegan.pt", False, 4): 1500,
        ("a.pt2", True, 32): 12000,
    }


def test_table_has_the_best_shares():
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
    assert "best of matrix: 0.50, target 0.50" in text
    assert "best of floors: 0.85, target 0.80" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="the command would measure the GPU")
def test_missing_gpu_is_reported(tmp_path, capsys):
    flags = ["--programs", "p", "--floors", "f", "--model", "m", "--out", str(tmp_path / "o.json")]
    assert gpu.main(flags) == 1
    assert capsys.readouterr().err == "gpu: PyTorch finds no GPU; this command measures one\n"
