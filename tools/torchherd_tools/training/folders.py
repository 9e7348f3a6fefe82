"""Folders of images for training: decoded once, then cropped at random from a seed.

The k-th sample of a folder and its crop depend only on the seed and k. So a run that resumes from a
checkpoint gets the samples that it would have got without a break, and a checkpoint stores nothing
about the data. The rejected design, one random generator that advances, must be saved and restored.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from torchherd_tools import images
from torchherd_tools.images import FolderError


def stream(seed: int, name: str) -> torch.Generator:
    """Return a random generator on the CPU, one for each seed and name."""
    return torch.Generator().manual_seed(stream_seed(seed, name))


def stream_seed(seed: int, name: str) -> int:
    """Return a seed in 0..2^63-1 for one use of randomness: the first bits of a digest of both."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fit(image: Image.Image, short_side: int) -> Image.Image:
    """Scale an image so that its shorter side has short_side pixels."""
    scale = short_side / min(image.size)
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """Convert pixels in 0..255 to float in -1..1."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: Tensor) -> Tensor:
    """Convert float in -1..1 to uint8 in 0..255, rounded and clamped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Cut:
    """How samples are cropped from images.

    load_size is the shorter side in pixels to which each image is scaled when it is read. A sample
    is a square of crop..crop * jitter pixels, scaled down to crop, and mirrored with probability
    one half.
    """

    crop: int
    load_size: int
    jitter: float


class ImageFolder:
    """The images of a folder in memory, as uint8, and an endless stream of samples of them.

    Two folders with the same seed need different names to get different streams. broken has a line
    for each image that could not be read and was skipped. Raises FolderError if no image is left.
    """

    def __init__(self, folder: Path, cut: Cut, seed: int, name: str) -> None:
        self.cut = cut
        self.seed = seed
        self.name = name
        self.names: list[str] = []
        self.broken: list[str] = []
        self._images: list[Tensor] = []
        for path in images.find(folder):
            try:
                image = images.read(path)
            except ValueError as error:
                self.broken.append(f"{path}: {error}")
                continue
            self.names.append(path.relative_to(folder).as_posix())
            self._images.append(to_tensor(fit(image, cut.load_size)))
        if not self._images:
            raise FolderError(
                f"{folder}: none of its {len(self.broken)} images can be read; "
                f"replace them (the first is {self.broken[0]})"
            )
        self._order = functools.lru_cache(maxsize=1)(self._shuffle)

    def __len__(self) -> int:
        return len(self._images)

    def fingerprint(self) -> str:
        """Return a digest of the images' names, which a resumed run compares."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def batch(self, step: int, size: int) -> Tensor:
        """Return the samples of a training step: float [size, 3, crop, crop] in -1..1."""
        return torch.stack([self.sample(step * size + i) for i in range(size)])

    def sample(self, index: int) -> Tensor:
        """Return the index-th sample: float [3, crop, crop] in -1..1.

        Each image occurs once in every len(self) samples, which are shuffled again each time.
        """
        epoch, place = divmod(index, len(self))
        pixels = self._images[self._order(epoch)[place]]
        source = stream(self.seed, f"{self.name} cut {index}")
        return self._cut(pixels, *torch.rand(4, generator=source).tolist())

    def middle(self, index: int) -> Tensor:
        """Return the largest center square of an image: float [3, crop, crop] in -1..1."""
        pixels = self._images[index % len(self)]
        _, height, width = pixels.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _square(pixels, top, left, side, self.cut.crop)

    def _shuffle(self, epoch: int) -> list[int]:
        source = stream(self.seed, f"{self.name} order {epoch}")
        return torch.randperm(len(self), generator=source).tolist()

    def _cut(self, pixels: Tensor, size: float, down: float, right: float, flip: float) -> Tensor:
        """Return one sample of an image, for four numbers in 0..1, without 1."""
        _, height, width = pixels.shape
        crop, jitter = self.cut.crop, self.cut.jitter
        side = min(round(crop * (1 + size * (jitter - 1))), height, width)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        sample = _square(pixels, top, left, side, crop)
        return sample.flip(2) if flip < 0.5 else sample


def _square(pixels: Tensor, top: int, left: int, side: int, size: int) -> Tensor:
    """Return a square of an image, scaled to [3, size, size], as float in -1..1."""
    x = to_unit(pixels[:, top : top + side, left : left + side])
    if side == size:
        return x
    scaled = F.interpolate(x[None], (size, size), mode="bilinear", antialias=True)
    return scaled[0]
