"""Unpacks what the build and a CPU server need of PyTorch's wheels: headers, and the libraries that
libtorch_cpu stands on. LibTorch's CUDA libraries, its Python part and its tools stay behind.

    unpack_libtorch.py FOLDER WHEEL...
"""

from __future__ import annotations

import pathlib
import shutil
import sys
import zipfile

LIBRARIES = ("libtorch_cpu.", "libc10.", "libgomp", "libomp", "libcudart.so", "libcupti.so")
NOTICES = ("license", "notice", "copying", "copyright")


def target(name: str) -> pathlib.Path | None:
    """Where a member of a wheel belongs below the folder, or None when it isn't kept."""
    path = pathlib.PurePosixPath(name)
    if name.startswith("torch/include/"):
        return pathlib.Path(*path.parts[1:])
    if path.name.startswith(LIBRARIES) and ".dist-info" not in name:
        return pathlib.Path("lib", path.name)
    if ".dist-info" in name and path.name.lower().startswith(NOTICES):
        return pathlib.Path("licenses", path.parts[0].split("-")[0], *path.parts[1:])
    return None


def main() -> None:
    """Unpacks the wheels that the arguments name."""
    folder = pathlib.Path(sys.argv[1])
    for wheel in sys.argv[2:]:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                where = target(member.filename)
                if where is None or member.is_dir():
                    continue
                (folder / where).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (folder / where).open("wb") as out:
                    shutil.copyfileobj(source, out)


if __name__ == "__main__":
    main()
