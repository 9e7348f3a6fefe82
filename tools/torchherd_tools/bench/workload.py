"""The images that are sent to the servers, and the models that they run."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import skimage
from PIL import Image, ImageOps

from torchherd_tools import paths
from torchherd_tools.bench import servers
from torchherd_tools.errors import ToolError

# Astronaut Eileen Collins, by NASA, in the public domain.
PHOTOGRAPH = "astronaut.png"


@dataclass(frozen=True)
class SentImage:
    """An image that is sent: width and height in pixels, and the JPEG quality."""

    name: str
    width: int
    height: int
    quality: int

    def path(self, folder: Path) -> Path:
        """Return the path of the image in the work folder."""
        return folder / f"{self.name}.jpg"


IMAGES = (
    SentImage("small", 228, 228, 10),
    SentImage("medium", 590, 480, 96),
    SentImage("large", 1500, 1220, 95),
)


# The rate of an open loop, as a share of the server's rate in the closed loop.
OPEN_SHARE = 0.7


@dataclass(frozen=True)
class Regime:
    """The loads of one model. The field names are keys of results.json.

    The loads with many clients, which send the images of many_pictures, are for thorough rows only.
    Those rows also get an open loop with each image of open_pictures, at OPEN_SHARE of their rate
    in the closed loop. A load lasts stretch times as long as the user asked for.
    """

    name: str
    about: str
    pictures: tuple[SentImage, ...]
    clients: tuple[int, ...]
    many: tuple[int, ...]
    many_pictures: tuple[SentImage, ...]
    open_pictures: tuple[SentImage, ...]
    warm_up_seconds: int
    stretch: int


REGIMES = (
    Regime(
        name=servers.OVERHEAD,
        about="a model that only negates",
        pictures=IMAGES,
        clients=(1, 4, 16),
        many=(64, 256, 512),
        many_pictures=IMAGES[1:2],
        open_pictures=IMAGES,
        warm_up_seconds=1,
        stretch=1,
    ),
    Regime(
        name=servers.COMPUTE,
        about="a full CycleGAN generator, ngf 64, 9 blocks, random weights",
        pictures=IMAGES[1:2],
        clients=(16,),
        many=(),
        many_pictures=(),
        open_pictures=(),
        # A batch takes seconds, and its responses arrive together.
        warm_up_seconds=5,
        stretch=8,
    ),
)


# The kinds of the CycleGAN's file: the end of its name, and the exporter's flags.
MODELS = {
    "torchscript": (".pt", ()),
    "pt2": (".pt2", ("--format", "pt2")),
    "pt2-bf16": ("-bf16.pt2", ("--format", "pt2", "--dtype", "bf16")),
}


class WorkloadError(ToolError):
    """A model cannot be exported."""


def make_images(folder: Path) -> None:
    """Write the missing images: one photograph, cropped and scaled to each size."""
    folder.mkdir(parents=True, exist_ok=True)
    photograph = Image.open(Path(skimage.data_dir, PHOTOGRAPH)).convert("RGB")
    for image in IMAGES:
        path = image.path(folder)
        if not path.exists():
            size = (image.width, image.height)
            scaled = ImageOps.fit(photograph, size, Image.Resampling.LANCZOS)
            scaled.save(path, "JPEG", quality=image.quality)


def model(regime: str, kind: str, folder: Path) -> Path:
    """Return the model of a regime; kind is a key of MODELS. A missing file is exported to folder.

    Raises WorkloadError if the export fails.
    """
    if regime == servers.OVERHEAD:
        return paths.testdata() / "modules" / "negate.pt"
    suffix, flags = MODELS[kind]
    path = folder / f"cyclegan{suffix}"
    if not path.exists():
        # The memory of a separate process is free again before the measurement.
        export = [*servers.command("export"), "--random", "--seed", "0", *flags, "-o", path]
        done = subprocess.run(export, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise WorkloadError(f"{path}: {done.stderr.strip()}")
    return path
