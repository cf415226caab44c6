"""A few of many rows, spread evenly over them and over whatever comes round in their order."""

import math

import torch
from torch import Tensor

GOLDEN = 0.6180339887498949  # steps of this share of a circle keep their points evenly apart, however many they are


def spread(rows: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the indices (count,) of some of so many rows, in order; always the same ones.

    They are where so many steps round the rows lead that have no divisor in common with their number. In a rollout B
    environments come round and round: steps that shared a factor with B would lead to the same few of them for ever,
    these lead to each environment as often, to within one.
    """
    step = round(rows * GOLDEN)
    while math.gcd(step, rows) != 1:
        step += 1
    return (torch.arange(count, device=device) * step % rows).sort().values
