"""One seed to many independent generators: one per role, and one number per environment and episode.

Children are named by `numpy.random.SeedSequence` spawn keys, so neighbouring seeds share nothing. (An integer seed
given to Gymnasium's vector environments means seed + i: seed 3, environment 1 would equal seed 4, environment 0.)
"""

from enum import IntEnum

import numpy as np
import torch


class Role(IntEnum):
    """Who draws the numbers. The values are part of what makes a run reproducible: never renumber them."""

    NETWORKS = 0
    ACTIONS = 1
    MINIBATCHES = 2
    ENVIRONMENTS = 3
    EVALUATION_ENVIRONMENTS = 4
    EVALUATION_ACTIONS = 5
    ACTION_VALUES = 6
    SURROGATE_NOISE = 7


def integer(seed: int, role: Role, *path: int) -> int:
    """Return a 32-bit seed for one role and, for environments, one (environment, episode)."""
    return int(np.random.SeedSequence(seed, spawn_key=(role, *path)).generate_state(1)[0])


def generator(seed: int, role: Role, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh torch generator for one role, seeded with 63 bits."""
    state = np.random.SeedSequence(seed, spawn_key=(role, *path)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) >> 1)
