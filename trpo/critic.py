"""One value fit: minibatch Adam on the squared error to the λ-returns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trpo.config import CriticConfig
from trpo.models.networks import Critic


class FitInfo(NamedTuple):
    """The critic on its batch before and after the fit, in its own (scaled) units."""

    loss_before: float  # mean squared error
    loss_after: float
    explained_variance_before: float | None  # None where the returns are all the same
    explained_variance_after: float | None

    def figures(self) -> dict[str, float]:
        """Return every scalar that exists, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def make_optimizer(critic: Critic, config: CriticConfig) -> torch.optim.Optimizer:
    """Return the optimiser whose state lives as long as the critic."""
    return torch.optim.Adam(critic.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)


def fit_critic(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    observations: Tensor,
    returns: Tensor,
    config: CriticConfig,
    generator: torch.Generator,
) -> FitInfo:
    """Regress the critic on `returns` (N,) at `observations` (N, O), in place, and return how well it went.

    Every epoch passes once over all samples in a new order drawn from `generator`. Raises `FloatingPointError`
    before the optimiser has seen a loss that is not finite.
    """
    before = assess(critic, observations, returns)
    check_loss(before[0], returns)
    for _ in range(config.epochs):
        order = torch.randperm(len(returns), generator=generator).to(returns.device)
        shuffled = (observations[order].split(config.minibatch_size), returns[order].split(config.minibatch_size))
        for inputs, targets in zip(*shuffled, strict=True):
            loss = (critic(inputs) - targets).square().mean()
            check_loss(float(loss.detach()), returns)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    after = assess(critic, observations, returns)
    return FitInfo(before[0], after[0], before[1], after[1])


def check_loss(loss: float, returns: Tensor) -> None:
    """Raise `FloatingPointError` if a loss is not finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the critic's loss is {loss}: its targets reach {float(returns.abs().max()):.3g}; "
            "check the rewards' scale, turn on normalize.rewards or lower critic.learning_rate"
        )


@torch.no_grad()
def assess(critic: Critic, observations: Tensor, returns: Tensor) -> tuple[float, float | None]:
    """Return the mean squared error and the explained variance 1 − Var[G − V] / Var[G]."""
    errors = (returns - critic(observations)).double()
    variance = float(returns.double().var(correction=0))
    explained = 1 - float(errors.var(correction=0)) / variance if variance > 0 else None
    return float(errors.square().mean()), explained
