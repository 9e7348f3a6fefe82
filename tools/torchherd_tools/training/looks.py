"""Render photographs in artistic looks by classical methods, as training images B.

A look takes an RGB image as float [H, W, 3] in 0..1 and a random generator for its texture, and
returns an image of the same shape and range. Widths are in pixels, chosen by eye for images of
about 300 pixels in height. A CycleGAN then learns the look.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import color, filters, restoration, util
from torch.nn import functional as F

Image = NDArray[np.float32]
Look = Callable[[Image, np.random.Generator], Image]

PAPER = np.array((0.97, 0.95, 0.90), np.float32)
INK = np.array((0.10, 0.10, 0.16), np.float32)
_GRAPHITE = np.array((0.22, 0.22, 0.24), np.float32)
_SECTORS = 8


def render(image: NDArray[np.uint8], look: str, seed: int) -> NDArray[np.uint8]:
    """Render an RGB image, uint8 [H, W, 3], in a look of LOOKS; the seed determines the texture."""
    source = np.random.default_rng(seed)
    rendered = LOOKS[look](util.img_as_float32(image), source)
    return util.img_as_ubyte(np.clip(rendered, 0, 1))


def oil(image: Image, source: np.random.Generator) -> Image:
    """Draw flat dabs with sharp borders and strong colours, on canvas."""
    dabs = _saturate(_kuwahara(image, radius=5), 1.5)
    canvas = filters.gaussian(source.standard_normal(image.shape[:2]), 0.7)
    return dabs + 0.05 * canvas[..., None].astype(np.float32)


def ink(image: Image, _: np.random.Generator) -> Image:
    """Draw black strokes and shadows on smooth paper, by an extended difference of Gaussians.

    After Winnemöller, Kyprianidis and Olsen (2012): a multiple of the difference is added to the
    image, and a soft threshold turns the sum into ink and paper. The paper has no grain: a
    generator, which has no noise as input, could only draw a pattern instead.
    """
    grey = color.rgb2gray(image)
    fine, coarse = filters.gaussian(grey, 0.9), filters.gaussian(grey, 1.44)
    sharp = fine + 18 * (fine - coarse)
    threshold = 0.45 * float(np.median(grey)) + 0.15
    light = np.where(sharp >= threshold, 1, 1 + np.tanh(6 * (sharp - threshold)))
    return _on_paper(light, INK, np.zeros_like(grey))


def watercolour(image: Image, source: np.random.Generator) -> Image:
    """Paint light washes, thinner inside and denser at their borders, on rough paper."""
    smooth = restoration.denoise_bilateral(
        image, sigma_color=0.12, sigma_spatial=4, bins=256, channel_axis=-1
    ).astype(np.float32)
    wash = _saturate(_posterise(_kuwahara(smooth, radius=4), 7), 1.3)
    wash = 1 - 0.75 * (1 - wash)
    border = filters.sobel(color.rgb2gray(wash))
    flow = filters.gaussian(source.standard_normal(image.shape[:2]), 10)
    pigment = 1 + 1.2 * border + 1.2 * flow + _grain(image.shape[:2], source, 0.06)
    # Pigment transmits light: twice as much pigment squares the transmitted share.
    return PAPER * np.maximum(wash, 0.02) ** np.maximum(pigment, 0.2)[..., None]


def pencil(image: Image, source: np.random.Generator) -> Image:
    """Draw graphite contours, and hatching that is denser in the shadows."""
    grey = color.rgb2gray(image)
    blurred = filters.gaussian(grey, 4)
    # Lines are where the image is darker than its surroundings (color dodge).
    lines = np.clip((grey + 0.02) / (blurred + 0.02), 0, 1) ** 2
    shade = 1 - 0.75 * np.clip(0.75 - blurred, 0, 1)
    hatched = 1 - (1 - shade) * (1 + 1.6 * _hatching(grey.shape, source))
    return _on_paper(lines * hatched, _GRAPHITE, _grain(grey.shape, source, 0.05))


LOOKS: dict[str, Look] = {"oil": oil, "ink": ink, "watercolour": watercolour, "pencil": pencil}


def _kuwahara(image: Image, radius: int) -> Image:
    """Apply the generalized Kuwahara filter of Papari, Petkov and Campisi (2007).

    A pixel becomes the weighted mean of the means of eight soft sectors around it. The weight of a
    sector grows with its uniformity.
    """
    x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[:, None]
    padded = F.pad(x, (2 * radius,) * 4, mode="replicate")
    sectors = torch.from_numpy(_sectors(radius))[:, None]
    mean = F.conv2d(padded, sectors)
    variance = F.conv2d(padded.square(), sectors) - mean.square()
    deviation = variance.clamp(min=0).sum(0).sqrt()
    weight = 1 / (deviation + 0.01) ** 8
    made = (mean * weight).sum(1) / weight.sum(0)
    return made.permute(1, 2, 0).numpy()


def _sectors(radius: int) -> NDArray[np.float32]:
    """Return the weights of the eight sectors of a disc, [8, side, side]; each sums to 1."""
    axis = np.arange(-2 * radius, 2 * radius + 1)
    across, down = np.meshgrid(axis, axis)
    disc = np.exp(-(across**2 + down**2) / (2 * (0.8 * radius) ** 2))
    angle = np.arctan2(down, across)
    sectors = []
    for i in range(_SECTORS):
        turned = np.angle(np.exp(1j * (angle - 2 * np.pi * i / _SECTORS)))
        wedge = np.where((across == 0) & (down == 0), 1 / _SECTORS, np.abs(turned) < np.pi / 8)
        sector = disc * filters.gaussian(wedge.astype(float), 0.15 * radius)
        sectors.append(sector / sector.sum())
    return np.stack(sectors).astype(np.float32)


def _saturate(image: Image, factor: float) -> Image:
    """Scale the distance of colours from grey by a factor."""
    grey = color.rgb2gray(np.clip(image, 0, 1))[..., None]
    return np.clip(grey + factor * (image - grey), 0, 1).astype(np.float32)


def _posterise(image: Image, levels: int) -> Image:
    """Reduce lightness to a few levels, with soft steps between them."""
    lab = color.rgb2lab(np.clip(image, 0, 1))
    step = 100 / (levels - 1)
    level = np.round(lab[..., 0] / step) * step
    lab[..., 0] = level + step / 2 * np.tanh((lab[..., 0] - level) / step)
    return color.lab2rgb(lab).astype(np.float32)


def _grain(
    shape: tuple[int, ...], source: np.random.Generator, strength: float
) -> NDArray[np.float64]:
    """Return the roughness of paper: smoothed noise with standard deviation strength."""
    noise = filters.gaussian(source.standard_normal(shape), 0.8)
    return strength * noise / noise.std()


def _hatching(shape: tuple[int, ...], source: np.random.Generator) -> NDArray[np.float64]:
    """Return diagonal strokes, about -1..1: noise that is smeared along a diagonal."""
    height, width = shape
    # Shearing by one pixel per row turns a column of the smeared noise into a diagonal.
    noise = filters.gaussian(source.standard_normal((height, width + height)), (9, 0.7))
    rows = np.arange(height)[:, None]
    strokes = noise[rows, np.arange(width) + rows]
    return np.clip(strokes / (2 * strokes.std()), -1, 1)


def _on_paper(light: NDArray[np.floating], tone: Image, grain: NDArray[np.floating]) -> Image:
    """Draw in one tone: light, [H, W], is 0 for the tone and 1 for paper; grain is added."""
    share = np.clip(light, 0, 1)[..., None]
    return (tone + share * (PAPER - tone) + grain[..., None]).astype(np.float32)
