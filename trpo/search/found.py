"""What a search has found: trials in the order of their values, and how much each key matters."""

from collections.abc import Sequence
from typing import NamedTuple

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from trpo.search.space import Dimension, Value
from trpo.search.study import ERROR, finished, shown_number
from trpo.search.trials import values_of

ENOUGH = 4  # complete trials, below which an importance would be made up


class Found(NamedTuple):
    """A trial that has ended."""

    number: int  # of its directory
    value: float | None  # the score; of a pruned one what it was when given up
    state: str  # complete, pruned, failed
    values: dict[str, Value]  # what was tried
    error: str  # why it failed


def ranking(study: Study) -> list[Found]:
    """Return the trials that count, complete ones first, each kind from the highest value down."""
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = finished(study.get_trials(deepcopy=False))
    return [found(trial) for trial in sorted(trials, key=lambda one: (order.index(one.state), -(one.value or 0.0)))]


def found(trial: FrozenTrial) -> Found:
    """Return a trial in plain words."""
    state = {TrialState.FAIL: "failed"}.get(trial.state, trial.state.name.lower())
    return Found(shown_number(trial), trial.value, state, values_of(trial), trial.user_attrs.get(ERROR, ""))


def importances(study: Study) -> dict[str, float]:
    """Return the share that each searched key has in how far trials differ, or nothing if too few are complete."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < ENOUGH or len({trial.value for trial in complete}) == 1:
        return {}
    return optuna.importance.get_param_importances(study)


def table(rows: Sequence[Found], space: Sequence[Dimension]) -> str:
    """Return the ranking as a Markdown table."""
    names = [dimension.name for dimension in space]
    lines = [["rank", "trial", "value", *names, "state"]]
    for rank, row in enumerate(rows, start=1):
        figure = "–" if row.value is None else f"{row.value:.2f}"
        tried = [str(row.values.get(name, "–")) for name in names]
        lines.append([str(rank), str(row.number), figure, *tried, f"{row.state} {row.error}".strip()])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in padded)
