"""The figures that environments say in the last info of an episode: success, and what else was asked for."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trpo.batch import SUCCESS

log = logging.getLogger(__name__)


def told(info: Mapping[str, Any], keys: Iterable[str]) -> dict[str, float]:
    """Return the finite numbers and truths of one environment's info that are called so."""
    numbers = {key: number(info[key]) for key in keys if key in info}
    return {key: value for key, value in numbers.items() if value is not None}


def number(value: Any) -> float | None:
    """Return a finite number or a truth as a float, whatever holds it, or None for anything else.

    NaN and infinity have no place in a mean, nor in JSON: who gives them tells nothing.
    """
    array = np.asarray(value)
    figure = float(array.reshape(())) if array.size == 1 and array.dtype.kind in "biuf" else math.nan
    return figure if math.isfinite(figure) else None


def told_by_all(info: Mapping[str, Any], keys: tuple[str, ...], num_envs: int) -> np.ndarray:
    """Return the figures in the info of B environments (B, K), NaN where one does not say it, or none that is finite.

    Gymnasium marks under `_key` which of them do; EnvPool's always all do.
    """
    figures = np.full((num_envs, len(keys)), np.nan)
    for column, key in enumerate(keys):
        if key not in info:
            continue
        values = np.asarray(info[key])
        if values.shape == (num_envs,) and values.dtype.kind in "biuf":
            said = np.isfinite(values) & np.asarray(info.get(f"_{key}", True))
            figures[:, column] = np.where(said, values, np.nan)
    return figures


class Infos:
    """Collects the figures of episodes that end, and says once which ones that were asked for are never told.

    Args:
        asked: besides those of success.
    """

    def __init__(self, asked: Iterable[str]) -> None:
        self.keys = tuple(dict.fromkeys((*SUCCESS, *asked)))
        self.silent = {key for key in self.keys if key not in SUCCESS}

    def columns(self, episodes: np.ndarray) -> dict[str, list[float]]:
        """Return the figures (E, K) of E episodes by key, of those that tell it."""
        columns = {key: column[~np.isnan(column)].tolist() for key, column in zip(self.keys, episodes.T, strict=True)}
        for key in sorted(self.silent if len(episodes) else ()):
            if not columns[key]:
                log.warning("record.info_keys: the last info of an episode has no number that is called %s", key)
        if len(episodes):
            self.silent = set()
        return columns
