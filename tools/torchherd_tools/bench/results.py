"""The results of a run, as the command bench writes them, and figures computed from them."""

from collections.abc import Mapping
from dataclasses import dataclass

from torchherd_tools.bench import spread

BASELINE = "torchherd"


@dataclass(frozen=True)
class Cell:
    """The loads of a regime with one image and one number of clients.

    Floors have 0 clients, and no image if the image makes no difference. open selects the open
    loop, which also has 0 clients.
    """

    regime: str
    picture: str
    clients: int
    open: bool = False


class Results:
    """The results of a run; data is the content of results.json."""

    def __init__(self, data: Mapping[str, object]) -> None:
        self.data = data

    def regime(self, name: str) -> dict[str, object] | None:
        """Return a regime's images, clients and so on; None if it was not measured."""
        return next((each for each in self.data["regimes"] if each["name"] == name), None)

    def rows(self, regime: str, floors: bool = False) -> list[dict[str, object]]:
        """Return the servers or the floors that have loads in a regime."""
        measured = {load["row"] for load in self.data["loads"] if load["regime"] == regime}
        return [
            row for row in self.data["rows"] if row["name"] in measured and row["floor"] == floors
        ]

    def by_round(self, row: str, cell: Cell, figure: str = "rate") -> dict[int, float]:
        """Return a row's figure by round: a field of measure.Load, such as "rate" or "p99"."""
        return {
            load["round"]: load[figure]
            for load in self.data["loads"]
            if load["row"] == row
            and Cell(load["regime"], load["picture"], load["clients"], load["open"]) == cell
            and load[figure] is not None
        }

    def figure(self, row: str, cell: Cell, figure: str = "rate") -> spread.Spread | None:
        """Return the spread of a row's figure over the rounds; None if it was not measured."""
        return spread.spread(list(self.by_round(row, cell, figure).values()))

    def ratio(
        self, row: str, cell: Cell, base: str, base_cell: Cell | None = None
    ) -> spread.Spread | None:
        """Return the ratio of a row's rate to a base row's, which may be in another cell."""
        return spread.ratio(self.by_round(row, cell), self.by_round(base, base_cell or cell))

    def failed_share(self, row: str, cell: Cell) -> float:
        """Return the share of a row's requests without a good response, over all rounds."""
        failed = sum(self.by_round(row, cell, "failed").values())
        total = failed + sum(self.by_round(row, cell, "good").values())
        return failed / total if total else 0.0

    def behind(self, row: str, cell: Cell) -> bool:
        """Report whether the load generator fell behind in a round of this row."""
        return any(self.by_round(row, cell, "behind").values())

    def starts(self, row: str, regime: str, figure: str) -> list[float | None]:
        """Return a row's "seconds", "memory" or "decibels" of each start in a regime."""
        return [
            start[figure]
            for start in self.data["starts"]
            if start["row"] == row and start["regime"] == regime
        ]

    def ranked(self, regime: str, cell: Cell, floors: bool = False) -> list[dict[str, object]]:
        """Return the rows that were measured in a cell, sorted by rate, fastest first."""
        rated = [
            (figure.median, row)
            for row in self.rows(regime, floors)
            if (figure := self.figure(row["name"], cell)) is not None
        ]
        return [row for _, row in sorted(rated, key=lambda each: -each[0])]
