"""An entropy bonus: the step maximises L(θ) + β · E_s[H(π_θ(·|s))], in line search and solve alike.

Of the batch's states only, not of those to come (Williams and Peng 1991, "Function optimization using connectionist
reinforcement learning algorithms"; Mnih et al. 2016, arXiv:1602.01783, section 4): values stay those of the reward.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trpo.batch import Batch, by_parts
from trpo.models.distributions import Distribution
from trpo.models.networks import Policy
from trpo.system import ranks
from trpo.update.surrogates import Piece, Surrogate


class WithEntropy:
    """A surrogate and β times the policy's entropy.

    Args:
        surrogate: L.
        distribution: of the policy; the entropy is that of actions as they are drawn.
        batch: its states are what the mean is over.
        weight: β, scaled reward per nat.
    """

    def __init__(self, surrogate: Surrogate, distribution: Distribution, batch: Batch, weight: float) -> None:
        self.surrogate, self.distribution = surrogate, distribution
        self.scale = surrogate.scale
        self.weight = weight / surrogate.scale  # in the units of the surrogate
        self.columns = {**surrogate.columns, "old_entropy": distribution.entropy(batch.old_parameters)}

    def constants(self) -> dict[str, Any]:
        """Return what else decides the gain, for a dump: β in the units of the surrogate, and what that has itself."""
        weight = torch.tensor(self.weight, dtype=torch.float64)
        return {**getattr(self.surrogate, "constants", dict)(), "entropy_weight": weight}

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return the surrogate's gain and that of the entropy, of each row (n,)."""
        return self.surrogate.gain(parameters, piece) + self.weight * self.risen(parameters, piece.columns)

    def risen(self, parameters: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
        """Return H(π_θ) − H(π_old) of each row (n,), float64."""
        risen = self.distribution.entropy(parameters) - columns["old_entropy"]
        return risen.double()


def with_entropy(surrogate: Surrogate, policy: Policy, batch: Batch, weight: float) -> Surrogate:
    """Return a surrogate with `weight` times the policy's entropy added; itself for 0."""
    return WithEntropy(surrogate, policy.distribution, batch, weight) if weight else surrogate


@torch.no_grad()
def entropy_part(surrogate: Surrogate, policy: Policy, batch: Batch, micro_batch: int = 0) -> dict[str, float]:
    """Return what of the improvement by a policy as it is now is the entropy's; nothing if that is no part of it."""
    if not isinstance(surrogate, WithEntropy):
        return {}
    risen = surrogate.risen(by_parts(policy, batch.observations, micro_batch), surrogate.columns)
    return {"entropy_improvement": surrogate.weight * float(ranks.mean(risen.mean().unsqueeze(0), len(risen)))}
