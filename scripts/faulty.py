"""Environments that go wrong on purpose, for torture.py: `env.id=faulty:Faulty-v0 +env.kwargs.fault=hang`."""

import os
import signal
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

FAULTS = (
    "raise in step",
    "raise in reset",
    "hang",
    "die",
    "wrong shape",
    "text for numbers",
    "NaN observation",
    "infinite observation",
    "NaN reward",
    "infinite reward",
)


class Faulty(gymnasium.Env):
    """Episodes of twenty random observations; from step `at` on, counted over episodes, the fault."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, fault: str, at: int = 150) -> None:
        self.fault = fault
        self.at = at
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return a random observation; fail if it is time to fail in reset."""
        super().reset(seed=seed, options=options)
        if self.fault == "raise in reset" and self.steps >= self.at:
            raise RuntimeError("the simulator cannot reset")
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return a random observation and the action as reward, or the fault."""
        self.steps += 1
        observation: Any = self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)
        reward = float(action)
        if self.steps >= self.at:
            observation, reward = self.go_wrong(observation, reward)
        return observation, reward, False, self.steps % 20 == 0, {}

    def go_wrong(self, observation: Any, reward: float) -> tuple[Any, float]:
        """Return what the faulty environment gives, if it gives anything."""
        match self.fault:
            case "raise in step":
                raise RuntimeError("the simulator fell over")
            case "hang":
                time.sleep(3_600)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wrong shape":
                return np.zeros(4, dtype=np.float32), reward
            case "text for numbers":
                return np.array(["a", "b", "c"]), reward
            case "NaN observation":
                observation[1] = np.nan
            case "infinite observation":
                observation[1] = np.inf
            case "NaN reward":
                return observation, float("nan")
            case "infinite reward":
                return observation, float("-inf")
        return observation, reward


gymnasium.register("Faulty-v0", "faulty:Faulty")
