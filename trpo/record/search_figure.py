"""The figure of a search: how it went, and what each key did."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = {"complete": ("o", "tab:blue"), "pruned": ("x", "tab:gray")}
COLUMNS = 4


class Point(NamedTuple):
    """A trial that has a value."""

    number: int
    value: float
    state: str
    values: dict[str, float | int | str]  # what was tried


def write_search(points: Sequence[Point], logarithmic: dict[str, bool], file: Path) -> None:
    """Draw the trials, over time and over each searched key, into a PNG file; keys name their axes."""
    draw_search(points, logarithmic).savefig(file, dpi=110)


def draw_search(points: Sequence[Point], logarithmic: dict[str, bool]) -> Figure:
    """Return a panel of values over trials, with the best so far, and one for each searched key."""
    panels = 1 + len(logarithmic)
    rows, columns = math.ceil(panels / COLUMNS), min(panels, COLUMNS)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    history, *slices = figure.subplots(rows, columns, squeeze=False).flat
    draw_history(history, points)
    for panel, (name, log) in zip(slices, logarithmic.items(), strict=False):
        draw_slice(panel, points, name, log=log)
    for panel in slices[len(logarithmic) :]:
        panel.remove()
    figure.legend(*history.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def draw_history(panel: Axes, points: Sequence[Point]) -> None:
    """Draw the trials in their order, and the best complete one so far."""
    mark(panel, points, [point.number for point in points])
    complete = sorted((point for point in points if point.state == "complete"), key=lambda point: point.number)
    best = np.maximum.accumulate(np.array([point.value for point in complete]))
    panel.step([point.number for point in complete], best, where="post", color="tab:orange", label="best so far")
    panel.set(xlabel="trial", ylabel="value of the trial")
    panel.grid(alpha=0.3)


def draw_slice(panel: Axes, points: Sequence[Point], name: str, *, log: bool) -> None:
    """Draw the values over what was tried of one key; choices stand side by side, numbers in their order."""
    tried = [point for point in points if name in point.values]
    numbers = [point.values[name] for point in tried]
    if any(isinstance(number, str) for number in numbers):
        names = sorted({str(number) for number in numbers})
        panel.set_xticks(range(len(names)), names, fontsize="small")
        numbers = [names.index(str(number)) for number in numbers]
    elif log and all(float(number) > 0 for number in numbers):
        panel.set_xscale("log")
    else:
        panel.locator_params(axis="x", nbins=5)  # labels with a sign and decimals do not touch
    mark(panel, tried, [float(number) for number in numbers])
    panel.set(xlabel=name)
    panel.grid(alpha=0.3)


def mark(panel: Axes, points: Sequence[Point], places: Sequence[float]) -> None:
    """Mark the trials at their places, by how they ended."""
    for state, (marker, color) in MARKERS.items():
        chosen = [(x, point.value) for x, point in zip(places, points, strict=True) if point.state == state]
        if chosen:
            panel.plot(*zip(*chosen, strict=True), marker, color=color, label=state)
