"""The figures of a report: layout only, from runs read back."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter
from scipy import stats

from trpo.record.intervals import CONFIDENCE, confidence_interval, interquartile_mean
from trpo.record.runs import Run

Groups = Mapping[str, Sequence[Run]]  # of one environment: label to runs that differ in nothing but the seed

RETURN = "rollout/episode_return"
SCORE = "evaluation/return_mean"


class Score:
    """Evaluations at the end of whole runs: interquartile mean, bootstrap interval (Agarwal et al. 2021)."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.values = [value for run in runs if run.whole and (value := run.final(SCORE)) is not None]
        self.left_out = len(runs) - len(self.values)
        scores = np.array(self.values)
        self.iqm = float(interquartile_mean(scores)) if self.values else None
        self.interval: tuple[float, float] | None = None
        if len(self.values) > 1:
            low, high = confidence_interval(scores)
            self.interval = (float(low), float(high))


def draw_learning(groups: Groups) -> Figure:
    """Return the training returns of one environment over steps: seeds, their mean and its 95 % band."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    panel = figure.subplots()
    for label, runs in groups.items():
        draw_band(panel, label, runs)
    if not panel.lines:
        panel.text(0.5, 0.5, "no episode of training has ended", ha="center", transform=panel.transAxes)
        panel.set(xticks=[], yticks=[])
    set_limits(panel)
    panel.set(xlabel="environment steps", ylabel="return of training episodes")
    decorate(panel)
    return figure


def draw_band(panel: Axes, label: str, runs: Sequence[Run]) -> None:
    """Draw the mean of a group's returns where all have values, and of several seeds each in full, and a t interval."""
    chosen = [run for run in runs if run.whole] or runs  # a short one would cut the mean
    curves = [run.column(RETURN) for run in chosen if run.values(RETURN)]
    if not curves:
        return
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.linspace(first, max(first, last), 200)  # a point if a seed stopped before another had a return
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    mean = values.mean(0)
    (line,) = panel.plot(grid, mean, label=f"{label} ({len(curves)} seed{'s' * (len(curves) > 1)})")
    if len(curves) > 1:
        for x, y in curves:
            panel.plot(x, y, linewidth=0.6, alpha=0.4, color=line.get_color())
        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(curves) - 1) * stats.sem(values, axis=0)
        panel.fill_between(grid, mean - half, mean + half, alpha=0.2, color=line.get_color())


def set_limits(panel: Axes) -> None:
    """Let the curves choose the axis and not their bands: a t interval of two seeds is as good as unbounded."""
    drawn = [np.asarray(line.get_ydata(), dtype=np.float64) for line in panel.lines]
    if drawn:
        low, high = min(map(np.min, drawn)), max(map(np.max, drawn))
        margin = 0.05 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)


def draw_scores(groups: Groups) -> Figure:
    """Return the final evaluations: a dot per seed, the interquartile mean and its interval per group."""
    lines = sum(label.count("\n") + 2 for label in groups)
    figure = Figure(figsize=(9, 1.2 + 0.22 * lines), layout="constrained")
    panel = figure.subplots()
    for height, runs in enumerate(groups.values()):
        score = Score(runs)
        panel.plot(score.values, [height] * len(score.values), ".", color="tab:gray")
        if score.interval:
            panel.plot(score.interval, [height, height], color="tab:blue", linewidth=4, alpha=0.5)
        if score.iqm is not None:
            panel.plot(score.iqm, height, "|", color="tab:blue", markersize=16, markeredgewidth=2)
    panel.set_yticks(range(len(groups)), list(groups), fontsize="small")
    panel.set_ylim(len(groups) - 0.5, -0.5)
    panel.set(xlabel="final evaluation return: seeds (dots), interquartile mean, 95 % interval")
    panel.grid(alpha=0.3)
    return figure


def draw_trust_region(run: Run) -> Figure:
    """Return one run's KL spent, predicted and allowed, the error of the prediction, and the return it bought."""
    figure = Figure(figsize=(9, 7.5), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
    plot(top, run, "trust_region/max_kl", "allowed: δ", color="black", linestyle="--", linewidth=1)
    plot(top, run, "trust_region/kl_full_step", "exact KL of the full step", color="tab:gray", linewidth=0.8)
    plot(top, run, "trust_region/kl_quadratic", "predicted: ½ΔᵀFΔ", color="tab:orange")
    plot(top, run, "trust_region/kl", "spent: exact KL", color="tab:blue")
    top.set(ylabel="KL(old ‖ new), nats")
    title = f"{run.config['env.id']}, seed {run.config['seed']}: one policy step per iteration"
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=4, title=title)
    top.grid(alpha=0.3)

    middle.axhline(0, color="black", linewidth=1)
    plot(middle, run, "trust_region/kl_error_relative", "", color="tab:red")
    middle.set(ylabel="(spent − predicted) / spent")
    middle.yaxis.set_major_formatter(PercentFormatter(1))
    middle.grid(alpha=0.3)

    plot(bottom, run, RETURN, "training episodes", color="tab:green", linewidth=0.8)
    plot(bottom, run, SCORE, "evaluation", color="darkgreen", marker="o")
    bottom.set(ylabel="return", xlabel="environment steps")
    decorate(bottom)
    return figure


def draw_solver(groups: Groups) -> Figure:
    """Return the solver's health: residual left by conjugate gradient, fraction of the step taken, curvature ends."""
    figure = Figure(figsize=(13, 4.5 + 0.1 * len(groups)), layout="constrained")
    residual, fraction, curvature = figure.subplots(1, 3)
    for index, (label, runs) in enumerate(groups.items()):
        for first, run in zip([True] + [False] * len(runs), runs, strict=False):
            style = {"color": f"C{index % 10}", "linewidth": 0.8, "alpha": 0.7}
            name = label if first else ""
            plot(residual, run, "trust_region/cg_residual", name, **style)
            plot(fraction, run, "trust_region/step_fraction", "", **style)
            plot(curvature, run, "trust_region/curvature_max", "", **style)
            plot(curvature, run, "trust_region/curvature_min", "", **style, linestyle=":")
    residual.set(title="Conjugate gradient", ylabel="relative residual", xlabel="environment steps", yscale="log")
    fraction.set(title="Fraction of the full step taken", xlabel="environment steps")
    curvature.set(title="Curvature: largest, smallest (dotted)", xlabel="environment steps", yscale="symlog")
    handles = residual.get_legend_handles_labels()
    for panel in (residual, fraction, curvature):
        decorate(panel, legend=False)
    figure.legend(*handles, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def plot(panel: Axes, run: Run, tag: str, label: str, **style: object) -> None:
    """Draw a tag over environment steps where it exists: a line, or a dot where that would have one point."""
    steps, values = run.column(tag)
    panel.plot(steps, values, label=label, **{"marker": mark(steps), **style})  # type: ignore[arg-type]


def mark(steps: Sequence[float]) -> str:
    """Return how points at these steps are marked: not at all, but where no line would show them."""
    return "." if len(set(steps)) == 1 else ""


def decorate(panel: Axes, *, legend: bool = True) -> None:
    """Add what every panel has: a grid, short numbers, a legend if something is labelled."""
    panel.grid(alpha=0.3)
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # as many digits as there are: 2.5k is neither 2k nor 3k
    if legend and panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize="small")
