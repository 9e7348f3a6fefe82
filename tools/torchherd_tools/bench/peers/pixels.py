"""The processing of images that all peers share, so that they differ only in how they serve.

The responses are those of the reference server: RGB, Pillow's bilinear resize to 228x228, a model
on float NCHW in 0..1, clamped, as a JPEG of quality 75.
"""

import io
import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIZE = (228, 228)

Pixels = np.ndarray  # uint8 [H, W, 3]


def decode(body: bytes) -> Pixels:
    """Decode an image to pixels of SIZE."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    return np.asarray(image.resize(SIZE, Image.Resampling.BILINEAR))


def encode(pixels: Pixels) -> bytes:
    """Encode pixels as JPEG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=75)
    return out.getvalue()


class Model:
    """A TorchScript model on the CPU, with pixels in and out."""

    def __init__(self, path: str, threads: int) -> None:
        """Load a file. threads is the number of threads of one forward."""
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            # TorchScript is deprecated; the comparison is about serving it.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
            self._module = torch.jit.load(path, map_location="cpu").eval()

    @torch.inference_mode()
    def __call__(self, images: list[Pixels]) -> list[Pixels]:
        """Return the results for a batch of images, in the same order."""
        batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
        results: Tensor = self._module(batch.float().div_(255))
        results = results.clamp(0, 1).mul_(255).byte().permute(0, 2, 3, 1)
        return list(results.contiguous().numpy())
