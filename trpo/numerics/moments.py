"""Number, mean and variance of rows, and how those of two sets become those of their union."""

from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor


class Moments(NamedTuple):
    """Of some rows (n, K), in float64."""

    samples: Tensor  # n, a scalar
    mean: Tensor  # (K,)
    variance: Tensor  # (K,), the population's: divided by n


def moments(rows: Tensor) -> Moments:
    """Return the moments of rows (n, K); all zero if there are none."""
    count = torch.tensor(len(rows), dtype=torch.float64, device=rows.device)
    if len(rows) == 0:
        nothing = torch.zeros(rows.shape[1:], dtype=torch.float64, device=rows.device)
        return Moments(count, nothing, nothing)
    rows = rows.double()
    return Moments(count, rows.mean(0), rows.var(0, correction=0))


def merged(first: Moments, second: Moments) -> Moments:
    """Return the moments of the union of two sets of rows.

    Chan, Golub & LeVeque 1983: from the moments of each, with no running sums of squares to cancel.
    """
    total = first.samples + second.samples
    if total == 0:
        return first
    delta = second.mean - first.mean
    within = first.variance * first.samples + second.variance * second.samples
    between = delta**2 * (first.samples * second.samples / total)
    return Moments(total, first.mean + delta * (second.samples / total), (within + between) / total)


def pack(parts: Moments) -> Tensor:
    """Return moments as one vector (1 + 2K,), to be sent."""
    return torch.cat([parts.samples.view(1), parts.mean, parts.variance])


def union(packed: Tensor) -> Moments:
    """Return the moments of the union of several sets, packed (R, 1 + 2K), merged in their order."""
    sets = [Moments(row[0], *row[1:].chunk(2)) for row in packed]
    return reduce(merged, sets)
