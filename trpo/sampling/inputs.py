"""Raw observations as named tensors, encoded in torch: what an exported policy takes from anybody.

`encoding.py` does the same in NumPy, which is faster on a few rows and refuses what is not in the space.
"""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from torch import Tensor, nn

from trpo.config import UserError
from trpo.models.observations import ALONE, MASK, Kind, Leaf, named
from trpo.sampling.encoding import name_of, parts_of, pick
from trpo.sampling.interface import Interface

Inputs = dict[str, Tensor]  # raw, (B, …) each, by the names of the inputs
ACTION = "action"  # the output


def input_name(part: str) -> str:
    """Return what the input of a part of the observation is called, the same in every format.

    Prefixed, so that a part called `action` is not taken for the output, nor one called `tanh` for a step within.
    """
    return part if part in (ALONE, MASK) else f"{ALONE}.{part}"


def after(name: str) -> str:
    """Return what the output is called that is an input of the step after."""
    return f"next.{name}"


class InputEncoder(nn.Module):
    """Makes named raw tensors the leaves that an agent keeps.

    Args:
        interface: of the agent.
        seen: the parts of an observation that are asked for.

    Raises `UserError` for a text, which is no tensor.
    """

    def __init__(self, interface: Interface, seen: Sequence[str]) -> None:
        super().__init__()
        assert interface.observation_space is not None
        parts = {name_of(path): (path, part) for path, part in parts_of(interface.observation_space)}
        self.paths = {input_name(name): parts[name][0] for name in seen}
        self.spaces = {input_name(name): parts[name][1] for name in seen}
        self.leaves = {input_name(name): (name, named(interface.observations)[name]) for name in seen}
        for name, space in self.spaces.items():
            if isinstance(space, spaces.Text):
                raise UserError(
                    f"{name} is {space}: a text is no tensor, and cannot be the input of an exported policy"
                )

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return the leaves (B, …), by the names of the parts."""
        return {part: encoded(inputs[name], self.spaces[name], leaf) for name, (part, leaf) in self.leaves.items()}

    def inputs(self, raw: Any) -> Inputs:
        """Return the named tensors of a batch of raw observations."""
        return {
            name: torch.from_numpy(np.asarray(functools.reduce(pick, path, raw), dtype=self.spaces[name].dtype))
            for name, path in self.paths.items()
        }


def encoded(raw: Tensor, space: spaces.Space, leaf: Leaf) -> Tensor:
    """Return the leaf (B, …) that a raw tensor (B, …) of a space of one part is."""
    if leaf.kind is Kind.MASK:
        return raw.flatten(1) != 0
    if isinstance(space, spaces.Discrete):
        return one_hot(raw - int(space.start), int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        indices = (raw - torch.from_numpy(space.start)).flatten(1).unbind(1)
        return torch.cat([one_hot(index, int(n)) for index, n in zip(indices, space.nvec.flat, strict=True)], dim=1)
    if leaf.flat:
        return raw.reshape(-1, leaf.size).float()
    return raw.to(torch.uint8 if leaf.bytes == 1 else torch.float32)


def one_hot(indices: Tensor, count: int) -> Tensor:
    """Return numbers that count from 0 as rows (B, count) with one 1; none for a number that is none of them."""
    return (indices.unsqueeze(1) == torch.arange(count)).float()


def drawn(interface: Interface, rows: int, seed: int) -> Any:
    """Return a batch of random raw observations of an agent's space, each with a valid action where it has masks."""
    assert interface.observation_space is not None
    space, actions = batch_space(interface.observation_space, rows), copy.deepcopy(interface.action_space)
    space.seed(seed)
    raw = space.sample()
    if interface.masked:
        assert actions is not None
        actions.seed(seed)
        valid = np.array([spaces.flatten(actions, actions.sample()) for _ in range(rows)])
        raw[MASK] = np.maximum(raw[MASK], valid).astype(raw[MASK].dtype)
    return raw
