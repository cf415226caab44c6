"""The border between an environment's spaces and the agent's tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from trpo.config import UserError
from trpo.models.action_values import clipped
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution

Encode = Callable[[Any], Tensor]
Decode = Callable[[Tensor], np.ndarray]

WIDEST_BOUND = 1e30  # wider bounds are somebody's way to write infinity


class Interface(NamedTuple):
    """How one kind of environment speaks to an agent."""

    observation_size: int  # O
    one_hot: bool  # observations have exactly one 1: no statistics to estimate
    distribution: Distribution
    contains: Callable[[Tensor], Tensor]  # which encoded observations (…, O) lie in the space (…)
    encode: Encode  # a batch of observations to float32 (B, O), always a copy
    decode: Decode  # actions (B, A) to a batch of environment actions
    bounds: Tensor | None = None  # of continuous actions (2, A), in the policy's units


def make_interface(observation_space: spaces.Space, action_space: spaces.Space) -> Interface:
    """Return the interface for these spaces. Raises `UserError` naming a space that is not supported."""
    size, encode = make_encoder(observation_space)
    distribution, decode = make_decoder(action_space)
    return Interface(
        observation_size=size,
        one_hot=isinstance(observation_space, spaces.Discrete),
        distribution=distribution,
        contains=make_contains(observation_space),
        encode=encode,
        decode=decode,
        bounds=action_bounds(action_space),
    )


def make_contains(space: spaces.Space) -> Callable[[Tensor], Tensor]:
    """Return the test of encoded observations (…, O) against the bounds of a `Box`; others fail to encode."""
    if not isinstance(space, spaces.Box):
        return lambda observations: torch.ones(observations.shape[:-1], dtype=torch.bool)
    low, high = (torch.from_numpy(bound.astype(np.float32).reshape(-1)) for bound in (space.low, space.high))
    return lambda observations: ((observations >= low) & (observations <= high)).all(-1)


def make_encoder(space: spaces.Space) -> tuple[int, Encode]:
    """Return O and the encoder: `Box` of any shape is flattened, `Discrete` becomes one-hot."""
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)

        def one_hot(observations: Any) -> Tensor:
            indices = np.asarray(observations, dtype=np.int64).reshape(-1) - start
            return torch.nn.functional.one_hot(torch.from_numpy(indices), count).float()

        return count, one_hot
    if isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))

        def flatten(observations: Any) -> Tensor:
            return torch.from_numpy(np.array(observations, dtype=np.float32).reshape(-1, size))

        return size, flatten
    raise UserError(
        f"observation space {space} is not supported; supported: Box, Discrete; with env.backend=sync "
        "and async also Dict, Tuple, MultiDiscrete and MultiBinary, if Gymnasium can flatten them to a Box"
    )


def make_decoder(space: spaces.Space) -> tuple[Distribution, Decode]:
    """Return the distribution for an action space and the way from its samples to the environment."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(int(np.prod(space.shape))), make_box_decoder(space)
    if isinstance(space, spaces.Discrete):
        start, dtype = space.start, space.dtype
        return Categorical((int(space.n),)), lambda actions: actions[:, 0].numpy().astype(dtype) + start
    if isinstance(space, spaces.MultiDiscrete):
        return Categorical(tuple(int(n) for n in space.nvec.flat)), make_integer_decoder(space, space.start)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(int(np.prod(space.shape))), make_integer_decoder(space, 0)
    raise UserError(
        f"action space {space} is not supported; supported: Box of floats, Discrete, MultiDiscrete, MultiBinary"
    )


def make_integer_decoder(space: spaces.Space, start: Any) -> Decode:
    """Return the decoder that restores the shape of a space of integers and where they count from."""
    return lambda actions: (actions.numpy().reshape(-1, *(space.shape or ())) + start).astype(space.dtype)


def make_box_decoder(space: spaces.Box) -> Decode:
    """Return the affine map of [−1, 1] to finite bounds, then the clip to all bounds.

    The policy works in units in which the bounds are ±1, whatever the environment's; a dimension without
    two finite bounds keeps its own units. Log-probs are those of the action before this map.
    """
    low, high, bounded = box_bounds(space)
    bounds = action_bounds(space)
    assert bounds is not None
    half = (np.where(bounded, high, 1.0) - np.where(bounded, low, -1.0)) / 2
    centre = (np.where(bounded, high, 0.0) + np.where(bounded, low, 0.0)) / 2

    as_they_are = bool((half == 1).all() and not centre.any())

    def decode(actions: Tensor) -> np.ndarray:
        inside = clipped(actions, bounds).numpy()
        if not as_they_are:
            inside = np.minimum(np.maximum(inside * half + centre, low), high)  # the map may round past a bound
        return inside.reshape(-1, *space.shape).astype(space.dtype)

    return decode


def action_bounds(space: spaces.Space) -> Tensor | None:
    """Return the bounds of continuous actions (2, A) in the policy's units, ±1 where both are finite; else None."""
    if not isinstance(space, spaces.Box):
        return None
    low, high, bounded = box_bounds(space)
    own_units = np.clip([low, high], -WIDEST_BOUND, WIDEST_BOUND)  # float32 has no wider ones
    return torch.from_numpy(np.where(bounded, [[-1.0], [1.0]], own_units).astype(np.float32))


def box_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bounds (A,), (A,) of a box in its own units, and in which dimensions both are finite."""
    low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    return low, high, (low > -WIDEST_BOUND) & (high < WIDEST_BOUND)
