"""Who learns what against the clock: contestants, tasks with the returns to reach, and which runs there are to be."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """An environment, and the returns that count."""

    id: str
    thresholds: tuple[int, ...]  # upwards


class Contestant(NamedTuple):
    """Who learns, and with what."""

    title: str  # in the table
    module: str  # that a run is a process of
    packages: tuple[str, ...]
    told: str  # its command, or whose settings it has


class Run(NamedTuple):
    """One run of one contestant."""

    contestant: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.contestant} {self.task} seed {self.seed}"


TASKS = {
    "halfcheetah": Task("HalfCheetah-v5", (3_000, 5_000)),
    "hopper": Task("Hopper-v5", (2_500,)),
    "walker2d": Task("Walker2d-v5", (3_000,)),
    "ant": Task("Ant-v5", (2_000,)),
    "humanoid": Task("Humanoid-v5", (3_000,)),
}
# The task as shipped but for what uses both cores, and without evaluations and pictures, which nobody else makes.
OVERRIDES = (
    "env.backend=envpool",
    "run.threads=2",
    "run.evaluate_every=0",
    "run.evaluation_episodes=0",
    "record.profile_every=0",
    "record.progress=false",
)
OURS = ("score", "pathwise")
ZOO = "rl-baselines3-zoo's settings of the task's v4"
CONTESTANTS = {
    **{
        name: Contestant(
            f"trpo, {name}",
            "trpo",
            ("envpool",),
            f"`python -m trpo task=TASK surrogate={name} seed=SEED {' '.join(OVERRIDES)}`",
        )
        for name in OURS
    },
    "sb3-contrib-trpo": Contestant(
        "sb3-contrib TRPO", "minutes.sb3_peers", ("stable_baselines3", "sb3_contrib"), f"{ZOO}, `trpo.yml`"
    ),
    "sb3-ppo": Contestant("sb3 PPO", "minutes.sb3_peers", ("stable_baselines3",), f"{ZOO}, `ppo.yml`"),
    "sb3-sac": Contestant("sb3 SAC", "minutes.sb3_peers", ("stable_baselines3",), "its defaults, one environment"),
    "tianshou-ppo": Contestant(
        "tianshou PPO", "minutes.tianshou_peer", ("tianshou", "envpool"), "the settings of its MuJoCo example, EnvPool"
    ),
}
SEEDS = (0, 1, 2)
PEERS_MORE_SEEDS = ("halfcheetah", "humanoid")  # elsewhere a peer has one


def planned() -> list[Run]:
    """Return all runs; contestants take turns, so that a machine that drifts drifts for all of them."""
    return [
        Run(contestant, task, seed)
        for seed in SEEDS
        for task in TASKS
        for contestant in CONTESTANTS
        if contestant in OURS or task in PEERS_MORE_SEEDS or seed == SEEDS[0]
    ]


def missing(runs: Iterable[Run], results: Iterable[dict[str, Any]]) -> list[Run]:
    """Return the runs that have no result yet."""
    there = {run_of(result) for result in results}
    return [run for run in runs if run not in there]


def run_of(result: dict[str, Any]) -> Run:
    """Return the run that left a result."""
    return Run(result["contestant"], result["task"], result["seed"])


def arguments(run: Run, folder: Path) -> list[str]:
    """Return what a run's module is started with, its files in `folder`."""
    if run.contestant in OURS:
        own = [f"task={run.task}", f"surrogate={run.contestant}", f"seed={run.seed}"]
        return [*own, *OVERRIDES, f"hydra.run.dir={folder / 'run'}"]
    return [run.contestant, run.task, str(run.seed), str(episodes_file(run, folder))]


def episodes_file(run: Run, folder: Path) -> Path:
    """Return where a run writes the episodes that have ended."""
    return folder / "run" / "metrics.jsonl" if run.contestant in OURS else folder / "episodes.jsonl"


def not_installed(runs: Iterable[Run]) -> list[str]:
    """Return the packages that these runs need and that are not there."""
    needed = dict.fromkeys(package for run in runs for package in CONTESTANTS[run.contestant].packages)
    return [package for package in needed if importlib.util.find_spec(package) is None]
