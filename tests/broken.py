"""Environments that misbehave, as `env.id=broken:NaNReward-v0` and so on."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Broken(gymnasium.Env):
    """Never ends, and does `fault` from step `at` on: in every environment, or where an episode began with `seed`."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str, at: int = 40, seed: int | None = None, render_mode: str | None = None) -> None:
        self.fault, self.at, self.seed = fault, at, seed
        self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.faulty = self.seed in (None, seed)
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        observation, reward = self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32), float(action)
        if self.faulty and self.steps >= self.at:
            if self.fault == "raise":
                raise RuntimeError("the simulator fell over\nand said why")
            if self.fault == "observation":
                observation[2] = np.nan
            if self.fault == "reward":
                reward = np.nan
            if self.fault == "infinite reward":
                reward = -np.inf
        return observation, reward, False, False, {}


class DictActions(Broken):
    action_space = spaces.Dict({"steer": spaces.Discrete(3)})


class TextObservations(Broken):
    observation_space = spaces.Dict({"name": spaces.Text(8), "speeds": spaces.Sequence(spaces.Box(-1.0, 1.0, (1,)))})

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), super().reset(seed=seed)[1]


gymnasium.register("NaNReward-v0", Broken, kwargs={"fault": "reward"})
gymnasium.register("InfiniteReward-v0", Broken, kwargs={"fault": "infinite reward"})
gymnasium.register("NaNObservation-v0", Broken, kwargs={"fault": "observation"})
gymnasium.register("Raising-v0", Broken, kwargs={"fault": "raise"})
gymnasium.register("DictActions-v0", DictActions, kwargs={"fault": "none"})
gymnasium.register("TextObservations-v0", TextObservations, kwargs={"fault": "none"})
