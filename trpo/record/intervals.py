"""Scores over seeds: interquartile means and their intervals (Agarwal et al. 2021, arXiv:2108.13264, section 4)."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def interquartile_mean(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return the mean without the lowest and the highest quarter, each rounded down to whole runs."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=axis))


def mean_interval(mean: float, std: float, count: int) -> tuple[float, float] | None:
    """Return the ends of Student's 95 % interval of a mean of `count` values, None of fewer than two.

    `std` is their standard deviation as `np.std` has it, divided by `count`.
    """
    if count < 2:
        return None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * std / (count - 1) ** 0.5
    return mean - half, mean + half


def confidence_interval(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % percentile bootstrap interval of the interquartile mean over runs (R, …).

    For one task their stratified bootstrap is the plain one. One run is its own interval.
    """
    if len(runs) == 1:
        return runs[0], runs[0]
    found = stats.bootstrap(
        (runs,), interquartile_mean, axis=0, confidence_level=CONFIDENCE, method="percentile", rng=0
    ).confidence_interval
    return found.low, found.high
