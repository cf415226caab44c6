"""A wrapper that shows a part of what there is to see: what a memory must make up for."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from trpo.config import UserError


class Components(gymnasium.ObservationWrapper):
    """Only some numbers of an observation that is a vector, in the order in which they are named.

    `env.wrappers=[{wrapper: trpo.sampling.partial:Components, kept: [0, 2]}]` leaves CartPole its positions.

    Args:
        env: of vector observations.
        kept: the numbers of the components, from 0.

    Raises `UserError` for observations that are no vector, and for components that they do not have.
    """

    def __init__(self, env: gymnasium.Env, kept: Sequence[int]) -> None:
        super().__init__(env)
        space = env.observation_space
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise UserError(f"Components are of a vector, and observations are {space}")
        if not kept or not all(0 <= number < len(space.low) for number in kept):
            raise UserError(f"kept={[*kept]}: the components are 0 to {len(space.low) - 1}, and at least one is kept")
        self.kept = list(kept)
        self.observation_space = spaces.Box(space.low[self.kept], space.high[self.kept], dtype=space.dtype.type)

    def observation(self, observation: Any) -> np.ndarray:
        """Return the components that are kept."""
        return np.asarray(observation)[self.kept]
