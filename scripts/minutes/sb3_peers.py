"""Stable-Baselines3's contestants: `python -m minutes.sb3_peers CONTESTANT TASK SEED FILE`, until it is ended.

Writes the episodes to FILE as they end, with their raw returns.
"""

import sys
import warnings
from typing import Any, TextIO

import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from minutes.contest import TASKS
from minutes.episodes import write_episode
from minutes.settings import settings_of

FOR_EVER = 10**12  # steps; no setting depends on it: learning rates and clipping are constant


class Episodes(BaseCallback):
    """Writes every episode that ends."""

    def __init__(self, file: TextIO) -> None:
        super().__init__()
        self.file = file

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:  # from the monitor around each environment, inside the normalisation
                write_episode(self.file, self.num_timesteps, float(info["episode"]["r"]))
        return True


def make_model(contestant: str, task: str, seed: int) -> BaseAlgorithm:
    """Return the algorithm with the settings of the task."""
    settings = settings_of(contestant, task)
    torch.set_num_threads(settings["threads"])
    arguments = dict(settings["algorithm"])
    envs: VecEnv = make_vec_env(TASKS[task].id, settings["environments"], seed=seed)
    if settings["normalized"]:
        envs = VecNormalize(envs, gamma=arguments.get("gamma", 0.99))
    if "policy_kwargs" in arguments:
        networks = arguments["policy_kwargs"]
        arguments["policy_kwargs"] = {**networks, "activation_fn": getattr(torch.nn, networks["activation_fn"])}
    return algorithm_of(contestant)("MlpPolicy", envs, device="cpu", seed=seed, **arguments)


def algorithm_of(contestant: str) -> Any:
    """Return the class of a contestant; sb3-contrib is imported for its own only."""
    if contestant == "sb3-contrib-trpo":
        from sb3_contrib import TRPO

        return TRPO
    return {"sb3-ppo": PPO, "sb3-sac": SAC}[contestant]


def main() -> None:
    """Learn until somebody ends it."""
    warnings.simplefilter("ignore")
    contestant, task, seed, file = sys.argv[1:]
    with open(file, "w", encoding="utf-8") as episodes:
        make_model(contestant, task, int(seed)).learn(FOR_EVER, callback=Episodes(episodes))


if __name__ == "__main__":
    main()
