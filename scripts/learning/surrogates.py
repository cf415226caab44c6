"""Both surrogates in one table, task by task, beside the goals that the project set itself."""

from collections.abc import Sequence

from learning.contest import OURS, chosen, env_id
from learning.estimates import PROTOCOLS
from learning.tables import Results, interval, number
from learning.targets import GOALS

SURROGATES = {"score": OURS, "pathwise": "pathwise"}  # and the names of their results


def side_by_side(results: Results, tasks: Sequence[str]) -> str:
    """Return a row for each surrogate on each task that `pathwise` has a result on, as Markdown; nothing if on none.

    Cells are interquartile means over seeds with their 95 % intervals; `command` is what follows `trpo-train` but for
    the seed and `env.backend=envpool`.
    """
    lines = [
        "| environment | to reach | surrogate | " + " | ".join(f"({key})" for key in PROTOCOLS),
        "| --- | --- | --- |" + " --- |" * len(PROTOCOLS) + " ---: | ---: | --- |",
    ]
    lines[0] += " | seeds | seconds | command |"
    found = [task for task in tasks if (SURROGATES["pathwise"], task) in results]
    return "\n".join([*lines, *(row for task in found for row in rows(results, task))]) if found else ""


def rows(results: Results, task: str) -> list[str]:
    """Return the rows of a task, the first with its name and whether its goal is reached."""
    found = {name: results[key, task] for name, key in SURROGATES.items() if (key, task) in results}
    lines = []
    for place, (name, result) in enumerate(found.items()):
        cells = [interval(result.estimates.get(key)) for key in PROTOCOLS]
        command = " ".join([chosen(task), *result.overrides])
        lines.append(
            f"| {env_id(task) if place == 0 else ''} | {reached(results, task) if place == 0 else ''} | {name} "
            f"| {' | '.join(cells)} | {len(result.points)} | {result.seconds:.0f} | `{command}` |"
        )
    return lines


def reached(results: Results, task: str) -> str:
    """Return the goal of a task, its protocol, and the better surrogate's mean over seeds."""
    if task not in GOALS:
        return "–"
    goal = GOALS[task]
    estimates = [results[key, task].estimates for key in SURROGATES.values() if (key, task) in results]
    best = max(estimate[goal.protocol].mean for estimate in estimates if goal.protocol in estimate)
    word = "reached" if best >= goal.score else "missed"
    return f"{number(goal.score)} ({goal.protocol}) · {word}, {number(best)}"
