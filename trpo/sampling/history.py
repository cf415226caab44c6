"""The actions since the earliest episode under way: what a replay needs."""

from typing import Any

import numpy as np
import torch

FIRST_ROWS = 256


class History:
    """Rows of actions (B, A), and for each environment the row at which its current episode began."""

    def __init__(self, num_envs: int) -> None:
        self.rows = np.empty(0, dtype=np.float32)
        self.length = 0
        self.began = np.zeros(num_envs, dtype=np.int64)

    def append(self, actions: np.ndarray) -> None:
        """Add one step; the buffer doubles when it is full."""
        if self.length == len(self.rows):
            larger = np.empty((max(FIRST_ROWS, 2 * len(self.rows)), *actions.shape), actions.dtype)
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
        self.rows[: self.length - past] = self.rows[past : self.length].copy()
        self.length -= past
        self.began -= past

    def state(self) -> dict[str, Any]:
        """Return a copy as tensors."""
        return {"rows": torch.from_numpy(self.rows[: self.length].copy()), "began": torch.from_numpy(self.began.copy())}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.rows, self.length = state["rows"].numpy().copy(), len(state["rows"])
        self.began = state["began"].numpy().copy()
