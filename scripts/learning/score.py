"""Score a finished run of ours on Gymnasium's environments: a process of its own, `python -m learning.score RUN`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from learning.contest import LAST_EPISODES, POINT_EPISODES
from trpo.commands.compose import load_config, register_schema
from trpo.models.agent import load_agent
from trpo.record import checkpoint, run_directory
from trpo.sampling.evaluation import evaluate
from trpo.sampling.making import check_environment
from trpo.trainer import agent_for

HELD_OUT = 1_000_003  # added to the run's seed: episodes that no evaluation of the run has seen


def score(directory: Path) -> dict[str, Any]:
    """Return the learning curve of a run under its sampled actions, and its two final scores.

    `curve` has [environment steps, mean return of POINT_EPISODES stochastic episodes] for the first checkpoint
    after every `run.checkpoint_every` steps and for the last, that of the final policy; what a run that was cut left
    besides is no point. `deterministic` is the run's own last evaluation, `training` the mean return of
    the last LAST_EPISODES training episodes (and of those that ended in the same iteration as the first of them).
    """
    register_schema()
    config = load_config(directory / run_directory.CONFIG)
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    agent = agent_for(config, check_environment(config.env))
    curve = []
    for number, file in enumerate(points(directory / run_directory.CHECKPOINTS, config.run.checkpoint_every)):
        state = checkpoint.load(file)
        load_agent(agent, state, str(file))
        evaluation = evaluate(
            agent,
            config.env,
            episodes=range(POINT_EPISODES),
            seed=config.seed + HELD_OUT,
            number=number,
            stochastic=True,
        )
        curve.append([state["env_steps"], float(np.mean(evaluation.returns))])
    return {
        "curve": curve,
        "deterministic": summary["final_evaluation"]["return_mean"],
        "training": last_training_return(directory / "metrics.jsonl"),
        "seconds": summary["seconds"],
        "env_steps": summary["env_steps"],
    }


def points(folder: Path, every: int) -> list[Path]:
    """Return the first of a run's numbered checkpoints after every so many steps, and the last."""
    *earlier, last = checkpoint.numbered(folder)
    firsts: dict[int, Path] = {}
    for file in earlier:
        firsts.setdefault(int(file.stem.removeprefix("step_")) // max(every, 1), file)
    return [*(file for multiple, file in firsts.items() if multiple), last]


def last_training_return(metrics: Path) -> float | None:
    """Return the mean return of the last training episodes, None if no episode ended."""
    total, episodes = 0.0, 0.0
    for line in reversed(metrics.read_text(encoding="utf-8").splitlines()):
        row = json.loads(line)
        if episodes >= LAST_EPISODES:
            break
        if row["rollout/episodes"]:
            total += row["rollout/episode_return"] * row["rollout/episodes"]
            episodes += row["rollout/episodes"]
    return total / episodes if episodes else None


if __name__ == "__main__":
    print(json.dumps(score(Path(sys.argv[1]))))
