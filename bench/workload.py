"""What is sent to the servers, and what they run: made where it is missing, always the same."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import skimage
from PIL import Image, ImageOps

import servers

# Astronaut Eileen Collins, by NASA, in the public domain.
PHOTOGRAPH = "astronaut.png"


@dataclass(frozen=True)
class Picture:
    """A picture that is sent: width and height in pixels, and the JPEG quality it is kept in."""

    name: str
    width: int
    height: int
    quality: int

    def path(self, folder: Path) -> Path:
        """Where it lies in the work folder."""
        return folder / f"{self.name}.jpg"


PICTURES = (
    Picture("small", 228, 228, 10),
    Picture("medium", 590, 480, 96),
    Picture("large", 1500, 1220, 95),
)


# Of a server's greatest rate, what it is asked for in an open loop.
OPEN_SHARE = 0.7


@dataclass(frozen=True)
class Regime:
    """What a server is asked for under one model.

    many is how many clients ask in those extra loads that only thorough rows get, all with the
    pictures of many_pictures; those rows also get an open loop with each picture of open_pictures,
    at OPEN_SHARE of what they did in the closed one. A load lasts stretch times as long as the user
    said.
    """

    name: str
    about: str
    pictures: tuple[Picture, ...]
    clients: tuple[int, ...]
    many: tuple[int, ...]
    many_pictures: tuple[Picture, ...]
    open_pictures: tuple[Picture, ...]
    warm_up_seconds: int
    stretch: int


REGIMES = (
    Regime(
        name=servers.OVERHEAD,
        about="a model that only negates",
        pictures=PICTURES,
        clients=(1, 4, 16),
        many=(64, 256, 512),
        many_pictures=PICTURES[1:2],
        open_pictures=PICTURES,
        warm_up_seconds=1,
        stretch=1,
    ),
    Regime(
        name=servers.COMPUTE,
        about="a full CycleGAN generator, ngf 64, 9 blocks, random weights",
        pictures=PICTURES[1:2],
        clients=(16,),
        many=(),
        many_pictures=(),
        open_pictures=(),
        # A batch takes seconds, and answers come a batch at a time.
        warm_up_seconds=5,
        stretch=8,
    ),
)


# The kinds of the CycleGAN's file: how its name ends, and the exporter's flags.
MODELS = {
    "torchscript": (".pt", ()),
    "pt2": (".pt2", ("--format", "pt2")),
    "pt2-bf16": ("-bf16.pt2", ("--format", "pt2", "--dtype", "bf16")),
}


class WorkloadError(Exception):
    """A model cannot be made. The text says what happened, to what, and what to do."""


def make_pictures(folder: Path) -> None:
    """Write the pictures that are missing: one photograph, cut and scaled to each size."""
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Image.open(Path(skimage.data_dir, PHOTOGRAPH)).convert("RGB")
    for picture in PICTURES:
        path = picture.path(folder)
        if not path.exists():
            size = (picture.width, picture.height)
            scaled = ImageOps.fit(photograph, size, Image.Resampling.LANCZOS)
            scaled.save(path, "JPEG", quality=picture.quality)


def model(regime: str, kind: str, folder: Path) -> Path:
    """The model of a regime, in the work folder; kind is a key of MODELS.

    Raises WorkloadError when it cannot be exported.
    """
    if regime == servers.OVERHEAD:
        return servers.ROOT / "testdata" / "modules" / "negate.pt"
    suffix, flags = MODELS[kind]
    path = folder / f"cyclegan{suffix}"
    if not path.exists():
        export = [sys.executable, servers.ROOT / "models" / "export.py", "--random", "--seed", "0"]
        command = [*export, *flags, "-o", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise WorkloadError(f"{path} cannot be made: {done.stderr.strip()}")
    return path
