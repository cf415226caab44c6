"""One trial: a run for every seed, one after the other, and the figure that they come to."""

import math
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

from optuna import TrialPruned
from optuna.trial import FrozenTrial, Trial

from trpo.config import Config
from trpo.record import checkpoint, run_directory
from trpo.record.runs import read_rows
from trpo.run import train
from trpo.search.space import Value
from trpo.search.study import AS_CONFIGURED, Search, directory_of
from trpo.system.signals import StopRequest
from trpo.trainer import Trainer

SCORE = "evaluation/return_mean"
WHOLE = (run_directory.FINISHED, run_directory.STOPPED)  # the exit reasons of a run to which nothing is missing
QUIET = ("env.pin=false", "record.progress=false")  # before what is typed, which wins

Compose = Callable[[list[str]], Config]  # of overrides
Evaluations = dict[int, float]  # environment steps to mean return


class Interrupted(Exception):  # noqa: N818  nothing went wrong
    """A signal stopped the runs of a trial; they were saved."""


class TrialRuns:
    """The runs of a trial, and what their evaluations come to so far.

    Args:
        trial: with its parameters.
        search: it belongs to.
        compose: makes configurations of overrides.
        stop: remembers signals that arrive between the runs.
    """

    def __init__(self, trial: Trial, search: Search, compose: Compose, stop: StopRequest) -> None:
        self.trial, self.search, self.compose, self.stop = trial, search, compose, stop
        self.directory = search.directory / directory_of(trial)
        self.evaluations: list[Evaluations] = []  # of every seed so far
        self.pruned = False

    def value(self) -> float:
        """Run every seed and return the score.

        Raises `TrialPruned` if the trial was given up, `Interrupted` after a signal, and whatever ends a run.
        """
        for seed in range(self.search.seeds):
            self.run_seed(seed)
        value = score(self.evaluations)
        if not math.isfinite(value):
            raise FloatingPointError(f"the evaluations come to {value}")
        return value

    def run_seed(self, seed: int) -> None:
        """Run one seed, or what is left of it."""
        if self.stop.received is not None:  # at the end of the run before
            raise Interrupted
        directory = self.directory / f"seed{seed}"
        self.take_over(directory)
        overrides = [*QUIET, *self.search.fixed, *lines_of(values_of(self.trial), self.search), f"seed={seed}"]
        if run_directory.ended(directory)[0] in WHOLE:
            return
        config = self.compose(overrides)
        begun = (directory / run_directory.CONFIG).exists()  # by a trial that was interrupted
        summary = train(config, directory, overrides, resume=begun, watch=self.watch)
        if self.pruned:  # first: a signal in the same iteration does not take that back
            raise TrialPruned
        if summary["exit_reason"] in signal.Signals.__members__:
            raise Interrupted

    def take_over(self, directory: Path) -> None:
        """Tell the study of a run's evaluations that an interrupted trial left: the trial that goes on is a new one.

        Raises `TrialPruned` if it was given up, and its process died before it could say so.
        """
        self.evaluations.append({})
        for steps, figure in evaluations_in(directory).items():
            self.report(steps, figure)
        if run_directory.ended(directory)[0] == run_directory.PRUNED:
            raise TrialPruned

    def watch(self, row: Mapping[str, float | str], trainer: Trainer) -> str | None:
        """Return why a run should end after an iteration, if it should."""
        if SCORE in row:
            self.report(trainer.env_steps, float(row[SCORE]))
            last = trainer.finished and len(self.evaluations) == self.search.seeds
            self.pruned = not last and self.trial.should_prune()
        if self.stop.received is not None:  # maybe while the run was being made
            return self.stop.received.name
        return run_directory.PRUNED if self.pruned else None

    def report(self, steps: int, figure: float) -> None:
        """Tell the study what the trial's value is after one more evaluation."""
        self.evaluations[-1][steps] = figure
        self.trial.report(score(self.evaluations), sum(map(len, self.evaluations)))


def score(evaluations: list[Evaluations]) -> float:
    """Return the mean over seeds of the mean of the last third of each seed's evaluations, at least one.

    Neither the last evaluation, which is one draw, nor the best, which is the luckiest of many.
    """
    seeds = [[figures[steps] for steps in sorted(figures)] for figures in evaluations if figures]
    return fmean(fmean(values[-math.ceil(len(values) / 3) :]) for values in seeds)


def evaluations_in(directory: Path) -> Evaluations:
    """Return the evaluations of a run that an interrupted trial left, up to where the run goes on.

    Later ones are made again. A kill may have cut off the last row.
    """
    rows = read_rows(directory / run_directory.METRICS, [])
    last = steps_kept(directory) if rows else 0
    return {int(row["env_steps"]): float(row[SCORE]) for row in rows if SCORE in row and row["env_steps"] <= last}


def steps_kept(directory: Path) -> int:
    """Return after how many environment steps a run goes on: at its end if it has one, or at its newest checkpoint."""
    reason, steps = run_directory.ended(directory)
    if reason in (*WHOLE, run_directory.PRUNED):
        return steps
    found = checkpoint.newest_readable(directory / run_directory.CHECKPOINTS)
    return 0 if found is None else int(found[1]["env_steps"])


def lines_of(values: Mapping[str, Value], search: Search) -> list[str]:
    """Return the overrides that a trial tries."""
    return [f"{one.typed}={values[one.name]}" for one in search.space if one.name in values]


def values_of(trial: Trial | FrozenTrial) -> dict[str, Value]:
    """Return what a trial tries: its parameters, those of trial 0 as they are configured."""
    return {**trial.params, **trial.user_attrs.get(AS_CONFIGURED, {})}
