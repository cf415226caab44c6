"""What `trpo-search` leaves at its end: a table, how much each key matters, the best as a task, a figure."""

import shlex
from collections.abc import Sequence

from trpo.config import Config
from trpo.keys import differing
from trpo.record.search_figure import Point, write_search
from trpo.record.task_file import write_task
from trpo.search.found import Found, importances, ranking, table
from trpo.search.space import Numbers
from trpo.search.study import Search, alone, make_study, running
from trpo.search.trials import Compose, lines_of

COMPLETE = "complete"


def conclude(search: Search, compose: Compose) -> int:
    """Print and write what was found; return 1 if no trial is complete or one is missing."""
    study = make_study(search)
    rows = ranking(study)
    print(f"\n{table(rows, search.space)}\n")
    if shares := importances(study):
        print("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items()))
    elsewhere = len(running(study.get_trials(deepcopy=False)))
    if elsewhere:
        print(f"{elsewhere} more still running elsewhere")
    with alone(search):  # another shell may come to its end at the same moment
        if rows and rows[0].state == COMPLETE:
            write_best(rows, search, compose)
            write_figure(rows, search)
    return int(not rows or rows[0].state != COMPLETE or len(rows) + elsewhere < search.trials)


def write_best(rows: Sequence[Found], search: Search, compose: Compose) -> None:
    """Write what the best trial, the first row, changed as a task, the fixed overrides among it."""
    best = rows[0]
    config = compose([*search.fixed, *lines_of(best.values, search)])
    file = search.directory / "task" / "best.yaml"
    tried = f"the best of {len(rows)} trials" if len(rows) > 1 else "the only trial"
    write_task(
        file, differing(config, Config()), f"Trial {best.number} of {search.storage.name}, {tried}: {best.value:.2f}."
    )
    line = shlex.join(["trpo-train", "--config-dir", str(search.directory), "task=best"])
    print(f"best: trial {best.number}, {best.value:.2f}; {line}")


def write_figure(rows: Sequence[Found], search: Search) -> None:
    """Draw the trials that have values beside the storage."""
    points = [Point(row.number, row.value, row.state, row.values) for row in rows if row.value is not None]
    logarithmic = {one.name: isinstance(one, Numbers) and one.log for one in search.space}
    file = search.storage.with_suffix(".png")
    write_search(points, logarithmic, file)
    print(f"figure: {file}")
