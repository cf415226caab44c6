"""The processes of a search: each takes trials from the study until there are enough."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from multiprocessing.context import SpawnProcess

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from trpo.config import UserError, first_line
from trpo.search.found import found
from trpo.search.study import DEATHS, ERROR, Search, finished, make_study, shown_number, take, try_again
from trpo.search.trials import Compose, Interrupted, TrialRuns
from trpo.system.signals import StopRequest
from trpo.system.streams import say

LOOK_EVERY = 0.2  # seconds between looks for a signal


def run_workers(search: Search, compose: Compose, workers: int) -> int:
    """Run the search until its trials have ended; return an exit code.

    That is 0, 1 if a process died, and for a signal what a shell reports for it: all runs have then been saved.
    """
    make_study(search)
    if workers == 1:
        return work(search, compose)
    with StopRequest() as stop:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        processes = [context.Process(target=be_worker, args=(search, compose)) for _ in range(workers)]
        try:
            for process in processes:
                process.start()
            wait_for(processes, stop)
        finally:
            for process in processes:
                if process.is_alive():  # a second Ctrl-C
                    process.kill()
    if stop.received is not None:
        return 128 + stop.received
    return max(explain(process) for process in processes)


def wait_for(processes: list[SpawnProcess], stop: StopRequest) -> None:
    """Wait until all processes have ended; tell them to, again and again, once a signal has come."""
    while alive := [process for process in processes if process.is_alive()]:
        for process in alive if stop.received is not None else []:
            process.terminate()
        multiprocessing.connection.wait([process.sentinel for process in alive], LOOK_EVERY)


def explain(process: SpawnProcess) -> int:
    """Return the exit code for the end of a worker, and say so if it died."""
    code = process.exitcode or 0
    if code < 0:
        name = signal.Signals(-code).name
        print(f"trpo-search: a worker was ended by {name}; its trial is tried again", file=sys.stderr)
    return 1 if code < 0 else code


def be_worker(search: Search, compose: Compose) -> None:
    """Be a process that a search started, and exit with its code."""
    os.setpgid(0, 0)  # the terminal sends Ctrl-C to the whole group, and the second one would not save
    try:
        sys.exit(work(search, compose))
    except (OSError, UserError) as error:  # the disk of the study
        print(f"trpo-search: {first_line(error)}", file=sys.stderr)
        sys.exit(1)


def work(search: Search, compose: Compose) -> int:
    """Run trials until there are enough, the process that started this one ended, or a signal comes; return a code."""
    parent = multiprocessing.parent_process()
    study = make_study(search)
    with StopRequest() as stop:
        while stop.received is None and (parent is None or parent.is_alive()):
            trial = take(study, search)
            if trial is None:
                return 0
            end_of(study, trial, TrialRuns(trial, search, compose, stop))
            tell_progress(study, trial, search)
    return 0 if stop.received is None else 128 + stop.received


def end_of(study: Study, trial: Trial, runs: TrialRuns) -> None:
    """Run a trial and tell the study how it ended; a run that fails ends its trial, not the search."""
    try:
        study.tell(trial, runs.value())
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (Interrupted, KeyboardInterrupt) as stopped:
        try_again(study, as_recorded(study, trial), deaths=trial.user_attrs.get(DEATHS, 0))
        if isinstance(stopped, KeyboardInterrupt):  # the second Ctrl-C
            raise
    except UpdateFinishedTrialError:
        number = shown_number(trial)
        print(f"trial {number} was ended by another process: are two hosts called the same?", file=sys.stderr)
    except Exception as error:
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {first_line(error)}")
        study.tell(trial, state=TrialState.FAIL)


def as_recorded(study: Study, trial: Trial) -> FrozenTrial:
    """Return a trial as the study has it."""
    return study.get_trials(deepcopy=False)[trial.number]


def tell_progress(study: Study, trial: Trial, search: Search) -> None:
    """Say how a trial ended and how many have."""
    trials = study.get_trials(deepcopy=False)
    ended, counted = trials[trial.number], finished(trials)
    if ended not in counted:
        say(f"trial {shown_number(trial)} was stopped: the same line goes on with it", sys.stdout)
        return
    result = found(ended)
    figure = "" if result.value is None else f" {result.value:.2f}"
    tried = " ".join(f"{name}={value}" for name, value in result.values.items())
    head = f"trial {result.number} {result.state}{figure} ({len(counted)} of {search.trials})"
    say(f"{head}: {tried} {result.error}".rstrip(), sys.stdout)
