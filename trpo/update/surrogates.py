"""What a policy step maximises inside the trust region: a mean over samples of what each of them would gain."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.models.distributions import Distribution
from trpo.models.observations import Observations


class Piece(NamedTuple):
    """Rows of a batch that pass through the network together."""

    observations: Observations  # (n, …)
    old_parameters: Tensor  # (n, D)
    columns: dict[str, Tensor]  # the surrogate's, (n, …) each


class Surrogate(Protocol):
    """L(θ), given by its gain over L(θ_old) in every sample.

    Whatever has these three members can be maximised by `trust_region_step`: gradient, line search, profile, ranks and
    micro-batches ask for nothing else. If it has `constants()` as well, tensors by name, dumps hold those too.
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
    """mean[(π_θ(a|s) / π_old(a|s)) Â], whose gradient is the score function's (TRPO, arXiv:1502.05477, equation 14)."""

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

    def split(column: Tensor) -> tuple[Tensor, ...]:
        column = column if rows is None else column[rows]
        parts: tuple[Tensor, ...] = column.split(micro_batch or max(len(column), 1))
        return parts

    names, columns = surrogate.columns.keys(), [split(column) for column in surrogate.columns.values()]
    return [
        Piece(observations, old_parameters, dict(zip(names, of_surrogate, strict=True)))
        for observations, old_parameters, *of_surrogate in zip(
            split(batch.observations), split(batch.old_parameters), *columns, strict=True
        )
        if len(old_parameters)
    ]
