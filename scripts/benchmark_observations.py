"""Tasks with grids, parts and masks: several seeds of each, scored alike, and sb3's PPO where it is the bar.

    python scripts/benchmark_observations.py runs/observations                       # five seeds of every task
    python scripts/benchmark_observations.py runs/observations --tasks snake --peers # PPO and MaskablePPO, trpo[peers]
    python scripts/benchmark_observations.py runs/observations --report scripts/results/observations.md

A run is `trpo-train` with the task as shipped. Its last policy plays a hundred episodes on environments of its own, by
its mode and by samples; an episode is a success if its last info says so. Calling the script again goes on where it
stopped.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from trpo.commands.compose import compose_jobs, load_config, register_schema, to_config
from trpo.config import EnvConfig
from trpo.models.agent import load_agent
from trpo.record import checkpoint, run_directory
from trpo.record.run_directory import write_json
from trpo.sampling.making import check_environment, make_env
from trpo.system import seeds
from trpo.trainer import agent_for

TASKS = ("minigrid_doorkey", "fetch_reach", "taxi", "snake")
EPISODES = 100
OURS = "trpo"
PEERS = ("PPO", "MaskablePPO")


class Score(NamedTuple):
    """A hundred episodes of one policy."""

    mode: float  # mean returns
    sampled: float
    success: float | None  # share of the mode's episodes, where the environment says it


def main() -> int:
    """Run and score what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder of all runs")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="default: 0 1 2 3 4")
    parser.add_argument("--peers", action="store_true", help="run sb3's PPO and sb3-contrib's MaskablePPO instead")
    parser.add_argument("--report", type=Path, help="write the table of what is there, and run nothing")
    options = parser.parse_args()
    if options.report is None:
        for name in PEERS if options.peers else (OURS,):
            for task in options.tasks:
                for seed in options.seeds:
                    run(options.output / name / task / f"seed{seed}", name, task, seed)
    table = write_table(options.output)
    print(table)
    if options.report:
        options.report.write_text(table, encoding="utf-8")
    return 0


def run(directory: Path, name: str, task: str, seed: int) -> None:
    """Train and score one agent, unless that is done."""
    if (directory / "score.json").exists():
        return
    started = time.perf_counter()
    score = ours(directory, task, seed) if name == OURS else peer(name, task, seed)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "score.json", {**score._asdict(), "seconds": time.perf_counter() - started})
    print(directory, score, flush=True)


def ours(directory: Path, task: str, seed: int) -> Score:
    """Train by the command, as anybody would."""
    settings = ["record.progress=false", "env.pin=false", "run.evaluate_every=0", "run.evaluation_episodes=0"]
    arguments = [f"task={task}", f"seed={seed}", *settings, f"hydra.run.dir={directory}", "run.resume=auto"]
    subprocess.run([sys.executable, "-m", "trpo", *arguments], check=True)
    config = load_config(directory / run_directory.CONFIG)
    found = checkpoint.newest_readable(directory / run_directory.CHECKPOINTS)
    assert found is not None
    interface = check_environment(config.env)
    agent = agent_for(config, interface)
    load_agent(agent, found[1], str(directory))

    def act(observations: list[Any], noise: Any) -> Any:
        return interface.decode(agent.actor()(interface.encode(observations), noise))

    generator = seeds.generator(seed, seeds.Role.EVALUATION_ACTIONS)
    mode = episodes(config.env, lambda seen: act(seen, None))
    sampled = episodes(config.env, lambda seen: act(seen, agent.policy.distribution.noise(len(seen), generator)))
    return Score(mode[0], sampled[0], mode[1])


def episodes(config: EnvConfig, act: Any) -> tuple[float, float | None]:
    """Return the mean return of a hundred episodes, and the share of successes if the environment says it."""
    envs = [make_env(config) for _ in range(10)]
    returns, successes = [], []
    for first in range(0, EPISODES, len(envs)):
        seen = [env.reset(seed=10_000 + first + i)[0] for i, env in enumerate(envs)]
        active, totals = list(range(len(envs))), np.zeros(len(envs))
        while active:
            actions = act([seen[i] for i in active])
            going = []
            for i, action in zip(active, actions, strict=True):
                seen[i], reward, terminated, truncated, info = envs[i].step(action)
                totals[i] += float(reward)
                if not (terminated or truncated):
                    going.append(i)
                elif "is_success" in info:
                    successes.append(float(info["is_success"]))
            active = going
        returns += totals.tolist()
    for env in envs:
        env.close()
    return statistics.mean(returns), statistics.mean(successes) if successes else None


def peer(name: str, task: str, seed: int) -> Score:
    """Train and score sb3's PPO, with masks or without, as it comes but for as many environments and samples as ours.

    Its features are those of our grid's convolution, its layers ours; what it sees is what our policy sees.
    """
    import sb3_contrib
    import stable_baselines3
    import torch
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import DummyVecEnv

    class OneConvolution(BaseFeaturesExtractor):
        def __init__(self, space: gymnasium.spaces.Box) -> None:
            rows, columns, channels = space.shape
            super().__init__(space, 16 * (rows - 2) * (columns - 2))
            self.layers = torch.nn.Sequential(torch.nn.Conv2d(channels, 16, 3), torch.nn.ReLU(), torch.nn.Flatten())

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.layers(observations.permute(0, 3, 1, 2))
            return features

    torch.set_num_threads(1)
    register_schema()
    (job,) = compose_jobs([f"task={task}"], None, multirun=False)
    config = to_config(job)
    vector = DummyVecEnv([lambda: OnlyGrid(make_env(config.env))] * config.env.num_envs)
    algorithm = getattr(sb3_contrib if name == "MaskablePPO" else stable_baselines3, name)
    network = {"features_extractor_class": OneConvolution, "normalize_images": False, "net_arch": [64, 64]}
    samples = config.run.steps_per_iteration // config.env.num_envs
    model = algorithm("CnnPolicy", vector, n_steps=samples, seed=seed, device="cpu", policy_kwargs=network)
    model.learn(config.run.total_steps)

    def act(deterministic: bool) -> Any:
        def choose(seen: list[Any]) -> Any:
            masks = {"action_masks": np.stack([one["action_mask"] for one in seen]).astype(bool)}
            grids = np.stack([one["grid"] for one in seen])
            return model.predict(grids, deterministic=deterministic, **(masks if name == "MaskablePPO" else {}))[0]

        return choose

    mode, sampled = (episodes(config.env, act(deterministic)) for deterministic in (True, False))
    vector.close()
    return Score(mode[0], sampled[0], mode[1])


class OnlyGrid(gymnasium.ObservationWrapper):
    """The grid alone, for a policy of one picture; the mask by the method that MaskablePPO asks for."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        parts = env.observation_space
        assert isinstance(parts, gymnasium.spaces.Dict)
        self.observation_space = parts["grid"]

    def observation(self, observation: Any) -> Any:
        """Return the grid and keep the mask."""
        self.mask = observation["action_mask"].astype(bool)
        return observation["grid"]

    def action_masks(self) -> Any:
        """Return the mask of the latest observation."""
        return self.mask


def write_table(output: Path) -> str:
    """Return a table of everything that is there: means over seeds, every seed's mode behind."""
    lines = [
        "| task | agent | seeds | mode | sampled | success | seconds | mode, by seed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for folder in sorted(path for path in output.glob("*/*") if path.is_dir()):
        scores = [json.loads(file.read_text()) for file in sorted(folder.glob("seed*/score.json"))]
        if not scores:
            continue
        mean = {key: statistics.mean(one[key] for one in scores) for key in ("mode", "sampled", "seconds")}
        known = [one["success"] for one in scores if one["success"] is not None]
        lines.append(
            f"| {folder.name} | {folder.parent.name} | {len(scores)} | {mean['mode']:.3f} | {mean['sampled']:.3f} | "
            f"{f'{statistics.mean(known):.3f}' if known else '–'} | {mean['seconds']:.0f} | "
            f"{', '.join(format(one['mode'], '.3f') for one in scores)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
