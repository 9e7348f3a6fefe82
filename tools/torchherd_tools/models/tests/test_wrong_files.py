"""The server names files of PyTorch that aren't models, as PyTorch itself writes them."""

import subprocess

import pytest
import torch
from torch import nn

from torchherd_tools import paths


@pytest.mark.parametrize(
    ("name", "save", "says"),
    [
        (
            "state_dict.pth",
            lambda net, path: torch.save(net.state_dict(), path),
            "a checkpoint (torch.save), which has weights but no network; a CycleGAN or pix2pix "
            "generator's: run: python -m torchherd_tools export ",
        ),
        ("whole.pt", torch.save, "a pickled module (torch.save of a whole network)"),
        (
            "legacy.pth",
            lambda net, path: torch.save(
                net.state_dict(), path, _use_new_zipfile_serialization=False
            ),
            "a checkpoint of PyTorch before 1.6 (torch.save); a CycleGAN or pix2pix generator's: "
            "run: python -m torchherd_tools export ",
        ),
        (
            "exported.pt2",
            lambda net, path: torch.export.save(
                torch.export.export(net, (torch.rand(1, 3, 8, 8),)), path
            ),
            "an exported program (torch.export.save), which isn't compiled; run: python -c",
        ),
    ],
)
def test_files_of_pytorch_that_are_not_models(tmp_path, name, save, says):
    path = tmp_path / name
    save(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)).eval(), path)
    checked = subprocess.run(
        [paths.torchherd(), "models", "check", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 1
    assert f"{path}: {says}" in checked.stderr
