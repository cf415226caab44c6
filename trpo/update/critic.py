"""One value fit: minibatch Adam on the squared error to the λ-returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from trpo.batch import by_parts
from trpo.config import CriticConfig
from trpo.models.networks import Critic
from trpo.system import ranks
from trpo.update.adam import Adam
from trpo.update.descent import can_be_lean, check_finite, descend_by_autograd, descend_lean

ROUNDING = 1e-6  # of the returns, as a share of what they are made of


class FitInfo(NamedTuple):
    """The critic on its batch before and after the fit, in its own (scaled) units."""

    loss_before: float  # mean squared error
    loss_after: float
    explained_variance_before: float | None  # None where the returns are all the same, but for rounding
    explained_variance_after: float | None

    def figures(self) -> dict[str, float]:
        """Return every scalar that exists, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def make_optimizer(critic: Critic, config: CriticConfig) -> torch.optim.Optimizer:
    """Return the optimiser whose state lives as long as the critic. Every fit sets its learning rate."""
    return Adam(critic.parameters(), lr=config.learning_rate, eps=1e-5, fused=True)


def fit_critic(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    observations: Tensor,
    returns: Tensor,
    config: CriticConfig,
    generator: torch.Generator,
    *,
    micro_batch: int = 0,
) -> FitInfo:
    """Regress the critic on `returns` (N,) at `observations` (N, O), in place, and return how well it went.

    Every epoch passes once over all samples in a new order drawn from `generator`. Several ranks take their steps
    together, each with its share of the minibatch. The passes that say how well are over `micro_batch` samples at most;
    0 for all. Raises `FloatingPointError` if a loss is not finite, before any parameter is, or if that after the fit is
    not: after too long a step finite parameters give values that are not.

    >>> import torch
    >>> import trpo
    >>> from trpo.models.networks import Critic
    >>> from trpo.update.critic import make_optimizer
    >>> generator, config = torch.Generator().manual_seed(0), trpo.CriticConfig(epochs=20)
    >>> critic = Critic(3, hidden_sizes=(8,), activation="tanh", generator=generator)
    >>> observations = torch.randn(256, 3, generator=generator)
    >>> optimizer = make_optimizer(critic, config)
    >>> fit = trpo.fit_critic(critic, optimizer, observations, observations[:, 0], config, generator)
    >>> fit.loss_after < fit.loss_before
    True
    """
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate
    before = assess(critic, observations, returns, micro_batch)
    check_finite("loss", before[0], returns)
    descend = descend_lean if can_be_lean(critic, optimizer) else descend_by_autograd  # the same steps, to rounding
    descend(critic, optimizer, observations, returns, config, generator)
    after = assess(critic, observations, returns, micro_batch)
    check_finite("loss after the fit", after[0], returns)
    return FitInfo(before[0], after[0], before[1], after[1])


@torch.no_grad()
def assess(critic: Critic, observations: Tensor, returns: Tensor, micro_batch: int = 0) -> tuple[float, float | None]:
    """Return the mean squared error and the explained variance 1 − Var[G − V] / Var[G].

    G is a sum Â + V in float32, so that equal returns differ by roundings of G or V: nothing to explain.
    """
    values = by_parts(critic, observations, micro_batch)
    _, mean, variance = ranks.moments_of(torch.stack([returns - values, returns], dim=1))
    unexplained, all_variance = variance.tolist()
    loss, size = unexplained + float(mean[0]) ** 2, float(mean[1]) ** 2
    constant = all_variance <= ROUNDING**2 * (loss + size)
    return loss, None if constant else 1 - unexplained / all_variance
