"""Memory: a GRU or an LSTM between what encodes an observation and what decides by it.

Rows of a batch that follow each other in one episode are a segment: a leaf of the observation says which one a row
belongs to, another the state from which the first row of a segment starts, which is data. A pass unrolls every segment
from its own start, so that with the θ that acted it gives what acted: at θ_old the ratio is 1 and the KL 0. The mean
over rows of KL(π_old(·|h_t) ‖ π_θ(·|h_t)), h_t as θ itself would remember it, is by the chain rule the KL of the
trajectories per step. Whatever takes a part of a batch takes whole segments.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from trpo.models.observations import POLICY_STATE, SEGMENT, Observations, leaves_of

CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Segments(NamedTuple):
    """Rows (N,) sorted by segment, and where they stand in a padded array (L, S)."""

    order: Tensor  # (N,) of the rows
    lengths: Tensor  # (S,)
    position: Tensor  # (N,) of each sorted row in its segment
    number: Tensor  # (N,) of its segment

    @classmethod
    def of(cls, ids: Tensor) -> "Segments":
        """Return the segments of rows by their ids (N,); rows of one are in the order in which they happened."""
        ordered, order = ids.sort(stable=True)
        _, number, lengths = ordered.unique_consecutive(return_inverse=True, return_counts=True)
        starts = lengths.cumsum(0) - lengths
        return cls(order, lengths, torch.arange(len(ids), device=ids.device) - starts[number], number)

    def padded(self, rows: Tensor) -> Tensor:
        """Return rows (N, F) as (L, S, F), zeros where a segment has ended."""
        longest = int(self.lengths.max()) if len(self.lengths) else 1  # without a step no cell takes even no segments
        empty = rows.new_zeros(longest, len(self.lengths), rows.shape[1])
        return empty.index_put((self.position, self.number), rows[self.order])

    def flat(self, padded: Tensor) -> Tensor:
        """Return the rows (N, F) of a padded array (L, S, F), in their own order."""
        rows = padded[self.position, self.number]
        return torch.empty_like(rows).index_put((self.order,), rows)

    def firsts(self, rows: Tensor) -> Tensor:
        """Return the first row (S, F) of each segment."""
        return rows[self.order[self.lengths.cumsum(0) - self.lengths]]


class Memory(nn.Module):
    """From observations (N, …) to what is remembered at each of them (N, H).

    Args:
        encoder: from observations to rows of numbers (N, F).
        inputs: F.
        size: H.
        kind: `gru` or `lstm`.
        leaf: the name under which observations say in which state their segment starts.
        generator: draws orthogonal weights, gate by gate; biases are zero, but 1 where an LSTM decides what to keep.
    """

    def __init__(
        self,
        encoder: nn.Module,
        inputs: int,
        *,
        size: int,
        kind: str,
        leaf: str = POLICY_STATE,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.encoder, self.size, self.leaf = encoder, size, leaf
        self.cell = CELLS[kind](inputs, size)
        for name, parameter in self.cell.named_parameters():
            for gate in parameter.data.split(size):
                if parameter.dim() == 2:
                    nn.init.orthogonal_(gate, generator=generator)
                else:
                    nn.init.zeros_(gate)
            if kind == "lstm" and name == "bias_hh_l0":
                parameter.data[size : 2 * size] = 1.0

    @property
    def state_size(self) -> int:
        """How many numbers a state has."""
        return self.size * (2 if isinstance(self.cell, nn.LSTM) else 1)

    def forward(self, observations: Observations) -> Tensor:
        """Return what is remembered after each row (N, H)."""
        leaves = leaves_of(observations)
        segments = Segments.of(leaves[SEGMENT])
        with torch.backends.cudnn.flags(enabled=False):  # whose backward pass has no derivative of its own
            padded, _ = self.cell(
                segments.padded(self.encoder(observations)), self._started(segments.firsts(leaves[self.leaf]))
            )
        return segments.flat(padded)

    @torch.no_grad()
    def advance(self, observations: Observations) -> tuple[Tensor, Tensor]:
        """Return what is remembered (B, H) after rows of as many segments, and the states (B, H*) that follow."""
        features, state = self.cell(
            self.encoder(observations).unsqueeze(0), self._started(leaves_of(observations)[self.leaf])
        )
        return features[0], self._joined(state)

    @torch.no_grad()
    def ends(self, observations: Observations) -> Tensor:
        """Return for every row the state (N, H*) in which its segment ends."""
        leaves = leaves_of(observations)
        segments = Segments.of(leaves[SEGMENT])
        packed = pack_padded_sequence(
            segments.padded(self.encoder(observations)), segments.lengths.cpu(), enforce_sorted=False
        )
        _, state = self.cell(packed, self._started(segments.firsts(leaves[self.leaf])))
        rows = self._joined(state)[segments.number]
        return torch.empty_like(rows).index_put((segments.order,), rows)

    def _started(self, states: Tensor) -> Any:
        parts = tuple(part.unsqueeze(0).contiguous() for part in states.split(self.size, dim=-1))
        return parts if isinstance(self.cell, nn.LSTM) else parts[0]

    def _joined(self, state: Any) -> Tensor:
        return torch.cat([part[0] for part in (state if isinstance(self.cell, nn.LSTM) else (state,))], dim=-1)


def groups(observations: Observations, most: int) -> list[Tensor] | None:
    """Return the rows of a batch in groups of whole segments with at most `most` rows, or one segment; 0: all in one.

    None where there is no memory: any rows may be a group then.
    """
    leaves = leaves_of(observations)
    if SEGMENT not in leaves:
        return None
    segments = Segments.of(leaves[SEGMENT])
    found: list[list[Tensor]] = []
    rows = 0
    for segment in segments.order.split(segments.lengths.tolist()):
        if not found or (most and rows + len(segment) > most):
            found.append([])
            rows = 0
        found[-1].append(segment)
        rows += len(segment)
    return [torch.cat(group) for group in found]


def whole_segments(observations: Observations) -> list[Tensor] | None:
    """Return the rows of each segment, or None where there is no memory."""
    return groups(observations, 1)
