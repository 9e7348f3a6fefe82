"""Files of the checkout that the tools read and write: test data, the bundled model, programs."""

from pathlib import Path

from torchherd_tools.errors import ToolError


class CheckoutError(ToolError):
    """The package is installed without the checkout whose files a command needs."""


def root() -> Path:
    """Return the folder of the checkout. Raises CheckoutError if the package is outside one."""
    package = Path(__file__).resolve().parent
    folder = package.parent.parent
    if not (folder / "tools" / "pyproject.toml").is_file():
        raise CheckoutError(
            f"{package}: not in a checkout of torchherd, whose files this command needs; "
            "install it from a checkout, by make python"
        )
    return folder


def testdata() -> Path:
    """Return the folder of the test data: modules, pictures and goldens."""
    return root() / "testdata"


def bundled_model() -> Path:
    """Return the model that torchherd serves by default."""
    return root() / "models" / "photo2ink" / "model.pt"


def torchherd() -> Path:
    """Return the server, which `make build` builds."""
    return root() / "bin" / "torchherd"


def floors() -> Path:
    """Return the program of the floors, which `make floors-build` builds."""
    return root() / "build" / "csrc" / "floors"
