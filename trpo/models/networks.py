"""Policies and critics: separate multi-layer perceptrons.

They share nothing, so that fitting the critic cannot move the policy outside the trust region.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from trpo.models.distributions import Distribution
from trpo.models.mlp import Map, mlp, unwrapped
from trpo.models.observations import MASK, Observations, leaves_of

Actor = Callable[[Observations, Tensor | None], Tensor]  # observations and noise to actions

INVALID_LOGIT = -1e8
LAST_POLICY_GAIN = 0.01  # near-uniform first policies; Andrychowicz et al. 2021, arXiv:2006.05990, section 3.2


def after(encoder: Map | None, rows: Map) -> Map:
    """Return the map of observations that a map of what their encoder makes of them is."""
    return rows if encoder is None else lambda observations: rows(encoder(observations))


def masked(logits: Tensor, valid: Tensor) -> Tensor:
    """Return logits (N, D) with those of actions that are not valid (N, D) so low that their probability is 0.

    Finite, so that 0 times their logarithm is 0: with −∞ entropy, KL and their gradients would be NaN.
    """
    return torch.where(valid, logits, INVALID_LOGIT)


class Policy(nn.Module):
    """A map from observations (N, O) to the parameters (N, D) of `distribution`.

    Any subclass can be optimised by `trust_region_step`: its parameters are all of θ, and its forward pass must be
    differentiable twice and treat every row alike.

    >>> import torch
    >>> import trpo
    >>> from trpo.models.distributions import Categorical
    >>> class Linear(trpo.Policy):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.distribution, self.logits = Categorical((2,)), torch.nn.Linear(4, 2)
    ...     def forward(self, observations):
    ...         return self.logits(observations)
    >>> Linear().actor()(torch.zeros(3, 4), None).shape
    torch.Size([3, 1])
    """

    distribution: Distribution

    def forward(self, observations: Observations) -> Tensor:
        """Return distribution parameters (N, D)."""
        raise NotImplementedError

    def snapshot(self) -> Map:
        """Return `forward` as it is now, in the form that acts fastest; valid until a parameter changes."""
        return self

    def actor(self, encode: Map | None = None) -> Actor:  # noqa: ARG002  of those who encode
        """Return the map of observations (B, O) to actions (B, A), as it is now: samples by noise, the mode without.

        `encode` takes the place of the encoder, for whoever needs more of what it makes.
        """
        return self._actor(self.snapshot())

    def _actor(self, parameters: Map) -> Actor:
        distribution = self.distribution

        @torch.no_grad()
        def act(observations: Observations, noise: Tensor | None) -> Tensor:
            y = parameters(observations)
            return distribution.mode(y) if noise is None else distribution.sample(y, noise)

        return act


class LogitPolicy(Policy):
    """A network whose outputs are logits: for `Categorical` and `Bernoulli`.

    Args:
        observation_size: O, or how many numbers `encoder` makes of an observation.
        distribution: what the logits are of.
        hidden_sizes: widths of the hidden layers.
        activation: between layers.
        generator: draws the weights.
        encoder: from observations to rows of numbers; without one they are that already.
        masked: whether observations say which actions are valid, under the name `action_mask`.

    >>> import torch
    >>> import trpo
    >>> from trpo.models.distributions import Categorical
    >>> made = {"hidden_sizes": (8,), "activation": "tanh", "generator": torch.Generator().manual_seed(0)}
    >>> policy = trpo.LogitPolicy(4, Categorical((2,)), **made)
    >>> policy(torch.zeros(5, 4)).softmax(-1)[0].tolist()  # without biases zeros are even
    [0.5, 0.5]
    """

    def __init__(
        self,
        observation_size: int,
        distribution: Distribution,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
        encoder: nn.Module | None = None,
        masked: bool = False,
    ) -> None:
        super().__init__()
        self.distribution, self.encoder, self.masked = distribution, encoder, masked
        sizes = (observation_size, *hidden_sizes, distribution.parameter_size)
        self.network = mlp(sizes, activation=activation, last_gain=LAST_POLICY_GAIN, generator=generator)

    def forward(self, observations: Observations) -> Tensor:
        """Return logits (N, D)."""
        return self._valid(after(self.encoder, self.network)(observations), observations)

    def actor(self, encode: Map | None = None) -> Actor:
        """Return the map of observations to actions, as it is now."""
        return self._actor(self.snapshot(encode))

    def snapshot(self, encode: Map | None = None) -> Map:
        """Return `forward` as it is now; valid until a parameter changes."""
        logits = after(encode or self.encoder, unwrapped(self.network))
        return (lambda observations: self._valid(logits(observations), observations)) if self.masked else logits

    def _valid(self, logits: Tensor, observations: Observations) -> Tensor:
        return masked(logits, leaves_of(observations)[MASK]) if self.masked else logits


class Critic(nn.Module):
    """The value function: observations (N, O) to V(s) (N,)."""

    def __init__(
        self,
        observation_size: int,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        generator: torch.Generator,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        sizes = (observation_size, *hidden_sizes, 1)
        self.network = mlp(sizes, activation=activation, last_gain=1.0, generator=generator)

    def forward(self, observations: Observations) -> Tensor:
        """Return V(s) (N,)."""
        return self.network(self.features(observations)).squeeze(-1)  # type: ignore[no-any-return]

    def features(self, observations: Observations) -> Tensor:
        """Return what the perceptron takes (N, F)."""
        return observations if self.encoder is None else self.encoder(observations)
