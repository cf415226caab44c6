"""What rescales observations and rewards, and travels with the agent: saved, exported and frozen with it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from trpo.models.observations import Kind, Leaf, Observations, Spec, leaves_of, like, named
from trpo.numerics.moments import Moments, merged
from trpo.numerics.spread import spread

Map = Callable[[Tensor], Tensor]  # rows to rows


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen so far, in float64, merged batch by batch."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Moments) -> None:
        """Take in rows by their moments. With nothing seen before, they become those of the rows."""
        if rows.samples == 0:
            return
        count, mean, variance = merged(Moments(self.count, self.mean, self.variance), rows)
        self.count.copy_(count)
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    def std(self) -> Tensor:
        """Return standard deviations (size,), with 1 where the rows were constant but for rounding."""
        constant = self.variance <= (1e-6 * self.mean) ** 2 + 1e-60
        return torch.where(constant, 1.0, self.variance).sqrt()


class ObservationNormalizer(nn.Module):
    """Shifts and scales observations to zero mean and unit variance, clipped; part of the policy.

    Its statistics change in `update` alone, which moves the policy as a function of raw observations. The trainer
    calls it once per iteration, after the policy step, and logs the KL that it caused.
    """

    def __init__(self, size: int, *, clip: float = 10.0) -> None:
        super().__init__()
        self.moments = RunningMoments(size)
        self.clip = clip
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(size))  # float32 copies for the hot path
        self.register_buffer("scale", torch.ones(size))

    def forward(self, observations: Tensor) -> Tensor:
        """Return clip((s − mean) / std) (N, O)."""
        return (observations - self.shift).mul_(self.scale).clamp_(-self.clip, self.clip)

    def snapshot(self) -> Map:
        """Return `forward` as it is now, in the form that is fastest for few rows; valid until the next update."""
        if self.shift.device.type != "cpu":
            return self.forward
        shift, scale = self.shift.numpy(), self.scale.numpy()

        def forward(observations: Tensor) -> Tensor:
            rows = (observations.numpy() - shift) * scale
            return torch.from_numpy(np.minimum(np.maximum(rows, -self.clip, out=rows), self.clip, out=rows))

        return forward

    def learning(self, observations: Observations) -> "list[tuple[ObservationNormalizer, Tensor]]":
        """Return who has statistics here, with the raw rows (N, O) that they are of."""
        return [(self, observations)]

    @torch.no_grad()
    def update(self, observations: Moments) -> None:
        """Take in raw observations by their moments. A constant dimension is shifted to zero, otherwise left alone."""
        self.moments.update(observations)
        self.shift.copy_(self.moments.mean)
        self.scale.copy_(1 / self.moments.std())


class OneHotScale(nn.Module):
    """Multiplies one-hot observations by √n, for a mean square of 1 per input, which the first weights are made for.

    Of length 1 they would leave every state nearly the same input: the policy would learn what holds in all states long
    before it told any two apart. Estimated statistics would blow up a rare state, and move the policy.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale: Tensor
        self.register_buffer("scale", torch.tensor(math.sqrt(size)))  # saved: an agent keeps what it learned with

    def forward(self, observations: Tensor) -> Tensor:
        """Return √n · s (N, n)."""
        return observations * self.scale

    def snapshot(self) -> Map:
        """Return `forward`, which never changes."""
        return self.forward

    def learning(self, _observations: Observations) -> list[tuple[ObservationNormalizer, Tensor]]:
        """Return nobody."""
        return []


MOST_PICTURES = 256  # of a rollout, for the statistics: an environment's next one hardly differs, and float64 is big
RESCALED: dict[Kind, type[ObservationNormalizer | OneHotScale]] = {
    Kind.VECTOR: ObservationNormalizer,
    Kind.ONE_HOT: OneHotScale,
}


class LeafNormalizers(nn.Module):
    """One normaliser for each part of an observation that is rescaled; grids and masks stay as they are.

    A picture stays the bytes that it is until an encoder sees it, with whom its normaliser is shared: as numbers a
    batch of them would take four times as much memory. Each pixel has statistics of its own: what never changes becomes
    zero, and what seldom does, a ball of one pixel, stands out.

    Args:
        spec: the leaves, kinds as they are to be taken.
    """

    def __init__(self, spec: Mapping[str, Leaf]) -> None:
        super().__init__()
        rescaled = {name: leaf for name, leaf in spec.items() if leaf.kind in RESCALED}
        pictures = {name: leaf for name, leaf in spec.items() if leaf.kind is Kind.IMAGE}
        self.names, self.pictures = tuple(rescaled), tuple(pictures)
        self.parts = nn.ModuleList(RESCALED[leaf.kind](leaf.size) for leaf in rescaled.values())
        self.of_pictures = nn.ModuleList(ObservationNormalizer(leaf.size) for leaf in pictures.values())

    def forward(self, observations: Observations) -> Observations:
        """Return the observations with its leaves (N, n) rescaled."""
        return self._by_leaf(observations, list(self.parts))

    def snapshot(self) -> Map:
        """Return `forward` as it is now, in the form that is fastest for few rows; valid until the next update."""
        maps = [part.snapshot() for part in self.parts if isinstance(part, ObservationNormalizer | OneHotScale)]
        return lambda observations: self._by_leaf(observations, maps)

    def _by_leaf(self, observations: Observations, maps: Sequence[Map]) -> Observations:
        leaves = leaves_of(observations)
        leaves |= {name: rescale(rows_of(leaves[name])) for name, rescale in zip(self.names, maps, strict=True)}
        return like(observations, leaves)

    def learning(self, observations: Observations) -> list[tuple[ObservationNormalizer, Tensor]]:
        """Return the normalisers that have statistics, each with the raw rows (N, n) of its leaf."""
        leaves = leaves_of(observations)
        parts = zip(self.names, self.parts, strict=True)
        found = [(part, rows_of(leaves[name])) for name, part in parts if isinstance(part, ObservationNormalizer)]
        return found + [(part, rows_of(some(leaves[name]))) for name, part in self.shared().items()]

    def shared(self) -> dict[str, ObservationNormalizer]:
        """Return the normalisers of pictures by name, for the encoders that see them."""
        return {name: part for name, part in zip(self.pictures, self.of_pictures, strict=True)}  # type: ignore[misc]


def some(leaf: Tensor) -> Tensor:
    """Return at most `MOST_PICTURES` rows of a leaf (N, …), of all times and of all environments."""
    return leaf if len(leaf) <= MOST_PICTURES else leaf[spread(len(leaf), MOST_PICTURES, leaf.device)]


def rows_of(leaf: Tensor) -> Tensor:
    """Return a leaf (N, …) as rows of numbers (N, n)."""
    return leaf.flatten(1).float() if leaf.dim() != 2 or not leaf.is_floating_point() else leaf


Normalizer = ObservationNormalizer | OneHotScale | LeafNormalizers


def make_normalizer(spec: Spec) -> Normalizer:
    """Return what rescales observations; of one vector without a loop over its parts."""
    if isinstance(spec, Leaf) and spec.flat and spec.kind in RESCALED:
        return RESCALED[spec.kind](spec.size)
    return LeafNormalizers(named(spec))


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the discounted return, so that the critic's targets are near 1.

    Rewards are scaled, never shifted, which would change what is optimal. The critic lives in scaled units, the
    logs do not. Its moments are those of `numerics.advantages.discounted_returns`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.moments = RunningMoments(1)

    def forward(self, rewards: Tensor) -> Tensor:
        """Return rewards / std(G), or the rewards themselves while every G was the same."""
        return (rewards / self.moments.std()).to(rewards.dtype)
