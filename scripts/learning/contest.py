"""Who trains what: contestants, tasks, and where a run of theirs is kept."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from trpo.commands.compose import tasks
from trpo.config import EnvConfig, UserError
from trpo.sampling.making import check_environment

PEER = "sb3-contrib"
OURS = "trpo"
POINT_EVERY = 30_000  # environment steps between two points of a learning curve: tianshou's benchmark
POINT_EPISODES = 10
FINAL_EPISODES = 20  # deterministic, of the last policy: rl-baselines3-zoo's table
LAST_EPISODES = 100  # of training


class Job(NamedTuple):
    """One run of one contestant on one task."""

    contestant: str
    task: str  # a task file's name, or a Gymnasium id
    seed: int
    directory: Path
    overrides: tuple[str, ...] = ()

    @property
    def scores(self) -> Path:
        """Return where the scores of the run are kept once it is finished and scored."""
        return self.directory / "scores.json"


def directory_of(output: Path, contestant: str, task: str, seed: int) -> Path:
    """Return the directory of a run."""
    return output / contestant / task.replace("/", "-") / f"seed{seed}"


def env_id(task: str) -> str:
    """Return the Gymnasium id of a task."""
    return tasks().get(task, task)


def backend_of(id: str) -> str:
    """Return `envpool` where EnvPool has an environment with the spaces of Gymnasium's, and `sync` elsewhere."""
    try:
        check_environment(dataclasses.replace(EnvConfig(id=id), backend="envpool"))
    except UserError:
        return "sync"
    return "envpool"


def chosen(task: str) -> str:
    """Return the argument of `trpo-train` that a task is asked for with."""
    return f"task={task}" if task in tasks() else f"env.id={task}"


def training_arguments(job: Job) -> list[str]:
    """Return the arguments of `trpo-train` for a job: the task as shipped, and checkpoints to score."""
    return [
        chosen(job.task),
        f"seed={job.seed}",
        f"env.backend={backend_of(env_id(job.task))}",
        "run.evaluate_every=0",
        f"run.checkpoint_every={POINT_EVERY}",
        "run.keep_checkpoints=1000",
        f"run.evaluation_episodes={FINAL_EPISODES}",
        "record.progress=false",
        *job.overrides,
        f"hydra.run.dir={job.directory}",
        "run.resume=auto",
    ]


def identity(job: Job) -> dict[str, Any]:
    """Return what tells the scores of a job from others."""
    about = {"contestant": job.contestant, "task": job.task, "env_id": env_id(job.task), "seed": job.seed}
    return about | {"overrides": list(job.overrides)}
