"""Make the small modules in testdata/modules that the tests of torchherd serve.

Each takes float [N, 3, H, W] in 0..1. Some return values that a test can compute; the others fail
in one way each. The files are committed; run this after a change of the code or of PyTorch's
version.

The modules use no layers of torch.nn: scripting writes their constants in random order, and the
files would change without a reason.

--packages also makes the packages, which takes a minute for each; they have other bytes each time.
"""

import io
import json
import random
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchherd_tools import command, files, paths
from torchherd_tools.errors import ToolError
from torchherd_tools.models import formats

# Part of the committed files' bytes; it names the path of this module when they were first made.
_MADE_BY = "models/fixtures.py"


class Identity(nn.Module):
    """Return the input."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x


class Negate(nn.Module):
    """Return the photographic negative."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return 1 - x


class Upscale2(nn.Module):
    """Return twice the height and width; each pixel becomes four."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        # F.interpolate would add 20 KB of TorchScript for its other modes.
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


class Gray(nn.Module):
    """Return the mean of the channels: [N, 1, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x.mean(dim=1, keepdim=True)


class NoBatchTwo(nn.Module):
    """Return the input, but fail on a batch of exactly two."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.size(0) == 2:
            raise RuntimeError("this module refuses a batch of two")
        return x


class FailsOnBlack(nn.Module):
    """Return the input, but fail if an image in the batch is black."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if bool((x.amax(dim=[1, 2, 3]) == 0).any()):
            raise RuntimeError("this module refuses a black picture")
        return x


class NotANumber(nn.Module):
    """Return NaN values."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(x, float("nan"))


class TwoChannels(nn.Module):
    """Return only red and green: [N, 2, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x[:, :2]


class WrongCount(nn.Module):
    """Return all images but the last: [N-1, 3, H, W]."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x[: x.size(0) - 1]


class NotATensor(nn.Module):
    """Return a tuple of two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return x, x


class NeedsFour(nn.Module):
    """A convolution over four channels; RGB has three."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4, 1, 1), 0.25))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.conv2d(x, self.weight)


class OutOfRange(nn.Module):
    """Return values in -1..2; a server must clamp them to 0..1."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * 3 - 1


class BatchSize(nn.Module):
    """Return N / 255, so that a pixel of the response is the size of the batch."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.full_like(x, x.size(0) / 255.0)


class Double(nn.Module):
    """A convolution in float64, which does not accept float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 3, 1, 1), 1 / 3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return F.conv2d(x, self.weight)


class BatchNormInTraining(nn.Module):
    """Halve the values, and normalize each channel by its mean and deviation over the batch.

    A trace of a model in training mode has such a batch norm, with running statistics beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3).reshape(3, 3, 1, 1) / 2)
        self.mean = nn.Buffer(torch.full((3,), 0.1))
        self.variance = nn.Buffer(torch.full((3,), 0.5))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = F.conv2d(x, self.weight)
        return torch.batch_norm(y, None, None, self.mean, self.variance, True, 0.0, 1e-5, False)


class MixesImages(nn.Module):
    """Multiply by the mean of the batch, so that each result depends on the other images."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x * x.mean()


class SlowToLoad(nn.Module):
    """Return the input; loading the file takes time, since it computes."""

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
    """Return the input; loading the file takes half a minute."""

    rounds = 2_200_000


class Mix(nn.Module):
    """Mix the channels by a convolution with weights of one type, as half() and the like make."""

    dtype = torch.float32

    def __init__(self) -> None:
        super().__init__()
        weight = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]])
        self.weight = nn.Parameter(weight.reshape(3, 3, 1, 1).to(self.dtype))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.conv2d(x, self.weight)


class MixHalf(Mix):
    """Mix in float16."""

    dtype = torch.float16


class MixBfloat16(Mix):
    """Mix in bfloat16."""

    dtype = torch.bfloat16


class MixDouble(Mix):
    """Mix in float64."""

    dtype = torch.float64


class MixStoredHalf(MixHalf):
    """Mix in float32, with weights that are stored in float16."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.conv2d(x, self.weight.float())


# Modules whose weights have a type, with the type of their input.
WEIGHTS: dict[str, tuple[type[Mix], torch.dtype]] = {
    "mix_half": (MixHalf, torch.float16),
    "mix_bfloat16": (MixBfloat16, torch.bfloat16),
    "mix_double": (MixDouble, torch.float64),
    "mix_stored_half": (MixStoredHalf, torch.float32),
}


def mixed() -> bytes:
    """Return what each of WEIGHTS makes of 16x16 pixels, as JSON: all bytes, RGB."""
    pixels = bytes(index * 37 % 256 for index in range(16 * 16 * 3))
    image = torch.tensor(list(pixels)).reshape(1, 16, 16, 3).permute(0, 3, 1, 2).float() / 255
    outputs = {"pixels": list(pixels)}
    with torch.inference_mode():
        for name, (kind, dtype) in WEIGHTS.items():
            values = kind()(image.to(dtype)).float().clamp(0, 1) * 255
            outputs[name] = values.byte().permute(0, 2, 3, 1).flatten().tolist()
    return (json.dumps(outputs) + "\n").encode()


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
    "batch_norm_in_training": BatchNormInTraining,
    "slow_to_load": SlowToLoad,
    "very_slow_to_load": VerySlowToLoad,
}

# Modules that are made as packages.
PACKAGES: dict[str, tuple[type[nn.Module], str]] = {
    "negate": (Negate, "the photographic negative"),
    "mixes_images": (MixesImages, "the product with the mean of the batch"),
}

# Modules whose files hold settings.
SETTINGS: dict[str, tuple[type[nn.Module], formats.Settings]] = {
    "sized": (Negate, formats.Settings("24x16", (0.0, 1.0), "negative", _MADE_BY)),
    "any_size": (Negate, formats.Settings("keep", (0.0, 1.0), "negative", _MADE_BY)),
    "no_size": (Negate, formats.Settings("large", (0.0, 1.0), "negative", _MADE_BY)),
    "other_range": (Negate, formats.Settings("24x16", (-1.0, 1.0), "-", _MADE_BY)),
}

# The model.yaml inside a module's file.
WITH_SETTINGS = "# as beside a model\nsize: 40x40\nmax-batch-size: 4\n"


def scripted(kind: type[nn.Module], settings: formats.Settings | None = None) -> bytes:
    """Return a module of a class as the bytes of a TorchScript file with these settings."""
    return formats.torchscript_bytes(_script(kind().requires_grad_(False)), settings)


def _script(module: nn.Module) -> torch.jit.ScriptModule:
    # By default, the name of a class in the file includes that of its Python module.
    kind = type(module)
    kind._jit_override_qualname = f"__torch__.{kind.__name__}"
    with formats.quiet_jit():
        return torch.jit.script(module.eval())


def with_settings() -> bytes:
    """Return Negate with an extra file, as torch.jit.save writes it."""
    return formats.torchscript_bytes(_script(Negate()), extra_files={"model.yaml": WITH_SETTINGS})


def checkpoint() -> bytes:
    """Return a state dict as torch.save writes it, which users serve by mistake."""
    data = io.BytesIO()
    torch.save(NeedsFour().state_dict(), data)
    return data.getvalue()


def make_all() -> dict[str, bytes]:
    """Return the file names of all fixtures and their bytes."""
    made = {f"{name}.pt": scripted(kind) for name, kind in MODULES.items()}
    made |= {f"{name}.pt": scripted(*each) for name, each in SETTINGS.items()}
    made |= {f"{name}.pt": scripted(kind) for name, (kind, _) in WEIGHTS.items()}
    made["mixed.json"] = mixed()
    made["with_settings.pt"] = with_settings()
    made["checkpoint.pth"] = checkpoint()
    made["truncated.pt"] = made["negate.pt"][: len(made["negate.pt"]) * 6 // 10]
    made["garbage.pt"] = random.Random(0).randbytes(1024)
    return made


def package(kind: type[nn.Module], architecture: str) -> bytes:
    """Return a module as an AOTInductor package for all x86-64 processors with AVX2."""
    settings = formats.Settings(
        size="32x24",
        range=(0.0, 1.0),
        architecture=architecture,
        made_by=f"torchherd {_MADE_BY}",
        precision="fp32",
        input=(3, 24, 32),
        batch=(1, 4),
        device="cpu",
    )
    portable = {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    return formats.package_bytes(kind(), settings, options=portable)


def main(arguments: list[str]) -> int:
    """Run the command, and return its exit status: 0, or 1 with one line on stderr."""
    parser = command.parser("fixtures", __doc__)
    parser.add_argument("--folder", type=Path, help="default: testdata/modules")
    parser.add_argument("--packages", action="store_true", help="also make the packages")
    args = parser.parse_args(arguments)
    try:
        folder = args.folder or paths.testdata() / "modules"
        made = make_all()
        if args.packages:
            made |= {f"{name}.pt2": package(*each) for name, each in PACKAGES.items()}
        for name, data in made.items():
            files.write_whole(folder / name, data)
            print(f"{folder / name}: {len(data)} bytes")
    except (ToolError, OSError) as error:
        return command.failed("fixtures", error)
    return 0
