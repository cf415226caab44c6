"""Timings that can be compared: contestants take turns, so that a machine that drifts drifts for all of them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

MOST_ROUNDS = 50


def seconds_per_call(
    run: Callable[[], object],
    device: torch.device,
    *,
    prepare: Callable[[], object] = lambda: None,
    least: float = 0.05,
) -> float:
    """Return the mean seconds of one call, over as many calls as take `least` seconds together.

    Calls in a row find in the caches what they would find in an update, which single calls between those of other
    contestants do not. `prepare` runs before each call, outside the clock.
    """
    total, calls = 0.0, 0
    while total < least or calls == 0:
        prepare()
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        total += time.perf_counter() - started
        calls += 1
    return total / calls


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU still has to do; the clock of a CPU needs no waiting."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def alternate(
    contestants: Mapping[str, Callable[[], float]],
    *,
    repetitions: int,
    seconds: float = 0.0,
    patience: float = math.inf,
) -> dict[str, list[float]]:
    """Return what the contestants measured, taking turns: A B C, A B C and so on.

    The first round warms up and does not count, unless it takes longer than `patience`.

    Args:
        contestants: each measures once and returns its figure.
        repetitions: rounds that count.
        seconds: more rounds follow, up to 50, until this much time has passed.
        patience: seconds after which no further round begins, if there is one that counts.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    started = time.perf_counter()

    def elapsed() -> float:
        return time.perf_counter() - started

    def play_round() -> None:
        for name, measure in contestants.items():
            values[name].append(measure())

    play_round()
    if elapsed() <= patience:
        values = {name: [] for name in contestants}
        play_round()
    rounds = 1
    while elapsed() <= patience and (rounds < repetitions or (elapsed() < seconds and rounds < MOST_ROUNDS)):
        play_round()
        rounds += 1
    return values


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """Return the k of figure ∝ size^k: the least-squares slope in logarithms. NaN with fewer than two sizes."""
    x, y = [math.log(size) for size in sizes], [math.log(figure) for figure in figures]
    if len(set(x)) < 2:
        return math.nan
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
    return products / sum((a - x_mean) ** 2 for a in x)
