"""Find and read image files."""

from pathlib import Path

from PIL import Image, ImageOps

from torchherd_tools.errors import ToolError


class FolderError(ToolError):
    """A folder has no images that can be used."""


def suffixes() -> set[str]:
    """Return the suffixes of the formats that Pillow reads, in lower case with their dots."""
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def find(folder: Path) -> list[Path]:
    """Return the files below a folder whose suffix is that of an image, sorted by path.

    Hidden files are left out. Raises FolderError if there is no such folder or no image in it.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder; name a folder of images")
    readable = suffixes()
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in readable
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not found:
        raise FolderError(f"{folder}: holds no images; add some, for example as JPEG or PNG")
    return found


def read(path: Path) -> Image.Image:
    """Read an image as RGB, turned upright by its EXIF orientation.

    Raises ValueError with the reason if Pillow cannot read it.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:
        # Pillow documents no list of exceptions: OSError, SyntaxError, struct.error and others
        # depend on the format.
        reason = " ".join(str(error).split())
        raise ValueError(f"{type(error).__name__}: {reason}") from error
