"""Statistics of repeated measurements: medians with their spread, and ratios within a round."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one quantity: the median, the minimum and the maximum."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread | None:
    """Return the spread of the values; None without values."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Mapping[int, float], base: Mapping[int, float]) -> Spread | None:
    """Return the spread of the quotients of values and base within each round.

    A machine that is slower in one round is slower for both. Rounds without one of the two, and
    those whose base is 0, are left out; the result is None if no round is left.
    """
    return spread(
        [value / base[number] for number, value in values.items() if base.get(number, 0) > 0]
    )
