"""Statistics of repeated measurements: medians with their spread, and ratios within a round."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing: the median, the least and the greatest."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of some values; None when there are none."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def ratio(values: Mapping[int, float], base: Mapping[int, float]) -> Spread | None:
    """How values compare with a base, both by round, as quotients within a round.

    A machine that is slower in one round is so for both. Rounds that miss one of the two, and those
    whose base is 0, are left out; None when no round is left.
    """
    return spread(
        [value / base[number] for number, value in values.items() if base.get(number, 0) > 0]
    )
