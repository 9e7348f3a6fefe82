"""What every peer does to a picture, so that they differ only in how they serve.

The answers are those of bench/reference.py: RGB, Pillow's bilinear resize to 228x228, a model on
float NCHW in 0..1, clamped, as a JPEG of quality 75.
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
    """A picture's bytes as pixels of SIZE."""
    image = Image.open(io.BytesIO(body)).convert("RGB")
    return np.asarray(image.resize(SIZE, Image.Resampling.BILINEAR))


def encode(pixels: Pixels) -> bytes:
    """Pixels as a JPEG."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=75)
    return out.getvalue()


class Model:
    """A TorchScript model on the CPU, from pixels to pixels."""

    def __init__(self, path: str, threads: int) -> None:
        """Load a file. threads is how many one forward may use."""
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            # TorchScript is deprecated; what is compared here is how it is served.
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.")
            self._module = torch.jit.load(path, map_location="cpu").eval()

    @torch.inference_mode()
    def __call__(self, pictures: list[Pixels]) -> list[Pixels]:
        """The answers to a batch of pictures, in their order."""
        batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        answers: Tensor = self._module(batch.float().div_(255))
        answers = answers.clamp(0, 1).mul_(255).byte().permute(0, 2, 3, 1)
        return list(answers.contiguous().numpy())
