"""What does the line search prevent? Hopper with it and without it, the natural policy gradient, at two sizes of δ.

    python scripts/natural_gradient.py --runs runs/natural_gradient

Writes scripts/results/natural_gradient.md and .png. Runs that are done are not repeated, and one that was stopped goes
on; a quarter of an hour on two cores.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from benchmark_memory import finished
from matplotlib.figure import Figure

from trpo.record.runs import Run, read_run

RESULTS = Path(__file__).parent / "results"
KINDS = {"TRPO": "on", "natural gradient": "off"}
BOUNDS = (0.04, 0.5)  # δ
SEEDS = (0, 1, 2)
STEPS = 300_000
SETTINGS = (
    *("task=hopper", "env.backend=envpool", "env.pin=false", "record.progress=false", "record.profile_every=0"),
    *(f"run.total_steps={STEPS}", "trust_region.anneal=0", "run.evaluate_every=0", "run.evaluation_episodes=20"),
)
SPENT, ALLOWED = "trust_region/kl", "trust_region/max_kl"

Runs = dict[tuple[float, str], list[Run]]


def main() -> None:
    """Run what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are, or will be")
    folder = parser.parse_args().runs
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(folder, *job), product(BOUNDS, KINDS, SEEDS)))
    found = {
        (bound, kind): [read_run(directory(folder, bound, kind, seed)) for seed in SEEDS]
        for bound, kind in product(BOUNDS, KINDS)
    }
    text = table(found)
    print(text)
    (RESULTS / "natural_gradient.md").write_text(text)
    draw(found).savefig(RESULTS / "natural_gradient.png", dpi=110)


def directory(folder: Path, bound: float, kind: str, seed: int) -> Path:
    """Return where a run is."""
    return folder / str(bound) / kind / str(seed)


def train(folder: Path, bound: float, kind: str, seed: int) -> None:
    """Train one agent, or what is left of it to train."""
    target = directory(folder, bound, kind, seed)
    if finished(target):
        return
    own = (
        f"trust_region.max_kl={bound}",
        f"seed={seed}",
        f"trust_region.line_search={KINDS[kind]}",
        f"hydra.run.dir={target}",
        "run.resume=auto",
    )
    subprocess.run([sys.executable, "-m", "trpo", *SETTINGS, *own], check=True, stdout=subprocess.DEVNULL)


def shares(run: Run) -> list[float]:
    """Return KL spent over KL allowed, step by step."""
    return [row[SPENT] / row[ALLOWED] for row in run.rows if row.get(SPENT)]


def table(found: Runs) -> str:
    """Return what was spent and what was learned, as a Markdown table."""
    lines = [
        f"Hopper-v5, {STEPS:,} steps, δ constant, {len(SEEDS)} seeds; shares of δ (`scripts/natural_gradient.py`).\n",
        "| δ | | KL: median | 95th percentile | largest | steps above δ | return of the mode, each seed |",
        "| ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for (bound, kind), runs in found.items():
        spent = np.array([share for run in runs for share in shares(run)])
        ends = ", ".join(f"{run.summary['final_evaluation']['return_mean']:,.0f}" for run in runs)
        lines.append(
            f"| {bound} | {kind} | {np.median(spent):.2f} | {np.percentile(spent, 95):.2f} | {spent.max():.2f} "
            f"| {100 * (spent > 1).mean():.0f} % | {ends} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: Runs) -> Figure:
    """Return KL spent over KL allowed, above, and training returns, below, a column for each δ."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, len(BOUNDS), sharex=True, sharey="row")
    for (top, bottom), bound in zip(axes.T, BOUNDS, strict=True):
        for kind, color in zip(KINDS, ("tab:blue", "tab:red"), strict=True):
            for number, run in enumerate(found[bound, kind]):
                label = kind if number == 0 else None
                steps = [row["env_steps"] for row in run.rows if row.get(SPENT)]
                top.plot(steps, shares(run), ".", color=color, markersize=3, label=label)
                bottom.plot(*run.column("rollout/episode_return"), color=color, linewidth=1, label=label)
        top.axhline(1.0, color="black", linestyle="--", linewidth=1)
        top.set(title=f"Hopper-v5, δ = {bound}")
        bottom.set(xlabel="environment steps")
    axes[0, 0].set(ylabel="KL spent / δ, every policy step", ylim=(0, None))
    axes[1, 0].set(ylabel="return in training")
    axes[0, 0].legend(loc="lower left")
    return figure


if __name__ == "__main__":
    main()
