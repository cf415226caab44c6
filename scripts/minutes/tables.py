"""The table of the seconds, and the figure of returns over seconds."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minutes.contest import CONTESTANTS, TASKS
from minutes.episodes import WINDOW

Results = Sequence[dict[str, Any]]
TICKS = (1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds


def report(results: Results, minutes: float) -> str:
    """Return the page: what is measured, a table for every machine, and what everybody was run with."""
    shown = [name for name in CONTESTANTS if any(result["contestant"] == name for result in results)]
    tables = [f"{where(runs)}\n\n{table(runs, shown)}" for runs in by_machine(results)]
    return "\n\n".join([introduction(minutes), *tables, told(shown)]) + "\n"


def by_machine(results: Results) -> list[Results]:
    """Return the results of every machine, of the one with the most first: seconds compare on one machine only."""
    machines = dict.fromkeys(result["machine"] for result in results)
    groups = [[result for result in results if result["machine"] == machine] for machine in machines]
    return sorted(groups, key=len, reverse=True)


def where(runs: Results) -> str:
    """Return the seeds that ran on a machine, and what it is."""
    seeds = sorted({run["seed"] for run in runs})
    return f"Seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, {runs[0]['machine']}:"


def introduction(minutes: float) -> str:
    """Return what stands above the tables."""
    return (
        f"Seconds from the start of a process until the mean return of its last {WINDOW} training episodes, sampled "
        "actions, first passed a threshold, on two cores that it had to itself: medians over seeds, with how many of "
        f"them passed where not all did. “–, at N”: not within {minutes:g} minutes, or within its own number of steps "
        f"where those were over before; N is where the mean was then. An empty cell: not run. A table for each machine."
    )


def table(results: Results, contestants: Sequence[str]) -> str:
    """Return a row for every threshold of every task that anybody ran on."""
    titles = [CONTESTANTS[name].title for name in contestants]
    lines = [f"| environment, return | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for name, task in TASKS.items():
        of_task = [result for result in results if result["task"] == name]
        for threshold in task.thresholds if of_task else ():
            cells = [cell([run for run in of_task if run["contestant"] == one], threshold) for one in contestants]
            lines.append(f"| {task.id}, {threshold:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(runs: Results, threshold: int) -> str:
    """Return the median of the seconds, those of a seed that did not pass being infinite."""
    if not runs:
        return ""
    seconds = [math.inf if (at := run["seconds"][str(threshold)]) is None else at for run in runs]
    passed = sum(map(math.isfinite, seconds))
    some = f" ({passed} of {len(runs)})" if 0 < passed < len(runs) else ""
    if math.isfinite(median(seconds)):
        return f"{median(seconds):,.0f}{some}"
    pairs = zip(runs, seconds, strict=True)
    means = [run["final_mean"] for run, at in pairs if math.isinf(at) and run["final_mean"] is not None]
    return f"–, at {median(means):,.0f}{some}" if means else f"–, no episode ended{some}"


def told(contestants: Sequence[str]) -> str:
    """Return what everybody was run with, as a list."""
    return "\n".join(f"- {CONTESTANTS[name].title}: {CONTESTANTS[name].told}" for name in contestants)


def draw(results: Results) -> Figure:
    """Return a panel for every task: median and range over seeds, of the machine with the most runs, and thresholds."""
    results = by_machine(results)[0]
    figure = Figure(figsize=(13, 7), layout="constrained")
    *panels, last = figure.subplots(2, 3).flat
    for panel, task in zip(panels, TASKS, strict=True):
        draw_task(panel, [result for result in results if result["task"] == task and result["curve"]], task)
    lines = {line.get_label(): line for panel in panels for line in panel.get_legend_handles_labels()[0]}
    ordered = {one.title: lines[one.title] for one in CONTESTANTS.values() if one.title in lines}
    last.legend(ordered.values(), ordered.keys(), loc="center", frameon=False)
    last.set_axis_off()
    return figure


def draw_task(panel: Axes, results: Results, task: str) -> None:
    """Draw the curves of everybody on one task; contestants keep their colours from panel to panel."""
    for place, (name, contestant) in enumerate(CONTESTANTS.items()):
        curves = [np.array(result["curve"])[:, [0, 2]] for result in results if result["contestant"] == name]
        if curves:
            seconds, values = together(curves)
            panel.plot(seconds, np.median(values, axis=0), color=f"C{place}", label=contestant.title)
            panel.fill_between(seconds, values.min(0), values.max(0), color=f"C{place}", alpha=0.15, linewidth=0)
    for threshold in TASKS[task].thresholds:
        panel.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xticks(TICKS, [str(tick) for tick in TICKS])
    panel.set_xticks([], minor=True)
    if results:
        panel.set_xlim(min(run["curve"][0][0] for run in results), 1.02 * max(run["curve"][-1][0] for run in results))
    panel.set_title(TASKS[task].id, fontsize=10)
    panel.set(xlabel="seconds", ylabel=f"return, last {WINDOW} episodes")
    panel.grid(alpha=0.3)


def together(curves: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds (K,) at which every seed has a value, and these (seeds, K); a seed that has ended stays there."""
    first, last = max(curve[0, 0] for curve in curves), max(curve[-1, 0] for curve in curves)
    seconds = np.geomspace(first, max(first, last), 300)
    return seconds, np.array([np.interp(seconds, curve[:, 0], curve[:, 1]) for curve in curves])
