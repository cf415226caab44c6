"""What the benchmark found: rows of a section, as data that JSON can hold."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

Case = dict[str, int | str]  # what was varied: {"samples": 2048, "threads": 1}


@dataclass
class Row:
    """One contestant in one case; without values it could not be measured, and the note says why."""

    contestant: str
    case: Case
    values: list[float]
    note: str = ""
    parts: dict[str, float] = field(default_factory=dict)  # where the time of a training iteration went, shares of it

    @property
    def median(self) -> float | None:
        """The median of the values."""
        return statistics.median(self.values) if self.values else None


@dataclass(frozen=True)
class Options:
    """What the command line decides about every section."""

    device: torch.device
    repetitions: int
    quick: bool  # one small case of everything, to see that it runs


def to_data(rows: list[Row]) -> list[dict[str, Any]]:
    """Return rows as JSON holds them."""
    return [asdict(row) for row in rows]


def from_data(data: list[dict[str, Any]]) -> list[Row]:
    """Return rows that `to_data` wrote."""
    return [Row(**row) for row in data]


def extend(rows: list[Row], more: list[Row]) -> list[Row]:
    """Return rows with the values of further repetitions added; a row of `more` that is not there yet is appended."""
    merged = {(row.contestant, tuple(row.case.items())): row for row in rows}
    for row in more:
        key = (row.contestant, tuple(row.case.items()))
        old = merged.get(key)
        merged[key] = (
            row if old is None else Row(row.contestant, row.case, old.values + row.values, row.note, row.parts)
        )
    return list(merged.values())


def find(rows: list[Row], contestant: str, **case: int | str) -> float | None:
    """Return the median of a contestant in the first case that has these figures, or None."""
    for row in rows:
        if row.contestant == contestant and case.items() <= row.case.items():
            return row.median
    return None
