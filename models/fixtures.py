#!/usr/bin/env python3
"""Make the small modules in testdata/modules that the tests of torchherd serve.

Each takes float [N, 3, H, W] in 0..1. Some answer simply, so that a test can tell the right answer
by arithmetic; the others misbehave in one way each. The files are committed; run this after a
change to it or to PyTorch's version.

The modules use none of torch.nn's layers: scripting those writes their constants in another order
each time, and a fixture would change its bytes for nothing.

--packages makes negate.pt2 too, which takes a minute and never has the same bytes twice.
"""

import argparse
import io
import random
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import files
import formats

DEFAULT_FOLDER = Path(__file__).resolve().parent.parent / "testdata" / "modules"


class Identity(nn.Module):
    """Gives back its input."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x


class Negate(nn.Module):
    """The photographic negative."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return 1 - x


class Upscale2(nn.Module):
    """Twice the height and width; each pixel becomes four."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        # F.interpolate would do the same, with 20 KB of TorchScript for its other modes.
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class Gray(nn.Module):
    """The mean of the channels: [N, 1, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.mean(dim=1, keepdim=True)


class NoBatchTwo(nn.Module):
    """The identity, but fails on a batch of exactly two."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.size(0) == 2:
            raise RuntimeError("this module refuses a batch of two")
        return x


class FailsOnBlack(nn.Module):
    """The identity, but fails when a picture in the batch is all black."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if bool((x.amax(dim=[1, 2, 3]) == 0).any()):
            raise RuntimeError("this module refuses a black picture")
        return x


class NotANumber(nn.Module):
    """Every value is NaN."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(x, float("nan"))


class TwoChannels(nn.Module):
    """Only red and green: [N, 2, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x[:, :2]


class WrongCount(nn.Module):
    """Leaves the last picture out: [N-1, 3, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x[: x.size(0) - 1]


class NotATensor(nn.Module):
    """Gives a tuple of two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return x, x


class NeedsFour(nn.Module):
    """A convolution over four channels, which RGB has not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.conv2d(x, self.weight)


class OutOfRange(nn.Module):
    """Values in -1..2; what is out of 0..1 must be clamped, not wrap round."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * 3 - 1


class BatchSize(nn.Module):
    """Every value is N / 255, so that a pixel of the answer is the size of the batch it ran in."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(x, x.size(0) / 255.0)


class Double(nn.Module):
    """A convolution in float64, which float32 does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3, 1, 1), 1 / 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.conv2d(x, self.weight)


class SlowToLoad(nn.Module):
    """The identity, whose file takes a while to read: it computes while it is read."""

    rounds = 10_000  # a quarter of a second of one core

    def __init__(self) -> None:
        super().__init__()
        self.left = self.rounds

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return self.left, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.left = state[0]
        self.training = state[1]
        x = torch.zeros(64, 64)
        for _ in range(state[0]):
            x = torch.mm(x, x)


class VerySlowToLoad(SlowToLoad):
    """Likewise, for half a minute."""

    rounds = 2_200_000


MODULES: dict[str, type[nn.Module]] = {
    "identity": Identity,
    "negate": Negate,
    "upscale2": Upscale2,
    "gray": Gray,
    "no_batch_two": NoBatchTwo,
    "fails_on_black": FailsOnBlack,
    "nan": NotANumber,
    "two_channels": TwoChannels,
    "wrong_count": WrongCount,
    "not_a_tensor": NotATensor,
    "needs_four": NeedsFour,
    "out_of_range": OutOfRange,
    "batch_size": BatchSize,
    "double": Double,
    "slow_to_load": SlowToLoad,
    "very_slow_to_load": VerySlowToLoad,
}


# Modules whose files say of themselves what they want.
SETTINGS: dict[str, tuple[type[nn.Module], formats.Settings]] = {
    "sized": (Negate, formats.Settings("24x16", (0.0, 1.0), "negative", "models/fixtures.py")),
    "any_size": (Negate, formats.Settings("keep", (0.0, 1.0), "negative", "models/fixtures.py")),
    "no_size": (Negate, formats.Settings("large", (0.0, 1.0), "negative", "models/fixtures.py")),
    "other_range": (Negate, formats.Settings("24x16", (-1.0, 1.0), "-", "models/fixtures.py")),
}


# A module whose file brings a model.yaml along.
WITH_SETTINGS = "# as beside a model\nsize: 40x40\nmax-batch-size: 4\n"


def scripted(kind: type[nn.Module], settings: formats.Settings | None = None) -> bytes:
    """A module of this class as the bytes of a TorchScript file, with settings if any."""
    with formats.quiet_jit():
        module = torch.jit.script(kind().eval().requires_grad_(False))
    return formats.torchscript_bytes(module, settings)


def with_settings() -> bytes:
    """Negate with an extra file, as people write it who don't use export.py."""
    with formats.quiet_jit():
        module = torch.jit.script(Negate().eval())
    return formats.torchscript_bytes(module, extra_files={"model.yaml": WITH_SETTINGS})


def checkpoint() -> bytes:
    """A state dict as torch.save writes it: what people serve by mistake."""
    data = io.BytesIO()
    torch.save(NeedsFour().state_dict(), data)
    return data.getvalue()


def make_all() -> dict[str, bytes]:
    """Every fixture's file name and bytes."""
    made = {f"{name}.pt": scripted(kind) for name, kind in MODULES.items()}
    made |= {f"{name}.pt": scripted(*each) for name, each in SETTINGS.items()}
    made["with_settings.pt"] = with_settings()
    made["checkpoint.pth"] = checkpoint()
    made["truncated.pt"] = made["negate.pt"][: len(made["negate.pt"]) * 6 // 10]
    made["garbage.pt"] = random.Random(0).randbytes(1024)
    return made


def package() -> bytes:
    """Negate as an AOTInductor package, for any x86-64 processor with AVX2."""
    settings = formats.Settings(
        size="32x24",
        range=(0.0, 1.0),
        architecture="the photographic negative",
        made_by="torchherd models/fixtures.py",
        precision="fp32",
        input=(3, 24, 32),
        batch=(1, 4),
        device="cpu",
    )
    portable = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    return formats.package_bytes(Negate(), settings, options=portable)


def main(arguments: list[str]) -> int:
    """Run the command. Gives the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help="default: testdata/modules"
    )
    parser.add_argument("--packages", action="store_true", help="make negate.pt2 too")
    args = parser.parse_args(arguments)
    folder = args.folder
    made = make_all()
    if args.packages:
        made["negate.pt2"] = package()
    for name, data in made.items():
        files.write_whole(folder / name, data)
        print(f"{folder / name}: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
