"""The border between an environment's spaces and the agent's tensors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from trpo.config import UserError
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution
from trpo.models.observations import MASK, Kind, Observations, Spec, leaves_of, named
from trpo.sampling.decoding import BoxDecoder, IntegerDecoder, own_units
from trpo.sampling.description import described
from trpo.sampling.encoding import Encode, Kept, everything, make_contains, make_encoder

Decode = Callable[[Tensor], np.ndarray]


class Interface(NamedTuple):
    """How one kind of environment speaks to an agent."""

    observations: Spec  # what they are made of
    distribution: Distribution
    contains: Callable[[Observations], Tensor]  # which encoded observations lie in the space (…)
    encode: Encode  # a batch of observations to B rows, always a copy
    decode: Decode  # actions (B, A) to a batch of environment actions
    decoder: nn.Module  # the same in torch
    limits: Tensor | None = None  # of continuous actions (2, A), in the policy's units
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

    def forbidding(self, observations: Observations) -> Tensor:
        """Return which rows' masks leave no choice in some dimension of an action (B,)."""
        assert isinstance(self.distribution, Categorical)  # no other has masks
        parts = leaves_of(observations)[MASK].split(self.distribution.sizes, dim=1)
        return torch.stack([~part.any(1) for part in parts]).any(0)


def make_interface(observation_space: spaces.Space, action_space: spaces.Space, kept: Kept = everything) -> Interface:
    """Return the interface for these spaces, with the parts of an observation that are `kept` by name.

    Raises `UserError` naming a space that is not supported.
    """
    distribution, decoder = decoder_for(action_space)
    actions = distribution.parameter_size if isinstance(distribution, Categorical) else 0
    observations, encode = make_encoder(observation_space, actions, kept)
    if MASK in named(observations) and isinstance(distribution, Bernoulli):
        raise UserError(f"{MASK} masks Discrete and MultiDiscrete actions; a mask of {action_space} is not supported")
    return Interface(
        observations=observations,
        distribution=distribution,
        contains=make_contains(observation_space, observations),
        encode=encode,
        decode=in_numpy(decoder),
        decoder=decoder,
        limits=own_units(action_space) if isinstance(action_space, spaces.Box) else None,
        observation_space=observation_space,
        action_space=action_space,
    )


def in_numpy(decoder: nn.Module) -> Decode:
    """Return a decoder as environments take its actions."""
    decode = decoder.forward  # there is nobody to listen to each of a run's steps
    return lambda actions: decode(actions).numpy()


def decoder_for(space: spaces.Space) -> tuple[Distribution, nn.Module]:
    """Return the distribution for an action space and the module that makes its samples an environment's actions.

    Raises `UserError` naming a space that is not supported.
    """
    if 0 in (getattr(space, "shape", None) or ()):
        raise UserError(f"action space {space} has no numbers: there is nothing to decide")
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return DiagonalGaussian(int(np.prod(space.shape))), BoxDecoder(space)
    if isinstance(space, spaces.Discrete):
        return Categorical((int(space.n),)), IntegerDecoder((), space.start, space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(n) for n in space.nvec.flat)
        return Categorical(sizes), IntegerDecoder(space.nvec.shape, space.start, space.dtype)
    if isinstance(space, spaces.MultiBinary):
        return Bernoulli(int(np.prod(space.shape))), IntegerDecoder(space.shape, 0, space.dtype)
    raise UserError(
        f"action space {space} is not supported; supported: Box of floats, Discrete, MultiDiscrete, MultiBinary"
    )
