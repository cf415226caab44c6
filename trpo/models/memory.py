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
from torch.nn.utils.rnn import PackedSequence

from trpo.models.observations import POLICY_STATE, SEGMENT, Observations, leaves_of

CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Segments(NamedTuple):
    """Rows (N,) of S segments in the order in which a cell takes them: all first rows, longest segment first, and on.

    So a step of the cell is over the segments that still go on, and none is padded: where one segment is long and a
    hundred are short, padding would be nine tenths of the work.
    """

    order: Tensor  # (N,) of the rows
    batch_sizes: Tensor  # (L,) how many segments have so many rows, on the CPU
    number: Tensor  # (N,) of each row's segment, the longest first

    @classmethod
    def of(cls, ids: Tensor) -> "Segments":
        """Return the segments of rows by their ids (N,); rows of one are in the order in which they happened."""
        ordered, rows = ids.sort(stable=True)
        _, segment, lengths = ordered.unique_consecutive(return_inverse=True, return_counts=True)
        position = torch.arange(len(ids), device=ids.device) - (lengths.cumsum(0) - lengths)[segment]
        number = lengths.argsort(descending=True, stable=True).argsort()[segment]
        order = rows[(position * len(lengths) + number).argsort()]
        return cls(order, position.bincount().cpu(), torch.empty_like(number).index_copy(0, rows, number))

    def packed(self, rows: Tensor) -> PackedSequence:
        """Return rows (N, F) as a cell takes them."""
        return PackedSequence(rows[self.order], self.batch_sizes)

    def unpacked(self, packed: PackedSequence) -> Tensor:
        """Return the rows (N, F) of what a cell gave, in their own order."""
        return torch.empty_like(packed.data).index_put((self.order,), packed.data)

    def firsts(self, rows: Tensor) -> Tensor:
        """Return the first row (S, F) of each segment, the longest first."""
        return rows[self.order[: self.batch_sizes[0]]]


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
        return self._unrolled(observations)[0]

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
        return self._unrolled(observations)[1]

    def _unrolled(self, observations: Observations) -> tuple[Tensor, Tensor]:
        leaves, features = leaves_of(observations), self.encoder(observations)
        if not len(features):  # of a rank that has none of the rows: a gradient of zeros, which no cell gives
            nothing = torch.stack([weights.sum() for weights in (*self.cell.parameters(), features)]).sum()
            return features.new_zeros(0, self.size) + nothing, features.new_zeros(0, self.state_size)
        segments = Segments.of(leaves[SEGMENT])
        with torch.backends.cudnn.flags(enabled=False):  # whose backward pass has no derivative of its own
            packed, state = self.cell(segments.packed(features), self._started(segments.firsts(leaves[self.leaf])))
        return segments.unpacked(packed), self._joined(state)[segments.number]

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
    ordered, rows_by_segment = leaves[SEGMENT].sort(stable=True)
    lengths = ordered.unique_consecutive(return_counts=True)[1]
    found: list[list[Tensor]] = []
    rows = 0
    for segment in rows_by_segment.split(lengths.tolist()):
        if not found or (most and rows + len(segment) > most):
            found.append([])
            rows = 0
        found[-1].append(segment)
        rows += len(segment)
    return [torch.cat(group) for group in found]


def whole_segments(observations: Observations) -> list[Tensor] | None:
    """Return the rows of each segment, or None where there is no memory."""
    return groups(observations, 1)
