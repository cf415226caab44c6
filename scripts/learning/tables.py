"""The learning table, the figure, and what stands under them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from learning.contest import PEER, env_id
from learning.estimates import PROTOCOLS, Estimate, Result
from learning.targets import TARGETS, Target
from trpo.record.intervals import confidence_interval, interquartile_mean

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

ROUNDING = 1.005  # runs end with a whole iteration
Results = dict[tuple[str, str], Result]


def write_table(results: Results, contestant: str, tasks: Sequence[str]) -> str:
    """Return one contestant's results as Markdown: against the targets, then with intervals."""
    chosen = [task for task in tasks if (contestant, task) in results]
    return "\n\n".join([against_targets(results, contestant, chosen), with_intervals(results, contestant, chosen)])


def against_targets(results: Results, contestant: str, tasks: Sequence[str]) -> str:
    """Return mean ± standard deviation over seeds under every protocol, beside the target."""
    lines = [
        "| environment | to reach | " + " | ".join(f"({key}) {text}" for key, text in PROTOCOLS.items()),
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines[0] += " | seeds | steps | seconds |"
    lines[1] = "| --- | --- |" + " --- |" * len(PROTOCOLS) + " --- | --- | --- |"
    for task in tasks:
        result = results[contestant, task]
        cells = [spread(result.estimates.get(key)) for key in PROTOCOLS]
        lines.append(
            f"| {env_id(task)} | {verdict(results, contestant, task)} | {' | '.join(cells)} | {len(result.points)} "
            f"| {result.env_steps:,.0f} | {result.seconds:.0f} |"
        )
    return "\n".join(lines)


def verdict(results: Results, contestant: str, task: str) -> str:
    """Return the target of a task, its protocol, and whether the mean over seeds reaches it in as many steps."""
    target = target_of(results, task)
    if target is None or target.score is None:
        return "–"
    if contestant == PEER and TARGETS[task].score is None:
        return f"{number(target.score)} ({target.protocol}) · its own"
    result = results[contestant, task]
    found = result.estimates.get(target.protocol)
    if result.env_steps > ROUNDING * target.steps:
        word = "too many steps"
    else:
        word = "reached" if found is not None and found.mean >= target.score else "missed"
    return f"{number(target.score)} ({target.protocol}) · {word}"


def target_of(results: Results, task: str) -> Target | None:
    """Return a task's target; where it is the peer's own score here, as measured."""
    target = TARGETS.get(task)
    if target is not None and target.score is None and (PEER, task) in results:
        return target._replace(score=results[PEER, task].estimates[target.protocol].mean)
    return target


def with_intervals(results: Results, contestant: str, tasks: Sequence[str]) -> str:
    """Return interquartile means with their 95 % intervals."""
    lines = [
        "| interquartile mean [95 %] | " + " | ".join(f"({key})" for key in PROTOCOLS) + " |",
        "| --- |" + " --- |" * len(PROTOCOLS),
    ]
    for task in tasks:
        estimates = results[contestant, task].estimates
        lines.append(f"| {env_id(task)} | " + " | ".join(interval(estimates.get(key)) for key in PROTOCOLS) + " |")
    return "\n".join(lines)


def spread(estimate: Estimate | None) -> str:
    """Return mean ± standard deviation, which one seed alone does not have."""
    if estimate is None:
        return "–"
    return number(estimate.mean) + (f" ± {number(estimate.std)}" if len(estimate.scores) > 1 else "")


def interval(estimate: Estimate | None) -> str:
    """Return the interquartile mean and its interval, which one seed alone does not have."""
    if estimate is None:
        return "–"
    bounds = f" [{number(estimate.low)}, {number(estimate.high)}]" if len(estimate.scores) > 1 else ""
    return number(estimate.iqm) + bounds


def number(value: float) -> str:
    """Return a return with as many digits as it deserves."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def draw(results: Results, contestants: Sequence[str], tasks: Sequence[str], file: Path) -> None:
    """Write the learning curves: interquartile mean with its 95 % band, seeds as thin lines, the target dashed."""
    chosen = [task for task in tasks if any((contestant, task) in results for contestant in contestants)]
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.0 * rows), squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, task in zip(grid.flat, chosen, strict=False):
        draw_task(axes, results, contestants, task)
    lines = {line.get_label(): line for axes in grid.flat for line in axes.get_legend_handles_labels()[0]}
    across = min(2 * columns, len(lines))  # names of as many fit into the figure
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncol=across, frameon=False)
    figure.tight_layout(rect=(0, 0.1 * -(-len(lines) // across) / rows, 1, 1))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def draw_task(axes: Axes, results: Results, contestants: Sequence[str], task: str) -> None:
    """Draw one task."""
    for place, contestant in enumerate(contestants):
        if (contestant, task) not in results:
            continue
        result, colour = results[contestant, task], f"C{place}"
        axes.plot(result.steps / 1e3, result.points.T, color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(result.steps / 1e3, interquartile_mean(result.points, axis=0), color=colour, label=contestant)
        axes.fill_between(
            result.steps / 1e3, *confidence_interval(result.points), color=colour, alpha=0.15, linewidth=0
        )
    if (target := target_of(results, task)) is not None and target.score is not None:
        axes.axhline(target.score, color="black", linestyle="--", linewidth=0.8)
    lowest, highest = np.percentile(np.concatenate([line.get_ydata() for line in axes.lines]), [1, 100])
    margin = 0.05 * (highest - lowest) or 1.0
    axes.set_ylim(lowest - margin, highest + margin)
    axes.set_title(env_id(task), fontsize=10)
    axes.set_xlabel("thousand environment steps", fontsize=8)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.tick_params(labelsize=8)
