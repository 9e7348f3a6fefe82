"""Photographs in another look, by classical methods: the B pictures of a training without painters.

Each look takes an RGB picture as float [H, W, 3] in 0..1 and a random generator for its texture,
and gives a picture of the same shape and range. The widths are in pixels and chosen by eye for
pictures of about 300 pixels in height. None of this is learned; a look is what a CycleGAN is to
learn.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import color, filters, restoration, util
from torch.nn import functional as F

Picture = NDArray[np.float32]
Look = Callable[[Picture, np.random.Generator], Picture]

PAPER = np.array((0.97, 0.95, 0.90), np.float32)
INK = np.array((0.10, 0.10, 0.16), np.float32)
_GRAPHITE = np.array((0.22, 0.22, 0.24), np.float32)
_SECTORS = 8


def render(picture: NDArray[np.uint8], look: str, seed: int) -> NDArray[np.uint8]:
    """An RGB picture, uint8 [H, W, 3], in a look of LOOKS; the same seed gives the same texture."""
    source = np.random.default_rng(seed)
    made = LOOKS[look](util.img_as_float32(picture), source)
    return util.img_as_ubyte(np.clip(made, 0, 1))


def oil(picture: Picture, source: np.random.Generator) -> Picture:
    """Flat dabs with sharp borders in strong colours, on canvas."""
    dabs = _saturate(_kuwahara(picture, radius=5), 1.5)
    canvas = filters.gaussian(source.standard_normal(picture.shape[:2]), 0.7)
    return dabs + 0.05 * canvas[..., None].astype(np.float32)


def ink(picture: Picture, _: np.random.Generator) -> Picture:
    """Black strokes and shadows on smooth paper: an extended difference of Gaussians.

    After Winnemöller, Kyprianidis and Olsen (2012): the difference is added back to the picture
    many times over, and a soft threshold turns the sum into ink and paper. The paper has no grain:
    a generator, which is given no noise, can only draw a pattern in its place.
    """
    grey = color.rgb2gray(picture)
    fine, coarse = filters.gaussian(grey, 0.9), filters.gaussian(grey, 1.44)
    sharp = fine + 18 * (fine - coarse)
    threshold = 0.45 * float(np.median(grey)) + 0.15
    light = np.where(sharp >= threshold, 1, 1 + np.tanh(6 * (sharp - threshold)))
    return _on_paper(light, INK, np.zeros_like(grey))


def watercolour(picture: Picture, source: np.random.Generator) -> Picture:
    """Light washes that thin out and gather at their borders, on rough paper."""
    smooth = restoration.denoise_bilateral(
        picture, sigma_color=0.12, sigma_spatial=4, bins=256, channel_axis=-1
    ).astype(np.float32)
    wash = _saturate(_posterise(_kuwahara(smooth, radius=4), 7), 1.3)
    wash = 1 - 0.75 * (1 - wash)
    border = filters.sobel(color.rgb2gray(wash))
    flow = filters.gaussian(source.standard_normal(picture.shape[:2]), 10)
    pigment = 1 + 1.2 * border + 1.2 * flow + _grain(picture.shape[:2], source, 0.06)
    # Pigment lets light through: twice as much of it squares what is left of the light.
    return PAPER * np.maximum(wash, 0.02) ** np.maximum(pigment, 0.2)[..., None]


def pencil(picture: Picture, source: np.random.Generator) -> Picture:
    """Graphite contours, and hatching that is denser in the shadows."""
    grey = color.rgb2gray(picture)
    blurred = filters.gaussian(grey, 4)
    # Where the picture is darker than its surroundings there is a line: the dodge of a darkroom.
    lines = np.clip((grey + 0.02) / (blurred + 0.02), 0, 1) ** 2
    shade = 1 - 0.75 * np.clip(0.75 - blurred, 0, 1)
    hatched = 1 - (1 - shade) * (1 + 1.6 * _hatching(grey.shape, source))
    return _on_paper(lines * hatched, _GRAPHITE, _grain(grey.shape, source, 0.05))


LOOKS: dict[str, Look] = {"oil": oil, "ink": ink, "watercolour": watercolour, "pencil": pencil}


def _kuwahara(picture: Picture, radius: int) -> Picture:
    """The generalised Kuwahara filter of Papari, Petkov and Campisi (2007).

    Round each pixel lie eight soft sectors. The pixel becomes the mean of their means, in which a
    sector counts the more the more uniform it is.
    """
    x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[:, None]
    padded = F.pad(x, (2 * radius,) * 4, mode="replicate")
    sectors = torch.from_numpy(_sectors(radius))[:, None]
    mean = F.conv2d(padded, sectors)
    variance = F.conv2d(padded.square(), sectors) - mean.square()
    deviation = variance.clamp(min=0).sum(0).sqrt()
    weight = 1 / (deviation + 0.01) ** 8
    made = (mean * weight).sum(1) / weight.sum(0)
    return made.permute(1, 2, 0).numpy()


def _sectors(radius: int) -> NDArray[np.float32]:
    """The weights of the eight sectors of a disc, [8, side, side], each with the sum 1."""
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


def _saturate(picture: Picture, factor: float) -> Picture:
    """The picture with its colours further from grey by a factor."""
    grey = color.rgb2gray(np.clip(picture, 0, 1))[..., None]
    return np.clip(grey + factor * (picture - grey), 0, 1).astype(np.float32)


def _posterise(picture: Picture, levels: int) -> Picture:
    """The picture drawn towards a few levels of lightness, with soft steps between them."""
    lab = color.rgb2lab(np.clip(picture, 0, 1))
    step = 100 / (levels - 1)
    level = np.round(lab[..., 0] / step) * step
    lab[..., 0] = level + step / 2 * np.tanh((lab[..., 0] - level) / step)
    return color.lab2rgb(lab).astype(np.float32)


def _grain(
    shape: tuple[int, ...], source: np.random.Generator, strength: float
) -> NDArray[np.float64]:
    """The roughness of paper: smoothed noise with a standard deviation of strength."""
    noise = filters.gaussian(source.standard_normal(shape), 0.8)
    return strength * noise / noise.std()


def _hatching(shape: tuple[int, ...], source: np.random.Generator) -> NDArray[np.float64]:
    """Slanting strokes, about -1..1: noise that is smeared along a diagonal."""
    height, width = shape
    # Sheared by a pixel a row, a column of the smeared noise becomes a diagonal of the result.
    noise = filters.gaussian(source.standard_normal((height, width + height)), (9, 0.7))
    rows = np.arange(height)[:, None]
    strokes = noise[rows, np.arange(width) + rows]
    return np.clip(strokes / (2 * strokes.std()), -1, 1)


def _on_paper(light: NDArray[np.floating], tone: Picture, grain: NDArray[np.floating]) -> Picture:
    """A drawing of one tone: light 0 is the tone, 1 is the paper, [H, W]; grain is added."""
    share = np.clip(light, 0, 1)[..., None]
    return (tone + share * (PAPER - tone) + grain[..., None]).astype(np.float32)
