"""The surrogate that an action-value function gives: E_s E_{a ~ π_θ}[Q(s, a)], Q held fixed for the step.

The paper's surrogate asks only how good the sampled actions were; its gradient is the score function's, and most of it
is noise. This one differentiates Q through the action (Heess et al. 2015, arXiv:1510.09142), or sums over all actions
where they can be counted. In expectation both gradients are the same if Q is π's own.

Q is the mean of several networks. Steps along what targets take (`ActionValues.cautious`) stay where the data are.
"""

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.models.action_values import ActionValues, joint_actions, joint_log_probs
from trpo.models.bounds import Bounds
from trpo.models.distributions import Distribution
from trpo.update.surrogates import Piece


class Pathwise:
    """mean_s of Q(s, a), a = μ_θ + σ_θ ε inside its bounds, over a few ε that stay the same for all θ of an iteration.

    Args:
        values: Q, of observations and actions; it gets no gradient here.
        batch: its states are what the mean is over.
        noise: ε (N, K, A), standard normal.
        bounds: how actions come inside them, in the policy's units: clipped ones have no gradient.
        micro_batch: the most states that Q is asked about at once; 0 for all.
    """

    scale = 1.0  # Q is in scaled reward already

    def __init__(
        self, values: ActionValues, batch: Batch, noise: Tensor, bounds: Bounds, *, micro_batch: int = 0
    ) -> None:
        self.values, self.bounds = values, bounds
        parts = (
            column.split(micro_batch or len(noise)) for column in (batch.old_parameters, batch.observations, noise)
        )
        with torch.no_grad():
            before = torch.cat([self.worth(*part) for part in zip(*parts, strict=True)])
        self.columns = {"noise": noise, "old_action_values": before}

    def constants(self) -> dict[str, Tensor]:
        """Return what else decides the gain, for a dump: the bounds, Q's parameters and what its outputs mean."""
        head = {f"action_values_{name}": value for name, value in self.values.head.named_buffers()}
        return {**self.bounds.constants(), "action_values_theta": self.values.theta, **head}

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return the mean over ε of Q(s, a_θ) − Q(s, a_old) of each row (n,), the same ε in both."""
        after = self.worth(parameters, piece.observations, piece.columns["noise"])
        return (after - piece.columns["old_action_values"]).double().mean(1)

    def worth(self, parameters: Tensor, observations: Tensor, noise: Tensor) -> Tensor:
        """Return Q of the actions that the parameters (n, 2A) give with each noise (n, K)."""
        mean, log_std = (part.unsqueeze(1) for part in parameters.chunk(2, dim=-1))
        actions = self.bounds.inside(mean + log_std.exp() * noise)
        states = self.values.features(observations).unsqueeze(1).expand(-1, noise.shape[1], -1)
        rows = torch.cat([states, actions], dim=-1).flatten(0, 1)
        return self.values.mean(rows).view(noise.shape[:2])


class Expected:
    """mean_s Σ_a π_θ(a|s) Q(s, a) over all joint actions: exact, no noise.

    Args:
        distribution: a discrete one.
        values: Q, of observations, with an output for every joint action.
        batch: its states are what the mean is over.
    """

    scale = 1.0

    def __init__(self, distribution: Distribution, values: ActionValues, batch: Batch) -> None:
        actions = joint_actions(distribution)
        assert actions is not None
        self.distribution, self.actions = distribution, actions.to(batch.old_parameters.device)
        with torch.no_grad():
            worth = values.mean(values.features(batch.observations))
            before = joint_log_probs(distribution, batch.old_parameters, self.actions).exp()
        self.columns = {"action_values": worth, "old_probabilities": before}

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return Σ_a (π_θ − π_old)(a|s) Q(s, a) of each row (n,)."""
        after = joint_log_probs(self.distribution, parameters, self.actions).exp()
        change = after - piece.columns["old_probabilities"]
        return (change * piece.columns["action_values"]).double().sum(1)
