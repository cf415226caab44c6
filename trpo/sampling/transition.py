"""What a step of several environments gives, whatever the backend."""

from typing import NamedTuple

import numpy as np

from trpo.models.observations import Observations


class Transition(NamedTuple):
    """What one step of B environments gave."""

    next_observations: Observations  # (B, …) the true next ones: where an episode ended, those it ended in
    rewards: np.ndarray  # (B,) float32
    terminated: np.ndarray  # (B,) bool
    truncated: np.ndarray  # (B,) bool
    valid: np.ndarray  # (B,) bool; False where the backend spent the step on a reset
    interrupted: np.ndarray  # (B,) bool; truncated by a restart of ours, not by the environment
    infos: np.ndarray  # (B, K) figures in the infos, NaN where there are none; of no interest but at an end

    @property
    def ended(self) -> np.ndarray:
        """Where an episode ended, one way or the other (B,)."""
        ended: np.ndarray = self.terminated | self.truncated
        return ended
