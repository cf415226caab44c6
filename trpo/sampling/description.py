"""Spaces as plain data and back: what a checkpoint needs to know of an environment so that nobody has to make it."""

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from trpo.config import UserError

# A subclass of somebody's is described as what it is a kind of.
KINDS = (
    spaces.Box,
    spaces.Discrete,
    spaces.MultiDiscrete,
    spaces.MultiBinary,
    spaces.Text,
    spaces.Dict,
    spaces.Tuple,
)


def described(space: spaces.Space | None) -> dict[str, Any]:
    """Return a space as tensors and plain data. Raises `UserError` for one that no agent of ours can have."""
    kind: dict[str, Any] = {"type": next((one.__name__ for one in KINDS if isinstance(space, one)), None)}
    if isinstance(space, spaces.Box):
        exact = np.float64 if np.issubdtype(space.dtype, np.floating) else np.int64
        low, high = (torch.from_numpy(np.array(bound, dtype=exact)) for bound in (space.low, space.high))
        return kind | {"low": low, "high": high, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return kind | {"n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = (torch.from_numpy(np.array(part, dtype=np.int64)) for part in (space.nvec, space.start))
        return kind | {"nvec": nvec, "start": start, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return kind | {"n": [int(n) for n in space.shape]}
    if isinstance(space, spaces.Text):
        lengths = {"min_length": int(space.min_length), "max_length": int(space.max_length)}
        return kind | lengths | {"charset": "".join(space.character_list)}
    if isinstance(space, spaces.Dict):
        return kind | {"spaces": {name: described(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return kind | {"spaces": [described(part) for part in space.spaces]}
    raise UserError(f"the space {space} cannot be saved")


def as_json(description: Any) -> Any:
    """Return what `described` gave as JSON has it: numbers that are all the same once, None where there is no bound."""
    if isinstance(description, dict):
        shape = {"shape": list(description["low"].shape)} if description.get("type") == "Box" else {}
        return {name: as_json(value) for name, value in {**description, **shape}.items()}
    if isinstance(description, list):
        return [as_json(part) for part in description]
    if not isinstance(description, torch.Tensor):
        return description
    numbers = description.flatten().tolist()
    if len({*numbers}) == 1:
        return as_number(numbers[0])
    return np.array([as_number(number) for number in numbers], dtype=object).reshape(description.shape).tolist()


def as_number(number: float) -> float | None:
    """Return a number, or None if it is infinite."""
    return number if math.isfinite(number) else None


def space_of(description: dict[str, Any]) -> spaces.Space:
    """Return the space that `described` was given."""
    found = {**description}
    kind, dtype = found.pop("type"), np.dtype(found.pop("dtype", "int8"))
    if kind == "Box":
        low, high = (found[bound].numpy().astype(dtype) for bound in ("low", "high"))
        return spaces.Box(low, high, dtype=dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(found["n"], start=found["start"], dtype=dtype.type)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(found["nvec"].numpy(), dtype=dtype.type, start=found["start"].numpy())
    if kind == "MultiBinary":
        return spaces.MultiBinary(found["n"][0] if len(found["n"]) == 1 else found["n"])
    if kind == "Text":
        return spaces.Text(**found)
    if kind == "Dict":
        return spaces.Dict({name: space_of(part) for name, part in found["spaces"].items()})
    return spaces.Tuple([space_of(part) for part in found["spaces"]])
