"""How near one generator's images are to another's, on seeded noise and on a photograph."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import data as photographs
from torch import Tensor

Model = Callable[[Tensor], Tensor]


def noise(shapes: Iterable[tuple[int, int, int]], channels: int = 3) -> list[Tensor]:
    """Return seeded noise in 0..1, float [N, channels, H, W], for shapes (N, H, W)."""
    source = torch.Generator().manual_seed(0)
    return [torch.rand(n, channels, h, w, generator=source) for n, h, w in shapes]


def photograph(height: int, width: int, channels: int = 3) -> Tensor:
    """Return scikit-image's photograph of an astronaut, cropped: float [1, channels, H, W] in 0..1.

    channels is 3 for RGB, or 1 for grey.
    """
    image = ImageOps.fit(Image.fromarray(photographs.astronaut()), (width, height))
    pixels = np.array(image if channels == 3 else image.convert("L")).reshape(height, width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def worst_difference(model: Model, reference: Model, images: list[Tensor]) -> float:
    """Return the largest absolute difference of two models' values; NaN if one of them is NaN."""
    with torch.inference_mode():
        return torch.stack([(model(x) - reference(x)).abs().max() for x in images]).max().item()


def least_psnr(model: Model, reference: Model, images: list[Tensor]) -> float:
    """Return the least PSNR of a model's images in dB, for the range 0..1; NaN if a value is NaN.

    The result is at most 120 dB.
    """
    with torch.inference_mode():
        errors = [(model(x) - reference(x)).square().mean() for x in images]
    error = torch.stack(errors).max().item()
    return error if math.isnan(error) else -10 * math.log10(max(error, 1e-12))
