"""What goes outermost around every single environment: what it gives, in the types that it promises."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo.sampling.encoding import name_of

NUMBERS, TRUTHS = (float, int, np.floating, np.integer), (bool, np.bool_)  # what rewards and ends are taken as

ALL_OF_STEP = "(observation, reward, terminated, truncated, info)"

Cast = Callable[[Any], Any]


class Conforming(gymnasium.Wrapper):
    """An environment whose observations, rewards and ends have the types that its spaces and Gymnasium promise.

    Backends, and evaluation, make different things of what has another type, and of what has another shape or lacks a
    part some make an error that names nothing. What is right passes as it is.

    Args:
        env: may give whole numbers in another type than its space's, and rewards and ends in arrays of one element.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.cast = cast_of(env.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return what `Env.reset` returns. Raises `ValueError` if that is no observation with an info."""
        try:
            found: Any = self.env.reset(seed=seed, options=options)
        except SystemExit as error:
            raise_for_exit(error)
        if not is_reset(found):
            raise ValueError(f"reset returned {type(found).__name__}, and not (observation, info)")
        observation, info = found
        return (self.cast(observation) if self.cast else observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns. Raises `ValueError` for what cannot have the right type or shape."""
        try:
            stepped: Any = self.env.step(action)
        except SystemExit as error:
            raise_for_exit(error)
        check_step(stepped)
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


def raise_for_exit(error: SystemExit) -> NoReturn:
    """Raise `RuntimeError`: a game whose window is closed leaves so, and the run would end as if it were finished."""
    code = "" if error.code is None else repr(error.code)
    raise RuntimeError(f"the environment called sys.exit({code})") from error


def check_step(stepped: Any) -> None:
    """Raise `ValueError` unless something is what a step returns: five things, the last of them an info."""
    if not isinstance(stepped, tuple | list) or len(stepped) != 5:
        amount = f" of {len(stepped)}" if isinstance(stepped, tuple | list) else ""
        raise ValueError(f"step returned {type(stepped).__name__}{amount}, and not {ALL_OF_STEP}")
    if not isinstance(stepped[4], Mapping):
        raise ValueError(f"step returned an info that is {type(stepped[4]).__name__}, and not a dict")


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
    """Return what gives observations the whole numbers of their space, and refuses those of other shapes and parts.

    None for a space, `Text` say, of which nothing is known.
    """
    name = name_of(path)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        inner: Any = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        casts = {key: cast_of(part, (*path, key)) for key, part in inner}
        return functools.partial(cast_parts, casts=casts, name=name, keyed=isinstance(space, spaces.Dict))
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return None
    return functools.partial(as_in_space, shape=tuple(space.shape or ()), dtype=np.dtype(space.dtype), name=name)


def cast_parts(observation: Any, casts: dict[Any, Cast | None], name: str, *, keyed: bool) -> Any:
    """Return the parts of an observation, by key or else by number, as their casts give them, itself if unchanged."""
    check_parts(observation, casts, name, keyed=keyed)
    changed = {}
    for key, cast in casts.items():
        part = observation[key]
        if cast and (given := cast(part)) is not part:
            changed[key] = given
    if not changed:
        return observation
    return {**observation, **changed} if keyed else tuple(changed.get(i, part) for i, part in enumerate(observation))


def check_parts(observation: Any, parts: Mapping[Any, Any], name: str, *, keyed: bool) -> None:
    """Raise `ValueError` unless an observation has all its parts, by key or else by number."""
    if not isinstance(observation, Mapping if keyed else Sequence | np.ndarray):
        kind = "mapping" if keyed else "tuple"
        raise ValueError(f"the {name} is {type(observation).__name__}, and not a {kind} of {listed(parts)}")
    for key in parts:
        if key not in observation if keyed else key >= len(observation):
            raise ValueError(f"the {name} lacks {key}: its space has {listed(parts)}")


def listed(parts: Mapping[Any, Any]) -> str:
    """Return the names or numbers of parts."""
    return ", ".join(map(str, parts))


def as_in_space(value: Any, shape: tuple[int, ...], dtype: np.dtype, name: str) -> Any:
    """Return an observation in its space's type, if that is one of whole numbers.

    Raises `ValueError` for what is no number, has another shape, or holds a number that this would change.
    """
    if isinstance(value, np.ndarray) and value.dtype == dtype and value.shape == shape:
        return value
    array = as_numbers(value, name)
    if array.shape != shape:
        raise ValueError(f"the {name} has the shape {array.shape}, and {shape} in its space")
    return as_whole_numbers(value, array, dtype, name) if dtype.kind in "biu" else value


def as_numbers(value: Any, name: str) -> np.ndarray:
    """Return numbers as an array. Raises `ValueError` for what has none, or rows of several lengths."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"the {name} has rows of several lengths") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the {name} is {type(value).__name__} of {array.dtype}, and not numbers")
    return array


def as_whole_numbers(value: Any, array: np.ndarray, dtype: np.dtype, name: str) -> Any:
    """Return an observation in a type of whole numbers. Raises `ValueError` naming a number that this would change."""
    if np.can_cast(array.dtype, dtype):
        return value  # no number can change, now or where environments are put together
    with np.errstate(invalid="ignore"):  # NaN and infinity, which are found below
        cast = array.astype(dtype)
    if (differ := np.atleast_1d(array != cast)).any():
        lost = np.atleast_1d(array)[differ][0]
        raise ValueError(
            f"the {name} is {array.dtype} with {lost} in it, which {dtype}, as its space has it, cannot be"
        )
    return cast
