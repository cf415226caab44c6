"""The actions since the earliest episode under way: what a replay needs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

FIRST_ROWS = 256


class History:
    """Rows of actions (B, A), and for each environment the row at which its current episode began."""

    def __init__(self, num_envs: int) -> None:
        self.rows = torch.empty(0)
        self.length = 0
        self.began = np.zeros(num_envs, dtype=np.int64)

    def append(self, actions: Tensor) -> None:
        """Add one step; the buffer doubles when it is full."""
        if self.length == len(self.rows):
            larger = actions.new_empty(max(FIRST_ROWS, 2 * len(self.rows)), *actions.shape)
            if self.length:
                larger[: self.length] = self.rows[: self.length]
            self.rows = larger
        self.rows[self.length] = actions
        self.length += 1

    def begin(self, chosen: np.ndarray) -> None:
        """Note that the episodes of some environments begin with the next step."""
        self.began[chosen] = self.length

    def clear(self) -> None:
        """Forget everything: all environments begin with the next step."""
        self.length = 0
        self.began[:] = 0

    def forget(self) -> None:
        """Drop what no episode under way needs."""
        past = int(self.began.min())
        if past == 0:
            return
        self.rows[: self.length - past] = self.rows[past : self.length].clone()
        self.length -= past
        self.began -= past

    def state(self) -> dict[str, Any]:
        """Return a copy as tensors."""
        return {"rows": self.rows[: self.length].clone(), "began": torch.from_numpy(self.began.copy())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.rows, self.length = state["rows"].clone(), len(state["rows"])
        self.began = state["began"].numpy().copy()
