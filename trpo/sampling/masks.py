"""Masks of valid actions, moved from where an environment says them into its observation.

From there on a mask goes wherever the observation goes: into rollout, batch, replay and checkpoint, to the policy that
acts and to the one that is evaluated.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo.config import UserError
from trpo.models.observations import ALONE, MASK

INFO, METHOD = "info", "action_masks"  # where masks are said; the method is sb3-contrib's
MASKABLE = (spaces.Discrete, spaces.MultiDiscrete)
SOURCES: dict[str, str] = {}  # what was found out in this process since a run was last checked, by environment


def with_mask(env: gymnasium.Env, key: str, make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Return an environment with its masks in its observations, if it says them anywhere else.

    To see what is in the info of a reset, another environment is made and reset, once in a run and process for each
    `key`: that leaves the random numbers of `env` alone. Raises `UserError` for masks that are not of single choices.
    """
    if not isinstance(env.action_space, MASKABLE) or has_own_mask(env):
        return env
    if env.has_wrapper_attr(METHOD):
        return WithMask(env, METHOD)
    if key not in SOURCES:
        with contextlib.closing(make()) as other:
            info = other.reset(seed=0)[1]
        SOURCES[key] = INFO if MASK in info else ""
        if SOURCES[key]:
            checked(info[MASK], env.action_space)
    return WithMask(env, INFO) if SOURCES[key] else env


def has_own_mask(env: gymnasium.Env) -> bool:
    """Return whether a part of the observation is called as a mask is."""
    return isinstance(env.observation_space, spaces.Dict) and MASK in env.observation_space.spaces


def checked(mask: Any, space: spaces.Space) -> np.ndarray:
    """Return a mask as an array. Raises `UserError` unless it has one entry for every choice of every dimension."""
    array, choices = np.asarray(mask, dtype=np.int8), int(spaces.flatdim(space))
    if array.shape != (choices,):
        raise UserError(
            f"the mask {MASK} has the shape {array.shape}, but the {choices} choices of {space} are counted one "
            "dimension after the other: masks over combinations of several dimensions are not supported"
        )
    return array


class WithMask(gymnasium.Wrapper):
    """An environment whose observations are named parts, one of which is the mask of valid actions.

    Args:
        env: says its masks in `info["action_mask"]`, of `reset` too, or by a method `action_masks()`.
        source: `INFO` or `METHOD`.
    """

    def __init__(self, env: gymnasium.Env, source: str) -> None:
        super().__init__(env)
        self.source = source
        whole = env.observation_space
        self.composed = isinstance(whole, spaces.Dict)
        parts: Any = whole.spaces if isinstance(whole, spaces.Dict) else {ALONE: whole}
        self.observation_space = spaces.Dict({**parts, MASK: spaces.MultiBinary(int(spaces.flatdim(env.action_space)))})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return what `Env.reset` returns, the mask with it."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_mask(observation, info), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns, the mask with it."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_mask(observation, info), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if self.source == METHOD:
            mask = self.env.get_wrapper_attr(METHOD)()
        elif MASK in info:
            mask = info[MASK]
        else:
            raise RuntimeError(f"the environment gave no {MASK} in its info, as it did in its first")
        parts = observation if self.composed else {ALONE: observation}
        return {**parts, MASK: checked(mask, self.action_space)}
