"""From observations to what a multi-layer perceptron takes: one row of numbers, the parts side by side.

Whatever is here is differentiated twice by every Fisher product. So nothing treats a row by the other rows (no batch
norm), nothing is pooled, and nothing is padded: the double backward of a padded convolution is slow on CUDA.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trpo.config import Config, UserError
from trpo.models.mlp import HIDDEN_GAIN
from trpo.models.normalizer import ObservationNormalizer
from trpo.models.observations import (
    ALONE,
    PREVIOUS_ACTION,
    PREVIOUS_REWARD,
    Kind,
    Leaf,
    Observations,
    Spec,
    leaves_of,
    named,
    sides,
)

Layer = tuple[int, int, int]  # channels, kernel, stride
NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. 2015, doi:10.1038/nature14236, methods
SMALL = ((16, 4, 2), (16, 4, 2))  # TRPO, arXiv:1502.05477, section 8.2: two layers of 16 channels and stride 2
OF_GRIDS = ((16, 3, 1),)  # Young and Tian 2019, arXiv:1903.03176, section 3
HIDDEN = (Kind.MASK, Kind.STATE, Kind.SEGMENT)  # from what encodes
SMALLEST_NATURE = 64  # pixels a side
SMALLEST = {Kind.IMAGE: 10, Kind.GRID: 3}  # a side, that the kernels need


class Convolutions(nn.Module):
    """Convolutions with ReLU over pictures or grids, flattened.

    Args:
        leaf: what they see; of pictures without statistics, a byte is divided by 255.
        generator: draws orthogonal weights; biases are zero.
    """

    def __init__(self, leaf: Leaf, *, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = leaf.shape
        self.scale = 1 / 255 if leaf.kind is Kind.IMAGE else 1.0
        self.normalizer: ObservationNormalizer | None = None
        channels = leaf.size // math.prod(sides(leaf.shape))
        layers: list[nn.Module] = []
        for width, kernel, stride in layers_for(leaf.kind, min(sides(leaf.shape))):
            convolution = nn.Conv2d(channels, width, kernel, stride)
            nn.init.orthogonal_(convolution.weight, HIDDEN_GAIN, generator=generator)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
            layers += [convolution, nn.ReLU()]
            channels = width
        self.network = nn.Sequential(*layers, nn.Flatten())

    def forward(self, leaf: Tensor) -> Tensor:
        """Return features (N, F) of a leaf (N, …)."""
        numbers = leaf.flatten(1).to(self.network[0].weight.dtype)  # type: ignore[arg-type]
        numbers = numbers * self.scale if self.normalizer is None else self.normalizer(numbers)
        return self.network(planes(numbers.view(-1, *self.shape)))  # type: ignore[no-any-return]


def layers_for(kind: Kind, side: int) -> tuple[Layer, ...]:
    """Return the convolutions for a kind of leaf whose shorter side has so many cells."""
    if kind is Kind.GRID:
        return OF_GRIDS
    return NATURE if side >= SMALLEST_NATURE else SMALL


def planes(leaf: Tensor) -> Tensor:
    """Return a leaf (N, …) as planes (N, C, H, W), by the rule of `sides`."""
    if leaf.dim() == 3:
        return leaf.unsqueeze(1)
    if leaf.dim() == 5:
        return leaf.permute(0, 1, 4, 2, 3).flatten(1, 2)
    return leaf.permute(0, 3, 1, 2) if leaf.shape[3] < leaf.shape[1] else leaf


class Flat(nn.Module):
    """Rows of numbers as they are, or flattened."""

    def forward(self, leaf: Tensor) -> Tensor:
        """Return a leaf (N, …) as (N, n)."""
        return leaf.flatten(1).to(torch.get_default_dtype()) if not leaf.is_floating_point() else leaf.flatten(1)


class Encoder(nn.Module):
    """The parts of an observation, each by an encoder of its own, side by side (N, F).

    Args:
        spec: the observation's leaves that are seen; kinds as they are to be taken.
        generator: draws the weights.
    """

    def __init__(self, spec: dict[str, Leaf], *, generator: torch.Generator) -> None:
        super().__init__()
        self.names = tuple(spec)
        pictures = (Kind.IMAGE, Kind.GRID)
        self.parts = nn.ModuleList(
            Convolutions(leaf, generator=generator) if leaf.kind in pictures else Flat() for leaf in spec.values()
        )
        blank = [torch.zeros(1, *leaf.kept) for leaf in spec.values()]
        with torch.no_grad():
            self.size = sum(part(leaf).shape[1] for part, leaf in zip(self.parts, blank, strict=True))  # F

    def rescale(self, normalizers: Mapping[str, ObservationNormalizer]) -> None:
        """Share the normalisers of pictures, by name, with whoever else sees them."""
        for name, part in zip(self.names, self.parts, strict=True):
            if isinstance(part, Convolutions):
                part.normalizer = normalizers.get(name)

    def forward(self, observations: Observations) -> Tensor:
        """Return features (N, F)."""
        leaves = leaves_of(observations)
        return torch.cat([part(leaves[name]) for name, part in zip(self.names, self.parts, strict=True)], dim=-1)


def make_encoder(spec: Spec, seen: tuple[str, ...], *, generator: torch.Generator) -> Encoder | None:
    """Return the encoder of the leaves that are `seen` (none named: all), or None for one vector, which needs none.

    Raises `UserError` for a name that is none of theirs.
    """
    check_names(seen, named(spec))
    if isinstance(spec, Leaf) and spec.flat and spec.kind in (Kind.VECTOR, Kind.ONE_HOT):
        return None
    return Encoder(chosen(spec, seen), generator=generator)


def chosen(spec: Spec, seen: tuple[str, ...]) -> dict[str, Leaf]:
    """Return the leaves that a network sees, all but `HIDDEN` ones if none is named.

    Raises `UserError` for an unknown one.
    """
    visible = {name: leaf for name, leaf in named(spec).items() if leaf.kind not in HIDDEN}
    check_names(seen, visible)
    remembered = (PREVIOUS_ACTION, PREVIOUS_REWARD)
    return {name: leaf for name, leaf in visible.items() if not seen or name in (*seen, *remembered)}


def as_asked(spec: Spec, config: Config) -> Spec:
    """Return the leaves that any network sees, and the mask, with the kinds that the configuration gives them.

    Raises `UserError` for an unknown name.
    """
    leaves, policy = dict(named(spec)), config.policy
    visible = {name: leaf for name, leaf in leaves.items() if leaf.kind not in HIDDEN}
    check_names((*policy.observations, *config.critic.observations), visible)  # before any is left out
    for kind, names in ((Kind.IMAGE, policy.images), (Kind.GRID, policy.grids), (Kind.VECTOR, policy.vectors)):
        check_names(names, leaves)
        for name in names:
            if leaves[name].kind is Kind.MASK:
                raise UserError(f"{name} is the mask of valid actions: it cannot be taken as {kind}")
            if min(sides(leaves[name].shape), default=0) < SMALLEST.get(kind, 0):
                raise UserError(
                    f"{name} cannot be taken as {kind}: its shape is {leaves[name].shape}, and its rows and columns "
                    f"must be at least {SMALLEST[kind]}"
                )
            leaves[name] = leaves[name]._replace(kind=kind)
    if isinstance(spec, Leaf):
        return leaves[ALONE]
    return {name: leaf for name, leaf in leaves.items() if leaf.kind is Kind.MASK or config.sees(name)}


def check_names(names: tuple[str, ...], leaves: dict[str, Leaf]) -> None:
    """Raise `UserError` if a name is none of the observation's."""
    for name in names:
        if name not in leaves:
            raise UserError(f"there is no observation {name}; the environment's are {', '.join(leaves)}")
