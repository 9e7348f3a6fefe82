"""Run a command: `python -m torchherd_tools COMMAND ...`."""

import importlib
import sys

# A command's module is imported when it runs: some import PyTorch, which takes seconds.
COMMANDS = {
    "export": ("models.export", "export CycleGAN or pix2pix weights, compile TorchScript"),
    "info": ("models.info", "describe a model file"),
    "horse2zebra": ("models.horse2zebra", "download and export the published horse2zebra model"),
    "showcase": ("models.showcase", "make before-and-after images with a server"),
    "data": ("training.data", "make training folders from photographs"),
    "train": ("training.train", "train a CycleGAN"),
    "evaluate": ("training.evaluate", "evaluate a trained model on held-out photographs"),
    "fixtures": ("testdata.fixtures", "make testdata/modules"),
    "goldens": ("testdata.goldens", "make testdata/pictures and testdata/goldens"),
    "colour": ("testdata.colour", "make testdata/colour with Little CMS's transicc"),
    "avif": ("testdata.avif", "make testdata/avif"),
    "formats": ("testdata.formats", "make testdata/formats"),
    "heic": ("testdata.heic", "make testdata/heic with pillow-heif"),
    "parity": ("parity.compare", "compare a server's responses with a reference server's"),
    "parity-corpus": ("parity.corpus", "compare how torchherd and Pillow read a folder of images"),
    "reference": ("parity.reference", "run the Python reference server"),
    "bench": ("bench.comparison", "compare torchherd with other servers"),
    "gpu": ("bench.gpu", "measure how much of a GPU torchherd uses"),
    "eager": ("bench.eager", "time a model in Python, without a server"),
}


def usage() -> str:
    """Return the text of --help."""
    lines = [f"  {name:13} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m torchherd_tools COMMAND ...",
            "",
            *lines,
            "",
            "COMMAND --help describes a command.",
        ]
    )


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names, and return its exit status."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(usage())
        return 0
    if not arguments or arguments[0] not in COMMANDS:
        what = f"unknown command {arguments[0]}" if arguments else "no command"
        print(f"torchherd_tools: {what}\n{usage()}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"torchherd_tools.{COMMANDS[arguments[0]][0]}")
    return module.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
