"""Rows to Markdown tables."""

import math

from speed.rows import Row
from speed.timing import exponent

Ratio = tuple[str, str]  # contestants: the first over the second


def number(value: float) -> str:
    """Return a figure with as many digits as a timing has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(row: Row) -> str:
    """Return the median with the least and the greatest value, or why there is none."""
    if row.median is None:
        return "–"
    return f"{number(row.median)} ({number(min(row.values))}–{number(max(row.values))})"


def table(header: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table; columns after the first are flushed right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def list_table(rows: list[Row], unit: str) -> str:
    """Return a line for every contestant, with where the time of an iteration went if that is known."""
    parts = list(dict.fromkeys(name for row in rows for name in row.parts))
    lines = [
        [row.contestant, spread(row), *(f"{row.parts[name]:.0%}" if name in row.parts else "" for name in parts)]
        for row in rows
    ]
    return table(["contestant", unit, *(f"{name}, share" for name in parts)], lines)


def pivot_table(rows: list[Row], unit: str, ratios: tuple[Ratio, ...] = (), *, fitted: bool = False) -> str:
    """Return a line for every case and a column for every contestant and ratio; exponents of the fit come last."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    keys = list(rows[0].case)
    by_case: dict[tuple[int | str, ...], dict[str, Row]] = {}
    for row in rows:
        by_case.setdefault(tuple(row.case.values()), {})[row.contestant] = row
    lines = [
        [*map(figure, case), *(spread(found[name]) for name in names), *(ratio(found, pair) for pair in ratios)]
        for case, found in by_case.items()
    ]
    if fitted:
        fits = [fit(rows, name, keys[0]) for name in names]
        lines.append(["grows as size to the power of", *[""] * (len(keys) - 1), *fits, *[""] * len(ratios)])
    units = f", {unit}" if unit else ""
    return table([*keys, *(f"{name}{units}" for name in names), *(f"{a} / {b}" for a, b in ratios)], lines)


def figure(value: int | str) -> str:
    """Return one value of a case."""
    return f"{value:,}" if isinstance(value, int) else value


def ratio(found: dict[str, Row], pair: Ratio) -> str:
    """Return the ratio of two medians, or a dash."""
    above, below = (found[name].median if name in found else None for name in pair)
    return f"{above / below:.2f}" if above and below else "–"


def fit(rows: list[Row], contestant: str, key: str) -> str:
    """Return the fitted exponent of a contestant."""
    points = [(float(row.case[key]), row.median) for row in rows if row.contestant == contestant and row.median]
    slope = exponent([size for size, _ in points], [value for _, value in points]) if points else math.nan
    return "–" if math.isnan(slope) else f"{slope:.2f}"


def notes(rows: list[Row]) -> str:
    """Return every note once, as a list."""
    found = dict.fromkeys(
        row.note if row.contestant in row.note else f"{row.contestant}: {row.note}" for row in rows if row.note
    )
    return "\n".join(f"- {note}" for note in found)
