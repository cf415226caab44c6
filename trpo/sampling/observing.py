"""Raw observations from anybody's hands: one, or a batch of them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from trpo.config import UserError, first_line
from trpo.models.observations import ALONE, MASK, Leaf, Observations, blank, leaves_of, named, tree
from trpo.sampling.encoding import Path, make_encoder, name_of, parts_of
from trpo.sampling.interface import Interface

# What NumPy, torch and Gymnasium raise for what is no number, or no row of them.
FAULTS = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)


class Raw(NamedTuple):
    """One part of an observation as it was given."""

    path: Path
    space: spaces.Space
    value: Any
    size: int | None  # of the batch, None for one alone

    @property
    def said(self) -> str:
        """What the part is called."""
        return told(name_of(self.path))

    @property
    def amount(self) -> str:
        """How many there are, in words."""
        return "one" if self.size is None else f"a batch of {self.size}"


class Observer:
    """Makes raw observations what a policy takes.

    Args:
        interface: of the agent.
        seen: the parts of an observation that the policy sees. Others need not be given, and are zeros.
    """

    def __init__(self, interface: Interface, seen: Sequence[str]) -> None:
        assert interface.observation_space is not None
        self.interface, self.space = interface, interface.observation_space
        needed = {*seen, MASK} if interface.masked else {*seen}
        self.parts = [(path, part) for path, part in parts_of(self.space) if name_of(path) in needed]
        actions = interface.distribution.parameter_size if interface.masked else 0
        _, self.encode = make_encoder(self.space, actions, needed.__contains__)

    def rows(self, observation: Any, mask: Any = None) -> tuple[Observations, bool]:
        """Return the rows (B, …) of one observation or of a batch, and whether it is a batch.

        Raises `UserError` unless all parts that the policy sees are there, in the shapes and values of their spaces
        and equally many, with a mask that allows something in every dimension of an action, if the agent has masks.
        """
        raw = [*self._parts(with_mask(observation, mask, self.interface))]
        check_equally_many(raw)
        try:
            rows = self.encode(nested({part.path: values(part) for part in raw}))
        except FAULTS as error:
            raise UserError(f"the observation is none of its space: {first_line(error)}") from error
        if self.interface.masked and bool(self.interface.forbidding(rows).any()):
            raise UserError(f"the mask {MASK} allows no action, if only in one dimension of them")
        return self._with_zeros(rows), raw[0].size is not None

    def _parts(self, observation: Any) -> Iterator[Raw]:
        """Yield the parts that are seen. Raises `UserError` for one that is not there, or has another shape."""
        for path, space in self.parts:
            value = taken(observation, self.space, path)
            size = batch_size(value, space, told(name_of(path)))
            is_mask = self.interface.masked and path == (MASK,)
            yield Raw(path, space, np.asarray(value) != 0 if is_mask else value, size)

    def _with_zeros(self, rows: Observations) -> Observations:
        """Return rows with zeros for the parts that only the critic sees."""
        spec = self.interface.observations
        if isinstance(spec, Leaf):
            return rows
        given, zeros, count = leaves_of(rows), leaves_of(blank(spec)), len(rows)
        rest = {name: leaf.expand(count, *leaf.shape[1:]) for name, leaf in zeros.items()}
        return tree({**rest, **given}, (count,)) if given.keys() != named(spec).keys() else rows


def with_mask(observation: Any, mask: Any, interface: Interface) -> Any:
    """Return an observation with the mask where its space has it, given beside it or in it.

    Raises `UserError` where a mask is missing or has no place, and for what `env.reset()` returns.
    """
    if is_pair_of_reset(observation, interface.observation_space):
        raise UserError("the observation is a tuple: env.reset() returns (observation, info)")
    if not interface.masked:
        if mask is not None:
            raise UserError("this agent has learned without masks: leave mask out")
        return observation
    parts = observation if isinstance(observation, dict) else {ALONE: observation}
    if mask is not None:
        parts = {**parts, MASK: mask}
    if MASK not in parts:
        raise UserError("this agent asks which actions are valid: act(observation, mask=info['action_mask'])")
    return parts


def is_pair_of_reset(observation: Any, space: spaces.Space | None) -> bool:
    """Return whether this is an observation with an info, and no observation of two parts."""
    pair = isinstance(observation, tuple) and len(observation) == 2 and isinstance(observation[1], dict)
    two = isinstance(space, spaces.Tuple) and len(space.spaces) == 2 and isinstance(space.spaces[1], spaces.Dict)
    return pair and not two


def taken(observation: Any, space: spaces.Space, path: Path) -> Any:
    """Return one part of an observation. Raises `UserError` if it is not there."""
    inside: Any = space
    for depth, name in enumerate(path):
        check_has(observation, inside, name, told(name_of(path[:depth])))
        observation, inside = observation[name], inside[name]
    return observation


def check_has(observation: Any, space: spaces.Dict | spaces.Tuple, name: str | int, said: str) -> None:
    """Raise `UserError` unless an observation is composed as its space is, and has a part of it."""
    if isinstance(space, spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(space.spaces):
            raise UserError(f"{said} is no tuple of {len(space.spaces)} parts")
        return
    parts = ", ".join(space.spaces)
    if not isinstance(observation, dict):
        raise UserError(f"{said} is no mapping: its parts are {parts}")
    if name not in observation:
        raise UserError(f"{said} lacks {name}: its parts are {parts}")


def batch_size(value: Any, space: spaces.Space, said: str) -> int | None:
    """Return how many observations of one part there are, None for one alone. Raises `UserError` for other shapes."""
    if isinstance(space, spaces.Text):
        if not isinstance(value, str | tuple | list | np.ndarray):
            raise UserError(f"{said} is {in_a_line(value)}, which is no text and no list of texts")
        return None if isinstance(value, str) else len(value)
    try:
        shape = np.shape(value)
    except FAULTS as error:
        raise UserError(f"{said} has rows of several lengths: {first_line(error)}") from error
    own = tuple(space.shape or ())
    if shape not in (own, (*shape[:1], *own)) or isinstance(value, dict | str | None):
        raise UserError(f"{said} has the shape {shape}, but one of {in_a_line(space)} has {own}, a batch B more")
    return None if shape == own else int(shape[0])


def check_equally_many(parts: Sequence[Raw]) -> None:
    """Raise `UserError` unless all parts are one, or all are batches of one size."""
    first = parts[0]
    for part in parts:
        if part.size != first.size:
            raise UserError(f"{first.said} is {first.amount}, but {part.said} is {part.amount}")


def values(part: Raw) -> Any:
    """Return the values (B, …) of a part in the type of its space. Raises `UserError` for those that are none of it."""
    rows: Any = [part.value] if part.size is None else [*part.value]
    if not isinstance(part.space, spaces.Text):
        rows = as_typed(rows, part)
    if not isinstance(part.space, spaces.Box):  # whose bounds a step may leave by rounding
        for row in rows:
            if not part.space.contains(row):
                raise UserError(f"{part.said} is {in_a_line(row)}, which is none of {in_a_line(part.space)}")
    return rows


def as_typed(rows: Any, part: Raw) -> np.ndarray:
    """Return rows in the type of a part's space. Raises `UserError` for numbers that it cannot hold."""
    given = np.array(rows).reshape(-1, *(part.space.shape or ()))
    with np.errstate(invalid="ignore"):  # NaN as a whole number, which shows below
        typed = given.astype(part.space.dtype)
    if np.issubdtype(typed.dtype, np.integer) and (changed := typed != given).any():
        raise UserError(f"{part.said} has the number {given[changed][0]}, which {in_a_line(part.space)} cannot hold")
    return typed


def nested(parts: dict[Path, Any]) -> Any:
    """Return parts as the encoder of their space finds them: by the way to each."""
    whole: dict[str | int, Any] = {}
    for path, value in parts.items():
        if not path:
            return value
        inside = whole
        for name in path[:-1]:
            inside = inside.setdefault(name, {})
        inside[path[-1]] = value
    return whole


def told(name: str) -> str:
    """Return what to call a part of an observation, or the whole."""
    return {ALONE: "the observation", MASK: f"the mask {MASK}"}.get(name, f"the observation's {name}")


def in_a_line(thing: object) -> str:
    """Return a space or its values without the line breaks that long ones have."""
    return " ".join(str(thing).split())


def one_for_each(value: Any, rows: int, said: str, dtype: torch.dtype) -> Tensor:
    """Return a number for each row (B,), given once for all or one by one. Raises `UserError` for other shapes."""
    try:
        given = torch.as_tensor(value, dtype=dtype)
    except FAULTS as error:
        raise UserError(f"{said} is no number, and no {rows} of them: {first_line(error)}") from error
    if tuple(given.shape) not in ((), (rows,)):
        raise UserError(f"{said} has the shape {tuple(given.shape)}: it is one, or one for each of {rows}")
    return given.expand(rows)
