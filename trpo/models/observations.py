"""What an agent observes: one tensor, or a tree of named ones, each in its own dtype.

A tree is a `TensorDict`: it has a tensor's verbs over its rows (index, split, stack, cat, flatten, to), so rollouts,
batches and replay are written once, for both. A mask of valid actions is a leaf like any other: whatever keeps the
observations keeps the masks that go with them.
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

Observations = Tensor  # or a tree, whose verbs are the same: typed as what code may take it for

ALONE = "observation"  # the name of an observation that is not one of several
MASK = "action_mask"
# What memory adds to them.
POLICY_STATE, CRITIC_STATE, SEGMENT = "memory.policy_state", "memory.critic_state", "memory.segment"
PREVIOUS_ACTION, PREVIOUS_REWARD = "memory.action", "memory.reward"


class Kind(StrEnum):
    """What a network makes of a leaf."""

    VECTOR = "vector"  # numbers with running statistics
    ONE_HOT = "one-hot"  # exactly one 1: no statistics to estimate
    IMAGE = "image"  # a picture: bytes from 0 to 255
    GRID = "grid"  # few cells of indices or planes, on a scale of their own
    MASK = "mask"  # which actions are valid; no network sees it
    STATE = "state"  # of a memory, where a segment of rows starts
    SEGMENT = "segment"  # which one a row belongs to


class Leaf(NamedTuple):
    """One named part of an observation."""

    kind: Kind
    shape: tuple[int, ...]  # the environment's
    bytes: int = 4  # of a number, as it is kept
    flat: bool = True  # whether it is kept as (n,)

    @property
    def size(self) -> int:
        """n, how many numbers it has."""
        return math.prod(self.shape)

    @property
    def kept(self) -> tuple[int, ...]:
        """The shape of a row as it is kept."""
        return (self.size,) if self.flat else self.shape

    def __str__(self) -> str:
        return f"{self.kind} {'×'.join(map(str, self.shape)) or 1}"


Spec = Leaf | dict[str, Leaf]  # of one tensor, or of a tree


def sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return rows and columns of what has a shape of two, three or four axes; nothing of another.

    Of three axes the shorter of the first and the last is the channels', the first if they are equal. A stack of
    coloured frames (S, H, W, C) has S·C of them, a single plane one.
    """
    if len(shape) == 3:
        return shape[:2] if shape[2] < shape[0] else shape[1:]
    return {2: shape, 4: shape[1:3]}.get(len(shape), ())


def named(spec: Spec) -> dict[str, Leaf]:
    """Return the leaves by name."""
    return {ALONE: spec} if isinstance(spec, Leaf) else spec


def is_tree(observations: Any) -> bool:
    """Return whether these are observations of several named parts."""
    return hasattr(observations, "batch_size") and not isinstance(observations, Tensor)


def is_rows(column: Any) -> bool:
    """Return whether this is a tensor or a tree of them."""
    return isinstance(column, Tensor) or is_tree(column)


def tree(leaves: Mapping[str, Tensor], rows: tuple[int, ...]) -> Observations:
    """Return leaves (*rows, …) as one tree of these rows."""
    from tensordict import TensorDict  # a second to import, which an agent of vectors does not need

    return TensorDict(dict(leaves), batch_size=rows)


def blank(spec: Spec) -> Observations:
    """Return one row of zeros; of a mask, in which everything is valid, of ones."""
    leaves = {
        name: torch.ones(1, *leaf.kept, dtype=torch.bool) if leaf.kind is Kind.MASK else torch.zeros(1, *leaf.kept)
        for name, leaf in named(spec).items()
    }
    leaves |= {name: leaf[:, 0].long() for name, leaf in leaves.items() if name == SEGMENT}
    return leaves[ALONE] if isinstance(spec, Leaf) else tree(leaves, (1,))


def row_bytes(spec: Spec) -> int:
    """Return the memory that one row takes as it is kept."""
    return sum(leaf.size * leaf.bytes for leaf in named(spec).values())


def leaves_of(observations: Observations) -> dict[str, Tensor]:
    """Return the tensors by name; a plain dictionary of them will do."""
    items: Any = observations
    return {ALONE: observations} if isinstance(observations, Tensor) else dict(items.items())


def like(observations: Observations, leaves: Mapping[str, Tensor]) -> Observations:
    """Return leaves in the form of `observations`, for the same rows."""
    return tree(leaves, tuple(observations.shape)) if is_tree(observations) else leaves[ALONE]


def are_finite(observations: Observations) -> bool:
    """Return whether no number is NaN or infinite; integers never are."""
    floats = (leaf for leaf in leaves_of(observations).values() if leaf.is_floating_point())
    return all(bool(torch.isfinite(leaf).all()) for leaf in floats)


def same_rows(left: Observations, right: Observations) -> Tensor:
    """Return which rows (B,) are the same to the bit."""
    pairs = zip(leaves_of(left).values(), leaves_of(right).values(), strict=True)
    return torch.stack([(one == other).flatten(1).all(1) for one, other in pairs]).all(0)


def plain(observations: Observations) -> Any:
    """Return observations as tensors and plain data, by reference: a checkpoint outlives a library's own classes."""
    if not is_tree(observations):
        return observations
    return {"rows": list(observations.shape), "leaves": leaves_of(observations)}


def from_plain(saved: Any) -> Observations:
    """Return what `plain` was given."""
    is_saved_tree = isinstance(saved, dict) and saved.keys() == {"rows", "leaves"}
    return tree(saved["leaves"], tuple(saved["rows"])) if is_saved_tree else saved
