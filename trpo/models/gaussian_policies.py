"""Policies of continuous actions: a normal around what a perceptron says, its σ of the state or the same in all."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trpo.models.distributions import DiagonalGaussian
from trpo.models.mlp import Map, mlp, unwrapped
from trpo.models.networks import LAST_POLICY_GAIN, Actor, Policy, after
from trpo.models.observations import Observations


class Gaussian(Policy):
    """What both kinds have: log σ = floor + softplus(ρ) + shift.

    `distribution` says by what its actions are compared; without one, as they were drawn.

    ρ is learned. A floor that is smooth has a gradient, where a clamp would cut the dimension out of the Fisher matrix
    and never let σ grow again. The shift is part of the state and not of θ: `policy.final_std_scale` moves it.
    """

    outputs: ClassVar[int]  # of the network for each action dimension
    network: nn.Sequential
    shift: Tensor  # a scalar

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        hidden_sizes: tuple[int, ...],
        activation: str,
        initial_log_std: float,
        min_log_std: float,
        generator: torch.Generator,
        encoder: nn.Module | None = None,
        distribution: DiagonalGaussian | None = None,
    ) -> None:
        super().__init__()
        self.distribution, self.encoder = distribution or DiagonalGaussian(action_size), encoder
        self.min_log_std = min_log_std
        self.register_buffer("shift", torch.zeros(()))
        sizes = (observation_size, *hidden_sizes, self.outputs * action_size)
        self.network = mlp(sizes, activation=activation, last_gain=LAST_POLICY_GAIN, generator=generator)
        self.start(action_size, math.log(math.expm1(initial_log_std - min_log_std)))

    def start(self, action_size: int, rho: float) -> None:
        """Let every ρ be this one at first."""
        raise NotImplementedError

    def log_std_of(self, rho: Tensor) -> Tensor:
        """Return log σ of ρ."""
        return self.min_log_std + nn.functional.softplus(rho) + self.shift

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}shift", torch.zeros(()))  # which older checkpoints have not
        super()._load_from_state_dict(state_dict, prefix, *rest)


class GaussianPolicy(Gaussian):
    """A network for the means and one log σ per action dimension, the same in every state.

    log σ = floor + softplus(ρ) with ρ the parameter.

    >>> import torch
    >>> import trpo
    >>> made = {"hidden_sizes": (8,), "activation": "tanh", "generator": torch.Generator().manual_seed(0)}
    >>> policy = trpo.GaussianPolicy(3, 2, initial_log_std=-1.0, min_log_std=-2.3, **made)
    >>> policy(torch.zeros(5, 3)).shape  # [μ, log σ]
    torch.Size([5, 4])
    """

    outputs = 1

    def start(self, action_size: int, rho: float) -> None:
        """Let every ρ be this one at first."""
        self.rho = nn.Parameter(torch.full((action_size,), rho))

    def forward(self, observations: Observations) -> Tensor:
        """Return [μ, log σ] (N, 2A)."""
        mean, log_std = after(self.encoder, self.network)(observations), self.log_std()
        return torch.cat([mean, log_std.expand_as(mean)], dim=-1)

    def log_std(self) -> Tensor:
        """Return log σ (A,)."""
        return self.log_std_of(self.rho)

    def actor(self, encode: Map | None = None) -> Actor:
        """Return μ + σε, or μ without noise; σ is the same for every row, and is computed once."""
        encode = encode or self.encoder
        mean, std = after(encode, unwrapped(self.network)), self.log_std().detach().exp()

        def act(observations: Observations, noise: Tensor | None) -> Tensor:
            return mean(observations).clone() if noise is None else torch.addcmul(mean(observations), std, noise)

        return act if encode is None else torch.no_grad()(act)


class StateGaussianPolicy(Gaussian):
    """A network for the means and the log σ, both of the state.

    log σ = floor + softplus(ρ(s)), the floor as of `GaussianPolicy`; at first nearly the same in every state.

    >>> import torch
    >>> import trpo
    >>> made = {"hidden_sizes": (8,), "activation": "tanh", "generator": torch.Generator().manual_seed(0)}
    >>> policy = trpo.StateGaussianPolicy(3, 2, initial_log_std=-1.0, min_log_std=-2.3, **made)
    >>> policy(torch.zeros(5, 3)).round(decimals=4)[0].tolist()  # [μ, log σ]
    [0.0, 0.0, -1.0, -1.0]
    """

    outputs = 2

    def start(self, action_size: int, rho: float) -> None:
        """Let every ρ be nearly this one at first: the last bias is, the last weights are small."""
        last: Any = self.network[-1]
        last.bias.data[action_size:] = rho

    def forward(self, observations: Observations) -> Tensor:
        """Return [μ, log σ] (N, 2A)."""
        return self._floored(after(self.encoder, self.network)(observations))

    def actor(self, encode: Map | None = None) -> Actor:
        """Return the map of observations to actions, as it is now."""
        return self._actor(self.snapshot(encode))

    def snapshot(self, encode: Map | None = None) -> Map:
        """Return `forward` as it is now; valid until a parameter changes."""
        outputs = after(encode or self.encoder, unwrapped(self.network))
        return lambda observations: self._floored(outputs(observations))

    def _floored(self, outputs: Tensor) -> Tensor:
        mean, rho = outputs.chunk(2, dim=-1)
        return torch.cat([mean, self.log_std_of(rho)], dim=-1)


GAUSSIANS: dict[str, type[GaussianPolicy | StateGaussianPolicy]] = {
    "shared": GaussianPolicy,
    "state": StateGaussianPolicy,
}
