"""What goes outermost around every single environment: what it gives, in the types that it promises."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo.sampling.encoding import name_of

NUMBERS, TRUTHS = (float, int, np.floating, np.integer), (bool, np.bool_)  # what rewards and ends are taken as

Cast = Callable[[Any], Any]


class Conforming(gymnasium.Wrapper):
    """An environment whose observations, rewards and ends have the types that its spaces and Gymnasium promise.

    Backends, and evaluation, make different things of what has another type. What has the right one passes as it is.

    Args:
        env: may give whole numbers in another type than its space's, and rewards and ends in arrays of one element.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.cast = cast_of(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return what `Env.reset` returns. Raises `ValueError` if that is no observation with an info."""
        found: Any = self.env.reset(seed=seed, options=options)
        if not is_reset(found):
            raise ValueError(f"reset returned {type(found).__name__}, and not (observation, info)")
        observation, info = found
        return (self.cast(observation) if self.cast else observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns. Raises `ValueError` for what cannot have the right type."""
        stepped: tuple[Any, Any, Any, Any, dict[str, Any]] = self.env.step(action)
        observation, reward, terminated, truncated, info = stepped
        if self.cast:
            observation = self.cast(observation)
        if not isinstance(reward, NUMBERS):
            reward = float(single("reward", reward))
        if not isinstance(terminated, TRUTHS):
            terminated = bool(single("terminated", terminated))
        if not isinstance(truncated, TRUTHS):
            truncated = bool(single("truncated", truncated))
        return observation, reward, terminated, truncated, info


def is_reset(found: Any) -> bool:
    """Return whether something is what a reset returns: an observation and an info."""
    return isinstance(found, tuple | list) and len(found) == 2 and isinstance(found[1], Mapping)


def single(name: str, value: Any) -> Any:
    """Return the element of an array of one, and None for an end that is None. Raises `ValueError` for other things."""
    if value is None and name != "reward":
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        what = f"an array of shape {array.shape}" if array.ndim else repr(value)
        raise ValueError(f"{name} is {what}, and not a single {'number' if name == 'reward' else 'bool'}")
    return array.item()


def cast_of(space: spaces.Space, path: tuple[str | int, ...] = ()) -> Cast | None:
    """Return what gives observations the whole numbers of their space, or None where there are none."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        casts = {key: cast for key, part in inner if (cast := cast_of(part, (*path, key)))}
        if not casts:
            return None
        return functools.partial(cast_parts, casts=casts, keyed=isinstance(space, spaces.Dict))
    has_numbers = isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    if not has_numbers or np.dtype(space.dtype).kind not in "biu":
        return None
    return functools.partial(as_whole_numbers, dtype=np.dtype(space.dtype), name=name_of(path))


def cast_parts(observation: Any, casts: dict[Any, Cast], *, keyed: bool) -> Any:
    """Return the parts of an observation, by key or else by number, as their casts give them, itself if unchanged."""
    changed = {}
    for key, cast in casts.items():
        part = observation[key]
        if (given := cast(part)) is not part:
            changed[key] = given
    if not changed:
        return observation
    return {**observation, **changed} if keyed else tuple(changed.get(i, part) for i, part in enumerate(observation))


def as_whole_numbers(value: Any, dtype: np.dtype, name: str) -> Any:
    """Return an observation in a type of whole numbers. Raises `ValueError` naming a number that this would change."""
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        return value
    array = np.asarray(value)
    if array.dtype == dtype or array.dtype.kind not in "biuf" or np.can_cast(array.dtype, dtype):
        return value  # no number can change, now or where environments are put together
    with np.errstate(invalid="ignore"):  # NaN and infinity, which are found below
        cast = array.astype(dtype)
    if (differ := np.atleast_1d(array != cast)).any():
        lost = np.atleast_1d(array)[differ][0]
        raise ValueError(
            f"the {name} is {array.dtype} with {lost} in it, which {dtype}, as its space has it, cannot be"
        )
    return cast
