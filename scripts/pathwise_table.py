"""What runs reached, over steps and over seconds: a row per environment and setting, seeds side by side.

    python scripts/promise_and_fact.py --runs runs/promise --surrogates score pathwise  # makes the runs of five tasks
    python scripts/pathwise_table.py runs/promise/pathwise > scripts/results/pathwise.md

Takes any run directories, or folders of them, that ended with an evaluation of the last policy's mode.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from trpo.record.report import group_runs
from trpo.record.run_directory import FINISHED
from trpo.record.runs import Run, find_runs

LAST_EPISODES = 100  # of training
Row = tuple[tuple[str, int, str], Sequence[Run]]  # environment, steps, surrogate with what else differs; a run per seed


def main() -> None:
    """Print the table of the runs that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, or folders of them")
    warnings: list[str] = []
    runs = find_runs(parser.parse_args().runs, warnings)
    reasons = {run.name: why_left_out(run) for run in runs}
    rows = list(settings([run for run in runs if not reasons[run.name]]))
    shown = {run.name for _, seeds in rows for run in seeds}
    reasons |= {name: "repeats a seed" for name, reason in reasons.items() if not reason and name not in shown}
    warnings += [f"{name} {reason}: left out" for name, reason in reasons.items() if reason]
    for warning in warnings:
        print(warning, file=sys.stderr)
    print(table(rows))


def why_left_out(run: Run) -> str:
    """Return what keeps a run out of the table, or nothing."""
    if run.status != FINISHED:
        return f"is {run.status}"
    if not run.summary.get("final_evaluation"):
        return "ended without an evaluation"
    return "" if run.values("rollout/episode_return") else "has no whole episode of training"


def table(rows: Iterable[Row]) -> str:
    """Return runs that differ in nothing but the seed's number as rows of a Markdown table."""
    lines = [
        "The last policy's mode and the last hundred episodes of training, by seed; means ± one standard error.\n",
        "| environment | surrogate | steps | mode | by seed | training | by seed | seconds |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: |",
    ]
    for (environment, steps, surrogate), seeds in rows:
        modes = [run.summary["final_evaluation"]["return_mean"] for run in seeds]
        training = [last_episodes(run) for run in seeds]
        seconds = np.mean([run.summary["seconds"] for run in seeds])
        lines.append(
            f"| {environment} | {surrogate} | {steps:,} | {mean(modes)} | {listed(modes)} "
            f"| {mean(training)} | {listed(training)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def settings(runs: list[Run]) -> Iterator[Row]:
    """Yield runs that differ in nothing but the seed, a seed once, with what they are of."""
    for (environment, steps, surrogate), group in groupby(sorted(runs, key=key), lambda run: key(run)[:3]):
        for label, seeds in group_runs(list(group)).items():
            differing = "" if label == "all" else f", {' '.join(label.split())}"
            yield (environment, steps, surrogate + differing), seeds


def key(run: Run) -> tuple[str, int, str, int]:
    """Return what a run is of, its seed last."""
    names = ("env.id", "run.total_steps", "trust_region.surrogate", "seed")
    environment, steps, surrogate, seed = (run.config[name] for name in names)
    return environment, steps, surrogate, seed


def last_episodes(run: Run) -> float:
    """Return the mean return of the last hundred training episodes, rounded up to whole iterations."""
    ended = [row for row in run.rows if "rollout/episode_return" in row]
    counts = np.array([row["rollout/episodes"] for row in reversed(ended)])
    whole = int(np.searchsorted(counts.cumsum(), LAST_EPISODES)) + 1
    returns = [row["rollout/episode_return"] for row in reversed(ended)][:whole]
    return float(np.average(returns, weights=counts[:whole]))


def mean(values: list[float]) -> str:
    """Return a mean, and its standard error if there is one."""
    error = f" ± {shown(np.std(values, ddof=1) / len(values) ** 0.5)}" if len(values) > 1 else ""
    return f"{shown(np.mean(values))}{error}"


def listed(values: list[float]) -> str:
    """Return the values, one after the other."""
    return " · ".join(shown(value) for value in values)


def shown(value: float | np.floating) -> str:
    """Return a score with the digits that mean something."""
    value = float(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
