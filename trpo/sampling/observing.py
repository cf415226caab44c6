"""Raw observations from anybody's hands: one, or a batch of them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

from trpo.config import UserError
from trpo.models.observations import ALONE, MASK
from trpo.sampling.interface import Interface


def with_mask(observation: Any, mask: Any, interface: Interface) -> Any:
    """Return an observation with the mask where its space has it, given beside it or in it.

    Raises `UserError` where a mask is missing or has no place, and for what `env.reset()` returns.
    """
    if isinstance(observation, tuple) and not isinstance(interface.observation_space, spaces.Tuple):
        raise UserError("the observation is a tuple: env.reset() returns (observation, info)")
    if not interface.masked:
        if mask is not None:
            raise UserError("this agent has learned without masks: leave mask out")
        return observation
    parts = observation if isinstance(observation, dict) else {ALONE: observation}
    if mask is not None:
        parts = {**parts, MASK: np.asarray(mask)}
    if MASK not in parts:
        raise UserError("this agent asks which actions are valid: act(observation, mask=info['action_mask'])")
    return parts


def is_batch(observation: Any, space: spaces.Space | None) -> bool:
    """Return whether there are several observations. Raises `UserError` if its shape is none of the space's."""
    if isinstance(space, spaces.Dict):
        check_parts(observation, space)
        name, part = next(iter(space.spaces.items()))
        return is_batch(observation[name], part)
    if isinstance(space, spaces.Tuple):
        return is_batch(observation[0], space.spaces[0])
    if isinstance(space, spaces.Text):
        return not isinstance(observation, str)
    assert space is not None
    shape, own = np.shape(observation), tuple(space.shape or ())
    if shape not in (own, (len(observation) if shape else 0, *own)):
        raise UserError(f"the observation has the shape {shape}, but one of {space} has {own}, a batch B more")
    return bool(shape != own)


def check_parts(observation: Any, space: spaces.Dict) -> None:
    """Raise `UserError` unless an observation has the parts of its space."""
    if not isinstance(observation, dict) or (missing := space.spaces.keys() - observation.keys()):
        what = f"lacks {', '.join(sorted(missing))}" if isinstance(observation, dict) else "is no mapping"
        raise UserError(f"the observation {what}: its parts are {', '.join(space.spaces)}")


def as_batch(observation: Any, space: spaces.Space | None) -> Any:
    """Return one observation as a batch of one."""
    assert space is not None
    empty: Any = create_empty_array(space, 1)
    return concatenate(space, [observation], empty)
