"""The study that the processes of a search share: one journal file, and who may take which trial.

Optuna's journal needs no server, and a file on a shared disk serves several machines. It has no heartbeat, so every
running trial names its process, and whoever takes the next trial first looks for those whose process has died.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from trpo.config import UserError, first_line
from trpo.record.run_directory import TRIAL
from trpo.search.sampler import RoundingSampler, distributions_of, seed_of_trial
from trpo.search.space import Dimension, Value
from trpo.system.liveness import Identity, is_dead, own_identity

NAME = "trpo"  # of the one study in a file
MOST_DEATHS = 3  # of the processes that ran a trial, before it counts as failed

SEARCH = "search"  # what is kept with the study: those that share it agree on it
# What is kept with a trial, besides Optuna's own.
WORKER = "worker"  # the identity of the process that runs it
AS_CONFIGURED = "as_configured"  # of trial 0: the values of the searched keys without the search
CONTINUES = "continues"  # the number of the interrupted trial that is tried again
DIRECTORY = "directory"  # of the runs, if it is that of an interrupted trial
DEATHS = "deaths"
ERROR = "error"


@dataclass(frozen=True)
class Search:
    """Everything that a search is; those that share a study agree on `fixed`, `space` and `seeds`."""

    storage: Path
    fixed: tuple[str, ...]  # overrides
    space: tuple[Dimension, ...]
    start: Mapping[str, Value]  # what trial 0 tries
    seeds: int  # runs of a trial
    trials: int  # how many are to be finished
    prune: bool
    grace: int  # evaluations of a trial before it may be pruned
    sampler_seed: int

    @property
    def directory(self) -> Path:
        """Where the runs are, and what was found."""
        return self.storage.with_suffix("")

    def describe(self) -> dict[str, Any]:
        """Return what those that share the study agree on."""
        space = sorted(dimension.describe() for dimension in self.space)
        return {"fixed": sorted(self.fixed), "space": space, "seeds": self.seeds}


def check_storage(search: Search) -> None:
    """Raise `UserError` if the file holds another study or something else, or if runs are there that are of none."""
    runs = any(search.directory.glob(f"{TRIAL}*"))  # first: another shell may be making its study, and then its runs
    if search.storage.exists() and (study := opened(search.storage)) is not None:
        check_same(study, search)
    elif runs:
        raise UserError(f"{search.directory} holds trials, but {search.storage} no study: choose another --storage")


def check_same(study: Study, search: Search) -> None:
    """Raise `UserError` if a study is not that of this search."""
    there, asked = study.user_attrs.get(SEARCH, {}), search.describe()
    for part in asked:
        if there.get(part) != asked[part]:
            raise UserError(
                f"{search.storage} is a study of other keys: its {part} is {shown(there.get(part))}, "
                f"{shown(asked[part])} was asked for; choose another --storage"
            )


def shown(part: Any) -> str:
    """Return a part of the description of a search in one line."""
    return " ".join(map(str, part)) or "nothing" if isinstance(part, list) else str(part)


def opened(storage: Path) -> Study | None:
    """Return the study in a file, or None if none has been made to the end. Raises `UserError` for no journal."""
    try:
        study = optuna.load_study(study_name=NAME, storage=journal(storage))
    except KeyError:
        return None
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise UserError(f"{storage} is not the journal of a study: {first_line(error)}") from error
    unfinished = SEARCH not in study.user_attrs and len(study.get_trials(deepcopy=False)) < 2
    return None if unfinished else study


def journal(storage: Path) -> JournalStorage:
    """Return the storage in a file."""
    # Optuna's lock by default is a link, whose age cannot be told where its path is relative: a lock that a killed
    # process left behind would keep all others busy for ever. That of a file is broken after half a minute.
    return JournalStorage(JournalFileBackend(str(storage), JournalFileOpenLock(str(storage))))


def make_study(search: Search) -> Study:
    """Return the study of a search, made with its first trial if there is none.

    Raises `UserError` if the file holds another one, or something else.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would say that it made a study
    search.storage.parent.mkdir(parents=True, exist_ok=True)
    with alone(search):
        study = opened(search.storage) if search.storage.exists() else None
        if study is None:
            study = created(search)
        check_same(study, search)
    study.pruner = pruner_of(search)
    return study


def created(search: Search) -> Study:
    """Return a new study, whose trial 0 will be the configuration as it is.

    What it is a study of is written last: where that is missing, its making was cut off, or another process is at it.
    """
    study = optuna.create_study(
        study_name=NAME, storage=journal(search.storage), direction="maximize", load_if_exists=True
    )
    dimensions = {dimension.name: dimension for dimension in search.space}
    recorded = {name: dimensions[name].recorded(value) for name, value in search.start.items()}
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(recorded, user_attrs={AS_CONFIGURED: dict(search.start)})
    study.set_user_attr(SEARCH, search.describe())
    return study


def pruner_of(search: Search) -> BasePruner:
    """Return what decides that a trial is given up: below the median of finished trials after as many evaluations."""
    return MedianPruner(n_startup_trials=5, n_warmup_steps=search.grace) if search.prune else NopPruner()


@contextmanager
def alone(search: Search) -> Iterator[None]:
    """Keep all other processes of the search, on whatever machine, from doing the same meanwhile."""
    lock = JournalFileOpenLock(f"{search.storage}.turn")
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def take(study: Study, search: Search) -> Trial | None:
    """Return the next trial with all its parameters, or None if as many as asked for have ended or are running."""
    with alone(search):
        revive(study)
        trials = study.get_trials(deepcopy=False)
        if len(finished(trials)) + len(running(trials)) >= search.trials:
            return None
        study.sampler = RoundingSampler(search.space, seed_of_trial(search.sampler_seed, begun(trials)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Fixed parameter .* is out of range")  # the configured value may be
            trial = study.ask(distributions_of(search.space))
        trial.set_user_attr(WORKER, own_identity())
        return trial


def begun(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials have begun; one that goes on after it was interrupted began once."""
    return sum(trial.state != TrialState.WAITING and CONTINUES not in trial.user_attrs for trial in trials)


def finished(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that count: complete, pruned, or failed; not those that are tried again."""
    again = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [trial for trial in trials if trial.state.is_finished() and trial.number not in again]


def running(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that some process is working at."""
    return [trial for trial in trials if trial.state == TrialState.RUNNING]


def revive(study: Study) -> None:
    """Let the trials of this host's dead processes be tried again; what other hosts do is left to them."""
    for trial in running(study.get_trials(deepcopy=False)):
        worker = trial.user_attrs.get(WORKER)
        if worker is not None and is_dead(Identity(*worker)):
            try_again(study, trial, deaths=trial.user_attrs.get(DEATHS, 0) + 1)


def try_again(study: Study, trial: FrozenTrial, *, deaths: int) -> None:
    """End a trial that was interrupted and enqueue its parameters, whose runs then go on where they were.

    One whose processes died too often is no victim but the cause, and fails.
    """
    already = any(other.user_attrs.get(CONTINUES) == trial.number for other in study.get_trials(deepcopy=False))
    if deaths < MOST_DEATHS and not already:
        kept = {name: trial.user_attrs[name] for name in (AS_CONFIGURED,) if name in trial.user_attrs}
        origin = {CONTINUES: trial.number, DIRECTORY: directory_of(trial), DEATHS: deaths}
        study.enqueue_trial(trial.params, user_attrs={**kept, **origin})
    study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)


def directory_of(trial: Trial | FrozenTrial) -> str:
    """Return the name of the directory of a trial's runs."""
    return str(trial.user_attrs.get(DIRECTORY, f"{TRIAL}{trial.number:04}"))


def shown_number(trial: Trial | FrozenTrial) -> int:
    """Return the number by which people know a trial, that of its directory: Optuna counts what goes on once more."""
    return int(directory_of(trial).removeprefix(TRIAL))
