"""What all commands share: the argument parser, the line for an error, types of arguments."""

import argparse
import sys


def parser(name: str, description: str | None, **options: object) -> argparse.ArgumentParser:
    """Return the argument parser of a command. The lines of the description stay as they are."""
    return argparse.ArgumentParser(
        prog=f"torchherd_tools {name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **options,
    )


def failed(name: str, error: Exception) -> int:
    """Print why a command failed, in one line on stderr, and return its exit status."""
    print(f"{name}: {error}", file=sys.stderr)
    return 1


def at_least_one(text: str) -> int:
    """Convert an argument to an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
