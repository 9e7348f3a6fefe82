"""Folders of pictures as training reads them: decoded once, then cut at random from a seed.

Which picture the k-th sample of a folder is, and how it is cut, follow from the seed and k alone.
So a run that goes on from a checkpoint sees what it would have seen, and nothing about the data has
to be saved. The rejected way, a random generator that moves on, must be saved and restored in step.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F


class FolderError(Exception):
    """A folder cannot be trained on. The text says what happened, to what, and what to do."""


def stream(seed: int, name: str) -> torch.Generator:
    """A random generator on the CPU of its own for each name, from one seed."""
    return torch.Generator().manual_seed(stream_seed(seed, name))


def stream_seed(seed: int, name: str) -> int:
    """A seed for one use of randomness, in 0..2^63-1: the first bits of a digest of both."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def suffixes() -> set[str]:
    """The suffixes of the formats that Pillow reads, in lower case, each with its dot."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def find(folder: Path) -> list[Path]:
    """The files below a folder that are pictures by their suffix, in the order of their paths.

    Hidden files are left out. Raises FolderError when there is no such folder or no picture.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; give one with pictures in it")
    readable = suffixes()
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in readable
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise FolderError(f"{folder}: holds no pictures; put some in, as JPEG or PNG for instance")
    return found


def read(path: Path) -> Image.Image:
    """A picture as RGB, upright by its EXIF tag.

    Raises ValueError, with the reason, when Pillow cannot read it.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        # What Pillow raises depends on the format and on where its bytes stop making sense:
        # OSError, SyntaxError, struct.error and others. There is no closed list.
        reason = " ".join(str(error).split())
        raise ValueError(f"{type(error).__name__}: {reason}") from error


def fit(image: Image.Image, short_side: int) -> Image.Image:
    """The picture scaled so that its shorter side has short_side pixels."""
    scale = short_side / min(image.size)
    width, height = (max(short_side, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB picture as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_unit(pixels: Tensor) -> Tensor:
    """Pixels of 0..255 as float in -1..1."""
    return pixels.float() / 127.5 - 1


def to_pixels(x: Tensor) -> Tensor:
    """Float in -1..1 as uint8 in 0..255, rounded; what lies outside is clipped."""
    return ((x.float() + 1) * 127.5).round().clamp(0, 255).byte()


@dataclass(frozen=True)
class Cut:
    """How samples are cut: squares of crop pixels, from pictures of load_size, scaled by jitter.

    load_size is the shorter side in pixels that every picture is scaled to when it is read. A
    sample is a square of crop..crop * jitter pixels, shrunk to crop, in half the cases mirrored.
    """

    crop: int
    load_size: int
    jitter: float


class PictureFolder:
    """The pictures of a folder in memory, as uint8, and an endless stream of samples of them.

    name tells the folder's stream apart from another's with the same seed. broken has a line for
    each picture that could not be read and was skipped. Raises FolderError when none is left.
    """

    def __init__(self, folder: Path, cut: Cut, seed: int, name: str) -> None:
        self.cut = cut
        self.seed = seed
        self.name = name
        self.names: list[str] = []
        self.broken: list[str] = []
        self._pictures: list[Tensor] = []
        for path in find(folder):
            try:
                image = read(path)
            except ValueError as error:
                self.broken.append(f"{path}: {error}")
                continue
            self.names.append(path.relative_to(folder).as_posix())
            self._pictures.append(to_tensor(fit(image, cut.load_size)))
        if not self._pictures:
            raise FolderError(
                f"{folder}: none of its {len(self.broken)} pictures can be read; "
                f"replace them (the first is {self.broken[0]})"
            )
        self._order = functools.lru_cache(maxsize=1)(self._shuffle)

    def __len__(self) -> int:
        return len(self._pictures)

    def fingerprint(self) -> str:
        """A digest of the names of the pictures, which a resumed run compares."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()

    def batch(self, step: int, size: int) -> Tensor:
        """The samples of a training step: float [size, 3, crop, crop] in -1..1."""
        return torch.stack([self.sample(step * size + i) for i in range(size)])

    def sample(self, index: int) -> Tensor:
        """The index-th sample: float [3, crop, crop] in -1..1.

        Each picture comes once in every len(self) samples, in an order shuffled each time anew.
        """
        epoch, place = divmod(index, len(self))
        picture = self._pictures[self._order(epoch)[place]]
        source = stream(self.seed, f"{self.name} cut {index}")
        return self._cut(picture, *torch.rand(4, generator=source).tolist())

    def middle(self, index: int) -> Tensor:
        """The largest square in the middle of a picture: float [3, crop, crop] in -1..1."""
        picture = self._pictures[index % len(self)]
        _, height, width = picture.shape
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _square(picture, top, left, side, self.cut.crop)

    def _shuffle(self, epoch: int) -> list[int]:
        source = stream(self.seed, f"{self.name} order {epoch}")
        return torch.randperm(len(self), generator=source).tolist()

    def _cut(self, picture: Tensor, size: float, down: float, right: float, flip: float) -> Tensor:
        """One sample of a picture, by four numbers in 0..1 (1 excluded)."""
        _, height, width = picture.shape
        crop, jitter = self.cut.crop, self.cut.jitter
        side = min(round(crop * (1 + size * (jitter - 1))), height, width)
        top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
        sample = _square(picture, top, left, side, crop)
        return sample.flip(2) if flip < 0.5 else sample


def _square(picture: Tensor, top: int, left: int, side: int, size: int) -> Tensor:
    """A square of a picture, scaled to [3, size, size], as float in -1..1."""
    x = to_unit(picture[:, top : top + side, left : left + side])
    if side == size:
        return x
    scaled = F.interpolate(x[None], (size, size), mode="bilinear", antialias=True)
    return scaled[0]
