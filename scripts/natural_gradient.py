"""What does the line search prevent? Hopper with it and without it, the natural policy gradient, three seeds each.

    python scripts/natural_gradient.py --runs runs/natural_gradient

Writes scripts/results/natural_gradient.md and .png. Runs that are there already are not repeated; eight minutes on two
cores.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from trpo.record.runs import Run, read_run

RESULTS = Path(__file__).parent / "results"
KINDS = {"TRPO": "on", "natural gradient": "off"}
SEEDS = (0, 1, 2)
STEPS = 300_000
SETTINGS = (
    *("task=hopper", "env.backend=envpool", "env.pin=false", "record.progress=false", "record.profile_every=0"),
    *(f"run.total_steps={STEPS}", "trust_region.anneal=0", "run.evaluate_every=0", "run.evaluation_episodes=20"),
)
SPENT, ALLOWED = "trust_region/kl", "trust_region/max_kl"

Runs = dict[str, list[Run]]


def main() -> None:
    """Run what is missing, and write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are, or will be")
    folder = parser.parse_args().runs
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(folder, *job), product(KINDS, SEEDS)))
    found = {kind: [read_run(folder / kind / str(seed)) for seed in SEEDS] for kind in KINDS}
    text = table(found)
    print(text)
    (RESULTS / "natural_gradient.md").write_text(text)
    draw(found).savefig(RESULTS / "natural_gradient.png", dpi=110)


def train(folder: Path, kind: str, seed: int) -> None:
    """Train one agent, if it is not there yet."""
    target = folder / kind / str(seed)
    if (target / "summary.json").exists():
        return
    own = (f"seed={seed}", f"trust_region.line_search={KINDS[kind]}", f"hydra.run.dir={target}")
    subprocess.run([sys.executable, "-m", "trpo", *SETTINGS, *own], check=True, stdout=subprocess.DEVNULL)


def shares(run: Run) -> list[float]:
    """Return KL spent over KL allowed, step by step."""
    return [row[SPENT] / row[ALLOWED] for row in run.rows if row.get(SPENT)]


def table(found: Runs) -> str:
    """Return what was spent and what was learned, as a Markdown table."""
    lines = [
        f"Hopper-v5, {STEPS:,} steps, δ constant, {len(SEEDS)} seeds; shares of δ (`scripts/natural_gradient.py`).\n",
        "| | KL: median | 95th percentile | largest | steps above δ | return of the mode, each seed |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for kind, runs in found.items():
        spent = np.array([share for run in runs for share in shares(run)])
        ends = ", ".join(f"{run.summary['final_evaluation']['return_mean']:,.0f}" for run in runs)
        lines.append(
            f"| {kind} | {np.median(spent):.2f} | {np.percentile(spent, 95):.2f} | {spent.max():.2f} "
            f"| {100 * (spent > 1).mean():.0f} % | {ends} |"
        )
    return "\n".join(lines) + "\n"


def draw(found: Runs) -> Figure:
    """Return KL spent over KL allowed, above, and training returns, below, over environment steps."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    for (kind, runs), color in zip(found.items(), ("tab:blue", "tab:red"), strict=True):
        for run in runs:
            label = kind if run is runs[0] else None
            steps = [row["env_steps"] for row in run.rows if row.get(SPENT)]
            top.plot(steps, shares(run), ".", color=color, markersize=3, label=label)
            bottom.plot(*run.column("rollout/episode_return"), color=color, linewidth=1, label=label)
    top.axhline(1.0, color="black", linestyle="--", linewidth=1)
    top.set(yscale="log", ylabel="KL spent / δ", title="Hopper-v5: every policy step")
    bottom.set(xlabel="environment steps", ylabel="return in training")
    for axes in (top, bottom):
        axes.legend(loc="upper left")
    return figure


if __name__ == "__main__":
    main()
