"""What policy steps promised and what the next batches found that they kept, over many iterations and seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trpo.numerics.ratio import ratio_of_sums
from trpo.record.report_figures import Groups, decorate, mark, plot
from trpo.record.runs import Run

KEPT, PROMISED = "trust_region/improvement_kept", "trust_region/improvement_promised"
KL, SPREAD = "trust_region/judged_kl", "trust_region/advantage_std"
POINTS = 40  # of a running mean; each is over a tenth of the run


class PerRootNat(NamedTuple):
    """Gains per √nat of KL, in standard deviations of the advantage: Σ gain / Σ √KL · std(Â)."""

    promised: float
    kept: float
    error: float  # the standard error of `kept`, from the spread of the iterations

    @property
    def told_apart(self) -> bool:
        """Whether what was kept is two standard errors from zero, or more."""
        return abs(self.kept) >= 2 * self.error


def per_root_nat(rows: Iterable[Mapping[str, Any]]) -> PerRootNat | None:
    """Return the gains per √nat of the judged steps among these rows, or None if there are not two."""
    judged = [row for row in rows if KEPT in row]
    spent = [math.sqrt(row[KL]) * row[SPREAD] for row in judged]
    kept = ratio_of_sums([row[KEPT] for row in judged], spent)
    promised = ratio_of_sums([row[PROMISED] for row in judged], spent)
    if kept is None or promised is None or kept[1] is None:
        return None
    return PerRootNat(promised[0], kept[0], kept[1])


def describe_promises(label: str, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return a group's row of the table of promises, or None if nothing was judged."""
    gains = per_root_nat(row for run in runs for row in run.rows)
    if gains is None:
        return None
    return {
        "label": label,
        "seeds": len(runs),
        "promised": f"{gains.promised:.3f}",
        "kept": f"{gains.kept:.4f} ± {gains.error:.4f}",
        "share": f"{gains.kept / gains.promised:.1%}" if gains.told_apart else "not told apart from zero",
    }


def draw_promises(groups: Groups) -> Figure | None:
    """Return the running means per √nat and the sums of all steps, promised and kept; None if nothing was judged."""
    groups = {label: runs for label, runs in groups.items() if any(run.values(KEPT) for run in runs)}
    if not groups:
        return None
    figure = Figure(figsize=(13, 4.5 + 0.1 * len(groups)), layout="constrained")
    means, kept, sums = figure.subplots(1, 3)
    for index, (label, runs) in enumerate(groups.items()):
        draw_means(means, kept, label, runs, f"C{index % 10}")
        for run in runs:
            style = {"color": f"C{index % 10}", "linewidth": 0.9}
            plot(sums, run, f"{PROMISED}_sum", "", **style, linestyle="--")
            plot(sums, run, f"{KEPT}_sum", "", **style)
    means.set(title="Gain per √nat: promised (dashed), kept", ylabel="standard deviations of the advantage")
    kept.set(title="Kept, with two standard errors")
    sums.set(title="Sum of all steps: promised (dashed), kept", ylabel="scaled reward per environment step")
    kept.axhline(0, color="black", linewidth=1)
    for panel in (means, kept, sums):
        panel.set_xlabel("environment steps")
        decorate(panel, legend=False)
    figure.legend(*means.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    return figure


def draw_means(means: Axes, kept: Axes, label: str, runs: Sequence[Run], color: str) -> None:
    """Draw the gains per √nat of all seeds together, over a tenth of the run at a time."""
    rows = sorted((row for run in runs for row in run.rows if KEPT in row), key=lambda row: int(row["env_steps"]))
    steps = np.array([row["env_steps"] for row in rows])
    half = max(0.05, 1 / max(len(rows) - 1, 1)) * (
        steps[-1] - steps[0]
    )  # of a few steps two at least, or nothing is drawn
    points = [
        (at, gains)
        for at in np.linspace(steps[0] + half, steps[-1] - half, POINTS)
        if (gains := per_root_nat(row for row in rows if abs(row["env_steps"] - at) <= half))
    ]
    grid = [at for at, _ in points]
    middle, error = (np.array([getattr(gains, name) for _, gains in points]) for name in ("kept", "error"))
    style: dict[str, Any] = {"color": color, "marker": mark(grid)}
    means.plot(grid, [gains.promised for _, gains in points], **style, linestyle="--")
    means.plot(grid, middle, **style, label=label)
    kept.plot(grid, middle, **style)
    kept.fill_between(grid, middle - 2 * error, middle + 2 * error, color=color, alpha=0.2)
