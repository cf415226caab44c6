"""One value fit: minibatch Adam on the squared error to the λ-returns."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from trpo.config import CriticConfig
from trpo.models.networks import Critic
from trpo.system import ranks


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
    """Return the optimiser whose state lives as long as the critic. Every fit sets its learning rate."""
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

    Every epoch passes once over all samples in a new order drawn from `generator`. Several ranks take their steps
    together, each with its share of the minibatch. Raises `FloatingPointError` before the optimiser has seen a loss
    that is not finite.
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate
    before = assess(critic, observations, returns)
    check_loss(before[0], returns)
    samples = ranks.gathered(torch.tensor(len(returns)))
    steps = min(math.ceil(int(samples.sum()) / config.minibatch_size), int(samples.max()))  # per epoch
    for _ in range(config.epochs):
        order = torch.randperm(len(returns), generator=generator).to(returns.device)
        shuffled = (observations[order].tensor_split(steps), returns[order].tensor_split(steps))
        for inputs, targets in zip(*shuffled, strict=True):
            errors = (critic(inputs) - targets).square()
            loss = errors.mean() if len(errors) else errors.sum()  # a rank may have no row of a small minibatch
            check_loss(float(loss.detach()), returns)
            optimizer.zero_grad()
            loss.backward()
            if ranks.count() > 1:
                average_gradients(critic, len(targets))
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
    _, mean, variance = ranks.moments_of(torch.stack([returns - critic(observations), returns], dim=1))
    unexplained, all_variance = variance.tolist()
    explained = 1 - unexplained / all_variance if all_variance > 0 else None
    return unexplained + float(mean[0]) ** 2, explained


def average_gradients(critic: Critic, samples: int) -> None:
    """Replace the gradients of this rank's mean loss, over so many samples, by those of the mean over all ranks."""
    gradients = [parameter.grad for parameter in critic.parameters() if parameter.grad is not None]
    averaged = ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]), samples)
    for gradient, part in zip(gradients, averaged.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
