"""Masks of valid actions, moved from where an environment says them into its observation.

From there on a mask goes wherever the observation goes: into rollout, batch, replay and checkpoint, to the policy that
acts and to the one that is evaluated.
"""

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo.config import EnvConfig, UserError, first_line
from trpo.models.observations import ALONE, MASK
from trpo.sampling.conforming import is_reset

INFO, METHOD = "info", "action_masks"  # where masks are said; the method is sb3-contrib's
MASKABLE = (spaces.Discrete, spaces.MultiDiscrete)
SOURCES: dict[str, str] = {}  # what was found out in this process since a run was last checked, by environment


def with_mask(env: gymnasium.Env, config: EnvConfig, make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """Return an environment with its masks in its observations, if it says them anywhere else; late ones are refused.

    To see what is in the info of a reset, another environment is made and reset, once in a run and process for each
    configuration: that leaves the random numbers of `env` alone. Raises `UserError` if it cannot be reset, and for
    masks that are not of single choices.
    """
    if not isinstance(env.action_space, MASKABLE) or has_own_mask(env.observation_space):
        return env
    if env.has_wrapper_attr(METHOD):
        return WithMask(env, METHOD)
    key = repr((config.id, config.arguments, config.wrappers))
    if key not in SOURCES:
        with contextlib.closing(make()) as other:
            info = first_info(other, f"env.id={config.id}")
        if MASK in info:
            checked(info[MASK], env.action_space)
        SOURCES[key] = INFO if MASK in info else ""
    return WithMask(env, INFO) if SOURCES[key] else WithoutMask(env)


def has_own_mask(space: spaces.Space) -> bool:
    """Return whether a part of the observation is called as a mask is."""
    return isinstance(space, spaces.Dict) and MASK in space.spaces


def first_info(env: gymnasium.Env | gymnasium.vector.VectorEnv, name: str) -> dict[str, Any]:
    """Return the info of a reset. Raises `UserError` with what is wrong, and with how a reset is meant to be."""
    meant = "it is called as reset(seed=…, options=…) and returns (observation, info), with a dict as info"
    try:
        found: Any = env.reset(seed=0)
    except Exception as error:
        form = f"; {meant}" if isinstance(error, TypeError) or "unpack" in str(error) else ""
        raise UserError(f"{name}: its reset fails: {type(error).__name__}: {first_line(error)}{form}") from error
    if not is_reset(found):
        raise UserError(f"{name}: its reset returned {type(found).__name__}; {meant}")
    return dict(found[1])


def checked(mask: Any, space: spaces.Space) -> np.ndarray:
    """Return a mask as an array. Raises `UserError` unless it has a 0 or 1 for every choice of every dimension."""
    try:
        given = np.asarray(in_one(mask, space))
        with np.errstate(invalid="ignore"):  # NaN and infinity, which are found below
            array = given.astype(np.int8, copy=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the mask {MASK} is {shortened(mask)}, and not an array of numbers or bools, nor a tuple of such arrays, "
            f"one for each dimension of {space}"
        ) from error
    choices = int(spaces.flatdim(space))
    if array.shape != (choices,):
        raise UserError(
            f"the mask {MASK} has the shape {array.shape}, but the {choices} choices of {space} are counted one "
            "dimension after the other: masks over combinations of several dimensions are not supported"
        )
    if (wrong := given != array & 1).any():
        raise UserError(f"the mask {MASK} holds {given[wrong][0]}: a valid choice is 1, any other 0")
    return array


def in_one(mask: Any, space: spaces.Space) -> Any:
    """Return a mask as it is, or of a tuple or list of arrays, one for each dimension, one array.

    The first is this package's form, the second that of `MultiDiscrete.sample`. Raises `UserError` if the arrays have
    other lengths than the dimensions, or are not as many.
    """
    parts = [] if isinstance(mask, np.ndarray) else list(arrays_of(mask))
    if not parts or not isinstance(space, spaces.MultiDiscrete):
        return mask
    lengths, sizes = [part.shape for part in parts], [(int(n),) for n in space.nvec.flat]
    if lengths != sizes:
        raise UserError(f"the mask {MASK} has parts of the shapes {lengths}, but the dimensions of {space} {sizes}")
    return np.concatenate(parts)


def arrays_of(mask: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of a tuple or list of them, or of nested tuples; nothing of any other mask."""
    if not isinstance(mask, tuple | list):
        return
    for part in mask:
        if isinstance(part, np.ndarray) and part.ndim:
            yield part
        elif isinstance(mask, tuple) and isinstance(part, list):
            yield np.asarray(part)
        else:
            yield from arrays_of(part)


def shortened(value: Any) -> str:
    """Return what a value looks like, on one line that is not long."""
    return textwrap.shorten(repr(value), 80)


class WithMask(gymnasium.Wrapper):
    """An environment whose observations are named parts, one of which is the mask of valid actions.

    Args:
        env: says its masks in `info["action_mask"]`, of `reset` too, or by a method `action_masks()`; where its episode
            has ended it may leave them out.
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
        said = info
        if self.source == INFO and (terminated or truncated) and info.get(MASK) is None:  # no action follows
            said = {MASK: np.ones(int(spaces.flatdim(self.action_space)), dtype=np.int8)}
        return self._with_mask(observation, said), reward, terminated, truncated, info

    def _with_mask(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if self.source == METHOD:
            mask = self.env.get_wrapper_attr(METHOD)()
        elif MASK in info:
            mask = info[MASK]
        else:
            raise RuntimeError(f"the environment gave no {MASK} in its info, as it did in its first")
        parts = observation if self.composed else {ALONE: observation}
        return {**parts, MASK: checked(mask, self.action_space)}


class WithoutMask(gymnasium.Wrapper):
    """An environment that says no masks, and never does: one that began to would find nobody to heed them."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns. Raises `RuntimeError` if its info has a mask."""
        stepped: tuple[Any, Any, bool, bool, dict[str, Any]] = self.env.step(action)
        if MASK in stepped[-1]:
            raise RuntimeError(f"a step gave {MASK} in its info, and the first reset none: masks are in that of both")
        return stepped
