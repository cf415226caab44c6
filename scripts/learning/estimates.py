"""From the scores of single runs to figures over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from trpo.record.intervals import confidence_interval, interquartile_mean

PROTOCOLS = {
    "a": "stochastic, best point",
    "b": "stochastic, last point",
    "c": "deterministic, last policy",
    "d": "training, last 100 episodes",
}


class Estimate(NamedTuple):
    """One protocol's figures over seeds."""

    scores: list[float]  # one for each seed
    mean: float
    std: float  # population
    iqm: float  # interquartile mean
    low: float  # of its 95 % bootstrap interval
    high: float


class Result(NamedTuple):
    """One contestant on one task."""

    estimates: dict[str, Estimate]  # by protocol
    seconds: float  # of training, mean over seeds
    env_steps: float
    steps: np.ndarray  # (K,) of the points of the curve
    points: np.ndarray  # (seeds, K)
    overrides: tuple[str, ...] = ()  # of the configuration, beside the task


def estimate(scores: Sequence[float]) -> Estimate:
    """Return mean, standard deviation, and interquartile mean with its 95 % interval over runs."""
    values = np.asarray(scores, dtype=np.float64)
    low, high = confidence_interval(values)
    iqm = float(interquartile_mean(values))
    return Estimate(values.tolist(), float(values.mean()), float(values.std()), iqm, float(low), float(high))


def summarise(runs: list[dict[str, Any]]) -> Result:
    """Return the figures of the runs of one contestant on one task."""
    length = min(len(run["curve"]) for run in runs)
    # The last point is that of the last policy, whatever stands before it.
    curves = np.array([run["curve"][: length - 1] + run["curve"][-1:] for run in runs])  # (seeds, K, 2)
    steps, points = curves[:, :, 0].mean(0), curves[:, :, 1]
    by_protocol = {
        "a": points[:, points.mean(0).argmax()].tolist(),
        "b": points[:, -1].tolist(),
        "c": [run["deterministic"] for run in runs],
        "d": [run["training"] for run in runs if run["training"] is not None],
    }
    return Result(
        {protocol: estimate(scores) for protocol, scores in by_protocol.items() if scores},
        float(np.mean([run["seconds"] for run in runs])),
        float(np.mean([run["env_steps"] for run in runs])),
        steps,
        points,
        tuple(runs[0].get("overrides", ())),
    )


def summarise_all(runs: list[dict[str, Any]]) -> dict[tuple[str, str], Result]:
    """Return the result of every contestant on every task, by (contestant, task)."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run["seed"]):
        groups[run["contestant"], run["task"]].append(run)
    return {key: summarise(group) for key, group in groups.items()}
