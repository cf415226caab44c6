"""From an agent's actions to an environment's, in torch: the same for training and for an exported policy."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from trpo.models.bounds import clipped
from trpo.models.censored_gaussian import WIDEST_BOUND


def torch_dtype(dtype: Any) -> torch.dtype:
    """Return torch's name of a NumPy type. Raises `TypeError` if it has none."""
    return torch.from_numpy(np.zeros(0, dtype=dtype)).dtype


class IntegerDecoder(nn.Module):
    """Restores the shape of a space of integers and where they count from.

    Args:
        shape: of one action.
        start: what 0 stands for, one number or one for each.
        dtype: the environment's.
    """

    def __init__(self, shape: tuple[int, ...], start: Any, dtype: Any) -> None:
        super().__init__()
        self.shape, self.dtype = shape, torch_dtype(dtype)
        self.start = torch.from_numpy(np.array(start, dtype=np.int64))

    def forward(self, actions: Tensor) -> Tensor:
        """Return an environment's actions (B, …) for the agent's (B, A)."""
        return (actions.reshape(-1, *self.shape).long() + self.start).to(self.dtype)


class BoxDecoder(nn.Module):
    """The affine map of [−1, 1] to finite bounds, then the clip to all bounds.

    The policy works in units in which the bounds are ±1, whatever the environment's; a dimension without
    two finite bounds keeps its own units. Log-probs are those of the action before this map.
    """

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        self.shape, self.dtype = space.shape, torch_dtype(space.dtype)
        low, high, bounded = box_bounds(space)
        half = (np.where(bounded, high, 1.0) - np.where(bounded, low, -1.0)) / 2
        centre = (np.where(bounded, high, 0.0) + np.where(bounded, low, 0.0)) / 2
        finite = np.concatenate([bound[np.abs(bound) < WIDEST_BOUND] for bound in (low, high)])
        exact = (finite == finite.astype(np.float32)).all()  # or the clip, which is in float32, would round past it
        self.as_they_are = bool((half == 1).all() and not centre.any() and exact)
        self.limits = own_units(space)
        self.half_range, self.centre, self.low, self.high = map(torch.from_numpy, (half, centre, low, high))  # float64

    def forward(self, actions: Tensor) -> Tensor:
        """Return an environment's actions (B, …) for the agent's (B, A)."""
        inside = clipped(actions, self.limits)
        if not self.as_they_are:
            moved = inside * self.half_range + self.centre
            inside = torch.minimum(torch.maximum(moved, self.low), self.high)  # the map may round past a bound
        return inside.reshape(-1, *self.shape).to(self.dtype)


def own_units(space: spaces.Box) -> Tensor:
    """Return the bounds of actions (2, A) in the policy's units, ±1 where both are finite."""
    low, high, bounded = box_bounds(space)
    wide = np.clip([low, high], -WIDEST_BOUND, WIDEST_BOUND)  # float32 has no wider ones
    return torch.from_numpy(np.where(bounded, [[-1.0], [1.0]], wide).astype(np.float32))


def box_bounds(space: spaces.Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the bounds (A,), (A,) of a box in its own units, and in which dimensions both are finite."""
    low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    return low, high, (low > -WIDEST_BOUND) & (high < WIDEST_BOUND)
