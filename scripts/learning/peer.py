"""sb3-contrib's TRPO with rl-baselines3-zoo's settings, trained and scored: `python -m learning.peer ID SEED STEPS`."""

import json
import sys
import time
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from learning.contest import FINAL_EPISODES, LAST_EPISODES, POINT_EPISODES, POINT_EVERY
from learning.zoo import ENVIRONMENTS, settings_of


def train_and_score(id: str, seed: int, steps: int) -> dict[str, Any]:
    """Return the same scores as `learning.score`. The seconds are those of training alone."""
    torch.set_num_threads(1)
    settings = settings_of(id)
    envs = VecNormalize(make_vec_env(id, ENVIRONMENTS, seed=seed), gamma=settings["gamma"])
    model = TRPO("MlpPolicy", envs, device="cpu", seed=seed, stats_window_size=LAST_EPISODES, **settings)
    curve, seconds = [], 0.0
    for number, goal in enumerate([*range(POINT_EVERY, steps, POINT_EVERY), steps]):
        started = time.perf_counter()
        model.learn(goal - model.num_timesteps, reset_num_timesteps=number == 0)
        seconds += time.perf_counter() - started
        starts = range(
            (seed + 1) * 1_000_000 + 1_000 * number, (seed + 1) * 1_000_000 + 1_000 * number + POINT_EPISODES
        )
        curve.append([model.num_timesteps, float(np.mean([episode(model, envs, id, s, False) for s in starts]))])
    final = [episode(model, envs, id, (seed + 1) * 2_000_000 + number, True) for number in range(FINAL_EPISODES)]
    return {
        "curve": curve,
        "deterministic": float(np.mean(final)),
        "training": float(np.mean([info["r"] for info in model.ep_info_buffer])) if model.ep_info_buffer else None,
        "seconds": seconds,
        "env_steps": model.num_timesteps,
    }


def episode(model: TRPO, envs: VecNormalize, id: str, start: int, deterministic: bool) -> float:
    """Return the return of one episode on an environment of its own, with the statistics of training left alone."""
    env = gymnasium.make(id)
    observation, _ = env.reset(seed=start)
    total, done = 0.0, False
    while not done:
        seen = envs.normalize_obs(np.array(observation))
        action, _ = model.predict(seen, deterministic=deterministic)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, done = total + float(reward), terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(train_and_score(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
