"""What a policy step maximises inside the trust region: a mean over samples of what each of them would gain."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.models.distributions import Distribution
from trpo.models.memory import groups
from trpo.models.observations import Observations


class Piece(NamedTuple):
    """Rows of a batch that pass through the network together.

    >>> import torch
    >>> import trpo
    >>> piece = trpo.Piece(torch.zeros(2, 3), torch.zeros(2, 4), {"advantages": torch.ones(2)})
    >>> piece.columns["advantages"].tolist()
    [1.0, 1.0]
    """

    observations: Observations  # (n, …)
    old_parameters: Tensor  # (n, D)
    columns: dict[str, Tensor]  # the surrogate's, (n, …) each


class Surrogate(Protocol):
    """L(θ), given by its gain over L(θ_old) in every sample.

    Whatever has these three members can be maximised by `trust_region_step`: gradient, line search, profile, ranks and
    micro-batches ask for nothing else. If it has `constants()` as well, tensors by name, dumps hold those too.

    >>> import torch
    >>> import trpo
    >>> generator = torch.Generator().manual_seed(0)
    >>> policy = trpo.GaussianPolicy(
    ...     3, 2, hidden_sizes=(8,), activation="tanh", initial_log_std=-1.0, min_log_std=-2.3, generator=generator
    ... )
    >>> observations = torch.randn(64, 3, generator=generator)
    >>> parameters = policy(observations).detach()
    >>> actions = policy.distribution.sample(parameters, policy.distribution.noise(64, generator))
    >>> advantages, returns = -actions[:, 0].square(), torch.zeros(64)
    >>> batch = trpo.Batch(observations, actions, parameters, advantages, returns)
    >>> class Towards:  # minus the squared distance of a Gaussian policy's means from targets (N, A)
    ...     scale = 1.0
    ...     def __init__(self, targets, parameters):
    ...         self.columns = {"targets": targets, "before": parameters}
    ...     def gain(self, parameters, piece):
    ...         size = piece.columns["targets"].shape[1]
    ...         pair = (piece.columns["before"], parameters)
    ...         before, now = ((y[:, :size] - piece.columns["targets"]).double() for y in pair)
    ...         return before.square().sum(-1) - now.square().sum(-1)
    >>> surrogate = Towards(torch.ones(64, 2), parameters)
    >>> step = trpo.trust_region_step(policy, batch, trpo.TrustRegionConfig(max_kl=0.01), surrogate=surrogate)
    >>> step.accepted, step.improvement > 0
    (True, True)
    """

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """What `gain` needs to know of each sample, (N, …) each: split with the batch, and dumped under its name."""
        ...

    @property
    def scale(self) -> float:
        """What turns the unit of the gain into scaled reward: λ_min is divided by it."""
        ...

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return L_row(θ) − L_row(θ_old) (n,), float64, from the distribution parameters (n, D) under θ.

        A difference row by row, that is exactly 0 at θ_old, and can be differentiated once.
        """
        ...


class Score:
    """mean[(π_θ(a|s) / π_old(a|s)) Â], whose gradient is the score function's (TRPO, arXiv:1502.05477, equation 14).

    >>> import torch
    >>> import trpo
    >>> generator = torch.Generator().manual_seed(0)
    >>> policy = trpo.GaussianPolicy(
    ...     3, 2, hidden_sizes=(8,), activation="tanh", initial_log_std=-1.0, min_log_std=-2.3, generator=generator
    ... )
    >>> observations = torch.randn(64, 3, generator=generator)
    >>> parameters = policy(observations).detach()
    >>> actions = policy.distribution.sample(parameters, policy.distribution.noise(64, generator))
    >>> advantages, returns = -actions[:, 0].square(), torch.zeros(64)
    >>> batch = trpo.Batch(observations, actions, parameters, advantages, returns)
    >>> score = trpo.Score(policy.distribution, batch)
    >>> piece = trpo.Piece(observations, parameters, score.columns)
    >>> float(score.gain(parameters, piece).abs().max())  # nothing is gained at θ_old
    0.0
    """

    def __init__(self, distribution: Distribution, batch: Batch) -> None:
        self.distribution = distribution
        self.scale = batch.advantage_scale
        with torch.no_grad():
            old_log_probs = distribution.log_prob(batch.old_parameters, batch.actions)
        self.columns = {"actions": batch.actions, "old_log_probs": old_log_probs, "advantages": batch.advantages}

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return (π_θ/π_old − 1)Â of each row (n,): no difference of two means."""
        return (self.change(parameters, piece) * piece.columns["advantages"]).double()

    def change(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return π_θ(a|s)/π_old(a|s) − 1 of each row (n,)."""
        log_probs = self.distribution.log_prob(parameters, piece.columns["actions"])
        return torch.expm1(log_probs - piece.columns["old_log_probs"])


def pieces(batch: Batch, surrogate: Surrogate, *, micro_batch: int = 0, rows: Tensor | None = None) -> list[Piece]:
    """Return a batch and its surrogate's columns, or these rows of them, in parts of at most `micro_batch` (0: one).

    No rows are no pieces: a rank may have none of the rows that are asked for.
    """
    chosen = batch.observations if rows is None else batch.observations[rows]
    parts = groups(chosen, micro_batch)  # of whole segments, where there is memory

    def split(column: Tensor) -> Sequence[Tensor]:
        column = column if rows is None else column[rows]
        if parts is not None:
            return [column[part] for part in parts]
        contiguous: tuple[Tensor, ...] = column.split(micro_batch or max(len(column), 1))
        return contiguous

    names, columns = surrogate.columns.keys(), [split(column) for column in surrogate.columns.values()]
    return [
        Piece(observations, old_parameters, dict(zip(names, of_surrogate, strict=True)))
        for observations, old_parameters, *of_surrogate in zip(
            split(batch.observations), split(batch.old_parameters), *columns, strict=True
        )
        if len(old_parameters)
    ]
