"""What is hidden is remembered: tasks without velocities, and one of cards, five seeds each, with memory and without.

    python scripts/benchmark_memory.py --runs runs/memory                        # needs popgym for the last task
    python scripts/benchmark_memory.py --runs runs/memory --tasks cartpole_positions --seeds 0 1

A run is `trpo-train` with the settings below, or with `policy.memory=none critic.memory=none`; its last policy's mode
plays a hundred episodes. Writes scripts/results/memory.md of the runs that are there, and repeats none that is done; an
hour on two cores.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, stdev

from trpo.record.run_directory import FINISHED
from trpo.record.runs import Run, read_run

RESULTS = Path(__file__).parent / "results" / "memory.md"
BARS = {  # and where they are from
    "cartpole_positions": "500 (RL Baselines3 Zoo's PPO with an LSTM, 100,000 steps)",
    "pendulum_positions": "−218 ± 140 (the same)",
    "mountaincar_continuous_positions": "91.5 ± 1.8 (the same, 300,000)",
    "repeat_previous": "1 is the most there is",
}
WITHOUT = ("repeat_previous",)  # those that are run without memory as well, unless others are asked for
TASKS: dict[str, tuple[str, ...]] = {
    **{task: (f"task={task}",) for task in BARS},
    "repeat_previous": (  # POPGym's
        *("env.id=popgym:popgym-RepeatPreviousEasy-v0", "policy.memory=gru", "critic.memory=gru"),
        *("trust_region.max_kl=0.04", "run.total_steps=200_000"),
    ),
}
KINDS: dict[str, tuple[str, ...]] = {"gru": (), "none": ("policy.memory=none", "critic.memory=none")}
COMMON = ("record.progress=false", "run.evaluate_every=0", "run.evaluation_episodes=100", "record.profile_every=0")


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are, or will be")
    parser.add_argument("--tasks", nargs="+", choices=BARS, default=list(BARS), metavar="TASK", help=", ".join(BARS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="default: 0 1 2 3 4")
    parser.add_argument("--without", nargs="*", choices=BARS, default=WITHOUT, help="tasks also run without memory")
    options = parser.parse_args()
    jobs = [
        (kind, task, seed)
        for kind, task, seed in product(KINDS, options.tasks, options.seeds)
        if kind != "none" or task in options.without
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(options.runs, *job), jobs))
    text = table(options.runs)
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


def train(runs: Path, kind: str, task: str, seed: int) -> None:
    """Train one agent, unless that is done."""
    directory = runs / kind / task / f"seed{seed}"
    if finished(directory):
        return
    own = (*TASKS[task], f"seed={seed}", *KINDS[kind], f"hydra.run.dir={directory}", "run.resume=auto")
    subprocess.run([sys.executable, "-m", "trpo", *own, *COMMON], check=True, stdout=subprocess.DEVNULL)


def finished(directory: Path) -> bool:
    """Return whether a run is there and done."""
    return (directory / "summary.json").exists() and read_run(directory).status == FINISHED


def table(runs: Path) -> str:
    """Return what the last policies reach, as a Markdown table."""
    lines = [
        "The last policy's mode, a hundred episodes (`scripts/benchmark_memory.py`).\n",
        "| task | memory | steps | return, mean ± deviation of the seeds | by seed | bar |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for task, kind in product(BARS, KINDS):
        done = [read_run(path) for path in sorted((runs / kind / task).glob("seed*")) if finished(path)]
        if done:
            lines.append(f"| {task} | {kind} | {done[0].summary['env_steps']:,} | {scores(done)} | {BARS[task]} |")
    return "\n".join(lines) + "\n"


def scores(done: list[Run]) -> str:
    """Return mean, deviation and each of the final returns, as two cells."""
    returns = [run.summary["final_evaluation"]["return_mean"] for run in done]
    spread = stdev(returns) if len(returns) > 1 else 0.0
    return f"{mean(returns):.2f} ± {spread:.2f} | {', '.join(f'{one:.2f}' for one in returns)}"


if __name__ == "__main__":
    main()
