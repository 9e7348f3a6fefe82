"""The results of a run, as compare.py writes them, and the figures that are taken from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import spread

YARDSTICK = "torchherd"


@dataclass(frozen=True)
class Cell:
    """Which loads are meant: those of a regime with a picture and so many clients.

    Floors have 0 clients, and no picture where the picture makes no difference. open means the
    open loop, which has 0 clients too.
    """

    regime: str
    picture: str
    clients: int
    open: bool = False


class Results:
    """The results of a run; `told` is the content of results.json."""

    def __init__(self, told: Mapping[str, object]) -> None:
        self.told = told

    def regime(self, name: str) -> dict[str, object] | None:
        """A regime's pictures, clients and so on; None when it was not measured."""
        return next((each for each in self.told["regimes"] if each["name"] == name), None)

    def rows(self, regime: str, floors: bool = False) -> list[dict[str, object]]:
        """The rows that have loads in a regime: the servers, or the floors."""
        measured = {load["row"] for load in self.told["loads"] if load["regime"] == regime}
        return [
            row for row in self.told["rows"] if row["name"] in measured and row["floor"] == floors
        ]

    def by_round(self, row: str, cell: Cell, figure: str = "rate") -> dict[int, float]:
        """A row's figure in each round: a field of measure.Load, such as "rate" or "p99"."""
        return {
            load["round"]: load[figure]
            for load in self.told["loads"]
            if load["row"] == row
            and Cell(load["regime"], load["picture"], load["clients"], load["open"]) == cell
            and load[figure] is not None
        }

    def figure(self, row: str, cell: Cell, figure: str = "rate") -> spread.Spread | None:
        """The spread of a row's figure over the rounds; None where it was not measured."""
        return spread.spread(list(self.by_round(row, cell, figure).values()))

    def ratio(
        self, row: str, cell: Cell, base: str, base_cell: Cell | None = None
    ) -> spread.Spread | None:
        """A row's rate over another row's, round by round; that one's in another cell if given."""
        return spread.ratio(self.by_round(row, cell), self.by_round(base, base_cell or cell))

    def failed_share(self, row: str, cell: Cell) -> float:
        """Which part of a row's requests had no good answer, over all rounds."""
        failed = sum(self.by_round(row, cell, "failed").values())
        asked = failed + sum(self.by_round(row, cell, "good").values())
        return failed / asked if asked else 0.0

    def behind(self, row: str, cell: Cell) -> bool:
        """Whether the load generator could not keep up with a row in some round."""
        return any(self.by_round(row, cell, "behind").values())

    def starts(self, row: str, regime: str, figure: str) -> list[float | None]:
        """A row's "seconds", "memory" or "decibels" at each of its starts in a regime."""
        return [
            start[figure]
            for start in self.told["starts"]
            if start["row"] == row and start["regime"] == regime
        ]

    def ranked(self, regime: str, cell: Cell, floors: bool = False) -> list[dict[str, object]]:
        """The rows that were measured in a cell, the fastest first."""
        rated = [
            (figure.median, row)
            for row in self.rows(regime, floors)
            if (figure := self.figure(row["name"], cell)) is not None
        ]
        return [row for _, row in sorted(rated, key=lambda each: -each[0])]
