"""Actions clipped and squashed, on HalfCheetah and BipedalWalker: what they reach and how often they end at a bound.

    python scripts/benchmark_squashing.py --runs runs/squashing

A run is `trpo-train` with the task as shipped on EnvPool, HalfCheetah for 500,000 steps; its last policy's mode plays a
hundred episodes, and samples of it act for a thousand steps of sixteen environments more. Writes
scripts/results/squashing.md. Runs that are done are not repeated; a quarter of an hour on two cores.
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import product
from pathlib import Path

import torch
from benchmark_memory import finished, scores

from trpo.record import checkpoint
from trpo.record.runs import read_run
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.trained import load

RESULTS = Path(__file__).parent / "results" / "squashing.md"
TASKS: dict[str, tuple[str, ...]] = {"halfcheetah": ("run.total_steps=500_000",), "bipedalwalker": ()}
KINDS: dict[str, tuple[str, ...]] = {
    "clip": ("policy.bounds=clip",),
    "tanh": ("policy.bounds=tanh",),
    "tanh, log σ −0.5 at first": (
        "policy.bounds=tanh",
        "policy.initial_log_std=-0.5",
    ),  # as BipedalWalker's file has it
}
PAIRS = [pair for pair in product(TASKS, KINDS) if pair != ("bipedalwalker", "tanh, log σ −0.5 at first")]
SEEDS = range(5)
COMMON = ("record.progress=false", "run.evaluate_every=0", "run.evaluation_episodes=100", "record.profile_every=0")
STEPS = 1_000


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are, or will be")
    runs = parser.parse_args().runs
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(runs, *job), [(*pair, seed) for pair in PAIRS for seed in SEEDS]))
    text = table(runs)
    print(text)
    RESULTS.write_text(text, encoding="utf-8")


def train(runs: Path, task: str, kind: str, seed: int) -> None:
    """Train one agent, unless that is done."""
    directory = runs / task / kind / f"seed{seed}"
    if finished(directory):
        return
    own = (f"task={task}", f"seed={seed}", *KINDS[kind], "env.backend=envpool", "env.pin=false")
    target = (f"hydra.run.dir={directory}", "run.resume=auto")
    command = [sys.executable, "-m", "trpo", *own, *target, *TASKS[task], *COMMON]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table(runs: Path) -> str:
    """Return what the last policies reach, and how many components of their actions end at a bound."""
    lines = [
        "The last policy's mode, a hundred episodes (`scripts/benchmark_squashing.py`).\n",
        "| task | bounds | steps | components at a bound | return, mean ± deviation of the seeds | by seed |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for task, kind in PAIRS:
        paths = [path for path in sorted((runs / task / kind).glob("seed*")) if finished(path)]
        if paths:
            done = [read_run(path) for path in paths]
            share = sum(at_a_bound(path) for path in paths) / len(paths)
            steps = f"{done[0].summary['env_steps']:,}"
            lines.append(f"| {task} | {kind} | {steps} | {100 * share:.2f} % | {scores(done)} |")
    return "\n".join(lines) + "\n"


def at_a_bound(path: Path) -> float:
    """Return the share of the components of sampled actions that the environment gets at one of its bounds."""
    loaded = load(checkpoint.newest_readable(path / "checkpoints")[0])  # type: ignore[index]
    with closing(Environments(loaded.config.env, seed=1)) as environments:
        collector = Collector(environments, steps=STEPS, generator=torch.Generator().manual_seed(0))
        rollout = collector.collect(loaded.agent)
        sent = torch.as_tensor(environments.interface.decode(loaded.agent.sent(rollout.actions.flatten(0, 1))))
        space = environments.interface.action_space
        low, high = (torch.as_tensor(end) for end in (space.low, space.high))  # type: ignore[union-attr]
    return float(((sent <= low) | (sent >= high)).double().mean())


if __name__ == "__main__":
    main()
