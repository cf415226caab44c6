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
from trpo.models.observations import MASK, Kind, Observations, Spec, leaves_of, named
from trpo.sampling.description import described
from trpo.sampling.encoding import Encode, Kept, make_contains, make_encoder

Decode = Callable[[Tensor], np.ndarray]

WIDEST_BOUND = 1e30  # wider bounds are somebody's way to write infinity


class Interface(NamedTuple):
    """How one kind of environment speaks to an agent."""

    observations: Spec  # what they are made of
    distribution: Distribution
    contains: Callable[[Observations], Tensor]  # which encoded observations lie in the space (…)
    encode: Encode  # a batch of observations to B rows, always a copy
    decode: Decode  # actions (B, A) to a batch of environment actions
    bounds: Tensor | None = None  # of continuous actions (2, A), in the policy's units
    observation_space: spaces.Space | None = None
    action_space: spaces.Space | None = None

    def description(self) -> dict[str, Any]:
        """Return the spaces as plain data, from which `make_interface` makes the same without an environment."""
        return {"observation": described(self.observation_space), "action": described(self.action_space)}

    @property
    def masked(self) -> bool:
        """Whether observations say which actions are valid."""
        return any(leaf.kind is Kind.MASK for leaf in named(self.observations).values())

    def possible(self, observations: Observations) -> Tensor:
        """Return a valid action for every row (B, A): the most probable, were the masks logits."""
        return self.distribution.mode(leaves_of(observations)[MASK].float())


def make_interface(
    observation_space: spaces.Space, action_space: spaces.Space, kept: Kept = lambda _: True
) -> Interface:
    """Return the interface for these spaces, with the parts of an observation that are `kept` by name.

    Raises `UserError` naming a space that is not supported.
    """
    distribution, decode = make_decoder(action_space)
    actions = distribution.parameter_size if isinstance(distribution, Categorical) else 0
    observations, encode = make_encoder(observation_space, actions, kept)
    if MASK in named(observations) and isinstance(distribution, Bernoulli):
        raise UserError(f"{MASK} masks Discrete and MultiDiscrete actions; a mask of {action_space} is not supported")
    return Interface(
        observations=observations,
        distribution=distribution,
        contains=make_contains(observation_space, observations),
        encode=encode,
        decode=decode,
        bounds=action_bounds(action_space),
        observation_space=observation_space,
        action_space=action_space,
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
