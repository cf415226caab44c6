"""From what an environment gives to what an agent keeps: one tensor, or a tree of named ones.

Numbers become float32 rows; pictures and grids keep their shape, and their type where that is smaller: 2,048 stacks of
four frames of 84×84 are 58 MB as bytes and 231 MB as float32.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from trpo.config import UserError
from trpo.models.encoders import SMALLEST
from trpo.models.observations import ALONE, MASK, Kind, Leaf, Observations, Spec, is_tree, leaves_of, named, sides, tree

Encode = Callable[[Any], Observations]
Path = tuple[str | int, ...]
Kept = Callable[[str], bool]

SMALLEST_PICTURE = 36  # pixels a side; what is smaller is a grid


def everything(_: str) -> bool:
    """Return that a part is kept, whatever its name."""
    return True


def make_encoder(space: spaces.Space, actions: int = 0, kept: Kept = everything) -> tuple[Spec, Encode]:
    """Return the leaves of a space that are `kept`, and the encoder of a batch of its observations, always a copy.

    A batch is what a vector environment gives, or for a space of one part a list of single observations. A part called
    `action_mask` with one entry for each of so many discrete `actions` (over all dimensions) is their mask.
    Raises `UserError` naming a part that is not supported.
    """
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return make_leaf_encoder(space)
    paths: dict[str, Path] = {}
    leaves: dict[str, Leaf] = {}
    encoders: dict[str, Callable[[Any], Tensor]] = {}
    for path, part in parts_of(space):
        name, is_mask = name_of(path), name_of(path) == MASK and actions > 0
        if not (is_mask or kept(name)) or is_empty(part):
            continue
        if name in paths:
            raise UserError(f"two parts of the observation are called {name}: {paths[name]} and {path}; rename one")
        paths[name] = path
        leaves[name], encoders[name] = make_mask_encoder(part, actions) if is_mask else make_leaf_encoder(part)

    if not leaves:
        raise UserError(f"observation space {space} has no part with numbers, so there is nothing to see")

    def encode(raw: Any) -> Observations:
        parts = {name: encoder(functools.reduce(pick, paths[name], raw)) for name, encoder in encoders.items()}
        return tree(parts, (len(next(iter(parts.values()))),))

    return leaves, encode


def parts_of(space: spaces.Space, path: Path = ()) -> Iterator[tuple[Path, spaces.Space]]:
    """Yield the way to each part of a space and the part; a space of one part is its own."""
    inner: Any = ()
    if isinstance(space, spaces.Dict):
        inner = space.spaces.items()
    elif isinstance(space, spaces.Tuple):
        inner = enumerate(space.spaces)
    else:
        yield path, space
    for name, part in inner:
        yield from parts_of(part, (*path, name))


def name_of(path: Path) -> str:
    """Return what a part is called: `goal`, or `arm.goal` where spaces are nested."""
    return ".".join(map(str, path)) or ALONE


def pick(raw: Any, name: str | int) -> Any:
    """Return one part of a batch: of arrays by name, or of a list of single observations."""
    return [one[name] for one in raw] if isinstance(raw, list) else raw[name]


def make_leaf_encoder(space: spaces.Space) -> tuple[Leaf, Callable[[Any], Tensor]]:
    """Return the leaf that a space of one part is, and its encoder. Raises `UserError` if it is not supported."""
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
        return Leaf(Kind.ONE_HOT, (count,)), lambda raw: one_hot(raw, count, start)
    if isinstance(space, spaces.MultiDiscrete):
        return Leaf(Kind.VECTOR, (int(space.nvec.sum()),)), make_one_hots(space)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return Leaf(Kind.VECTOR, (size,)), lambda raw: bits(raw, size)
    if isinstance(space, spaces.Text):
        return Leaf(Kind.VECTOR, (int(spaces.flatdim(space)),)), lambda raw: flattened(space, raw)
    if isinstance(space, spaces.Box) and not is_empty(space):
        return make_box_encoder(space)
    raise UserError(
        f"observation space {space} is not supported; supported: Box, Discrete, MultiDiscrete, MultiBinary, Text, "
        "and Dict and Tuple of them"
    )


def is_empty(space: spaces.Space) -> bool:
    """Return whether a space of one part has no numbers."""
    return isinstance(space, spaces.Box) and 0 in space.shape


def flattened(space: spaces.Space, raw: Any) -> Tensor:
    """Return observations as rows (B, n), as Gymnasium flattens each."""
    rows: Any = [spaces.flatten(space, one) for one in raw]
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def make_one_hots(space: spaces.MultiDiscrete) -> Callable[[Any], Tensor]:
    """Return the encoder to rows (B, Σ nvec) with one 1 for each number."""
    choices = [(int(n), int(start)) for n, start in zip(space.nvec.flat, space.start.flat, strict=True)]

    def encode(raw: Any) -> Tensor:
        columns = np.asarray(raw, dtype=np.int64).reshape(-1, len(choices)).T
        return torch.cat([one_hot(column, *one) for column, one in zip(columns, choices, strict=True)], dim=1)

    return encode


def bits(raw: Any, size: int) -> Tensor:
    """Return zeros and ones as rows (B, size). Raises `ValueError` for other numbers."""
    numbers = np.array(raw, dtype=np.float32).reshape(-1, size)
    if others := numbers[(numbers != 0) & (numbers != 1)].tolist():
        raise ValueError(f"the observation {others[0]:g} of a MultiBinary space is neither 0 nor 1")
    return torch.from_numpy(numbers)


def one_hot(raw: Any, count: int, start: int) -> Tensor:
    """Return numbers that count from `start` as rows (B, count) with one 1."""
    indices = np.asarray(raw, dtype=np.int64).reshape(-1) - start
    if outside := (indices[(indices < 0) | (indices >= count)] + start).tolist():
        raise ValueError(f"the observation {outside[0]} is none of the {count} of its space, which count from {start}")
    return torch.nn.functional.one_hot(torch.from_numpy(indices), count).float()


def make_box_encoder(space: spaces.Box) -> tuple[Leaf, Callable[[Any], Tensor]]:
    """Return the leaf that a box is by rule, and its encoder."""
    kind = kind_of(space)
    if kind is Kind.VECTOR:
        size = int(np.prod(space.shape))
        return Leaf(kind, space.shape), lambda raw: torch.from_numpy(np.array(raw, dtype=np.float32).reshape(-1, size))
    dtype = np.dtype(np.uint8 if space.dtype in (np.uint8, np.bool_) else np.float32)
    leaf = Leaf(kind, space.shape, bytes=dtype.itemsize, flat=False)
    return leaf, lambda raw: torch.from_numpy(np.array(raw, dtype=dtype).reshape(-1, *space.shape))


def kind_of(space: spaces.Box) -> Kind:
    """Return what a box is by rule.

    Bytes from 0 to 255 in rows and columns of at least 36 are a picture (one plane, channels, or a stack of coloured
    frames); what else has three axes, two of them of three cells or more, is a grid.
    """
    side = min(sides(space.shape), default=0)
    if side < SMALLEST[Kind.GRID]:
        return Kind.VECTOR
    is_bytes = space.dtype == np.uint8 and bool((space.low == 0).all() and (space.high == 255).all())
    if is_bytes and side >= SMALLEST_PICTURE:
        return Kind.IMAGE
    return Kind.GRID if len(space.shape) == 3 else Kind.VECTOR


def make_mask_encoder(space: spaces.Space, actions: int) -> tuple[Leaf, Callable[[Any], Tensor]]:
    """Return the leaf and the encoder of a mask (B, actions). Raises `UserError` if it is of another shape."""
    if space.shape != (actions,):
        raise UserError(
            f"the mask {MASK} has the shape {space.shape}, but the {actions} choices are counted one dimension after "
            "the other: masks over combinations of several dimensions are not supported"
        )
    leaf = Leaf(Kind.MASK, (actions,), bytes=1)
    return leaf, lambda raw: torch.from_numpy(np.array(raw).reshape(-1, actions) != 0)


def make_contains(space: spaces.Space, spec: Spec) -> Callable[[Observations], Tensor]:
    """Return the test of which encoded observations (…) lie in the bounds of their boxes of numbers.

    Bytes cannot leave theirs, and whatever else is not in its space fails to encode.
    """
    leaves = named(spec)
    bounds = {
        name: [torch.from_numpy(bound.astype(np.float32).reshape(-1)) for bound in (part.low, part.high)]
        for name, part in ((name_of(path), part) for path, part in parts_of(space))
        if isinstance(part, spaces.Box) and name in leaves and leaves[name].bytes == 4
    }

    def contains(observations: Observations) -> Tensor:
        rows = rows_shape(observations, spec)
        inside = torch.ones(rows, dtype=torch.bool)
        for name, (low, high) in bounds.items():
            numbers = leaves_of(observations)[name].reshape(*rows, -1)
            inside &= ((numbers >= low) & (numbers <= high)).all(-1)
        return inside

    return contains


def rows_shape(observations: Observations, spec: Spec) -> tuple[int, ...]:
    """Return the dimensions of observations that count them."""
    if isinstance(spec, Leaf) and not is_tree(observations):
        return tuple(observations.shape[: -len(spec.kept)])
    return tuple(observations.shape)  # memory makes a tree of a lone one
