"""Make the files of testdata/avif, which take AV1's transforms and symbols in all sizes."""

from pathlib import Path

import numpy as np
from PIL import Image

from torchherd_tools import command
from torchherd_tools.paths import testdata

WIDTH, HEIGHT = 203, 157  # neither is a multiple of a block


def drawing() -> Image.Image:
    """Return smooth colours, waves that grow finer, noise in one corner and stripes in another."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = 60 * np.sin(x * x / 300.0) * np.cos(y * y / 400.0)
    pixels = np.stack([x + waves, 255 - y - waves, (x + y) / 2 + waves], axis=-1)
    noise = np.random.default_rng(19).normal(0, 40, pixels.shape)
    pixels += noise * ((x > WIDTH // 2) & (y > HEIGHT // 2))[..., None]
    stripes = (x < WIDTH // 3) & (y > 2 * HEIGHT // 3)
    pixels[stripes] = np.where((x // 3 % 2)[stripes], 240, 15)[..., None]
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


FILES = {
    "coarse": {"quality": 20},
    "middle": {"quality": 70, "speed": 4},
    "fine-444": {"quality": 95, "subsampling": "4:4:4"},
    "lossless": {"quality": 100, "subsampling": "4:4:4", "advanced": {"lossless": "1"}},
    "grain": {"quality": 50, "advanced": {"film-grain-test": "3"}},
}


def main(arguments: list[str] | None = None) -> int:
    """Write the files."""
    command.parser("avif", __doc__).parse_args(arguments)
    folder: Path = testdata() / "avif"
    folder.mkdir(exist_ok=True)
    for name, options in FILES.items():
        drawing().save(folder / f"{name}.avif", max_threads=1, **options)
    return 0
