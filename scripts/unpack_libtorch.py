"""Unpack the parts of PyTorch's wheels that the build and a CPU server need.

These are the headers, and the libraries that libtorch_cpu depends on. The CUDA libraries, the
Python part and the tools are left out.

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
    """Return the path of a wheel's member below the folder, or None if it is left out."""
    path = pathlib.PurePosixPath(name)
    if name.startswith("torch/include/"):
        return pathlib.Path(*path.parts[1:])
    if path.name.startswith(LIBRARIES) and ".dist-info" not in name:
        return pathlib.Path("lib", path.name)
    if ".dist-info" in name and path.name.lower().startswith(NOTICES):
        return pathlib.Path("licenses", path.parts[0].split("-")[0], *path.parts[1:])
    return None


def main() -> None:
    """Unpack the wheels that the arguments name."""
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
