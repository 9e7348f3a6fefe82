"""Types of command line arguments that several programs take."""

import argparse


def at_least_one(text: str) -> int:
    """A whole number from 1 on, as a type for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
