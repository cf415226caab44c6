"""A ratio of two sums over paired observations, and how far it can be trusted."""

from collections.abc import Sequence

import numpy as np


def ratio_of_sums(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, float | None] | None:
    """Return r = Σaᵢ / Σbᵢ and its standard error; no error from fewer than two pairs, nothing where Σbᵢ is 0.

    The error comes from the spread of the pairs by the delta method, √(n/(n − 1) Σ(aᵢ − r bᵢ)²) / |Σbᵢ|: pairs with a
    large denominator count for more, and none is divided by a small one.
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    total = b.sum()
    if total == 0.0:
        return None
    ratio = float(a.sum() / total)
    if len(a) < 2:
        return ratio, None
    return ratio, float(np.sqrt(len(a) / (len(a) - 1) * np.square(a - ratio * b).sum()) / abs(total))
