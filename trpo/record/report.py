"""Runs to one self-contained HTML page and its figures as PNG files."""

import base64
import io
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from trpo.config import UserError
from trpo.record.figures import draw_profile
from trpo.record.promises import describe_promises, draw_promises
from trpo.record.report_figures import (
    RETURN,
    SCORE,
    Groups,
    Score,
    draw_learning,
    draw_scores,
    draw_solver,
    draw_trust_region,
)
from trpo.record.run_directory import STOPPED
from trpo.record.runs import Run

PAGE = "report.html"
WORST = 5  # iterations listed as those in which the quadratic model was most wrong
MOST_DETAILS = 12  # runs that get figures of their own
RECORDING = re.compile(r"record\.|run\.(evaluat|checkpoint|keep_|fallback_)|env\.pin$")  # decides no number
SMALLEST_KL = 1e-8  # nats; below it a relative error is rounding


def write_report(runs: Sequence[Run], directory: Path, searches: Sequence[Path], warnings: Sequence[str]) -> Path:
    """Write `report.html` and PNG files into `directory`, with figures of searches, and return the page's path.

    Everything is inside the page: it opens without a network and can be sent. Names and values are escaped.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory} cannot be made: {error.strerror}") from error
    template = jinja2.Template((Path(__file__).parent / "report.html.jinja").read_text("utf-8"), autoescape=True)
    environments = by_environment(runs)
    differing = [*(["env.id"] if len(environments) > 1 else []), *differing_keys(runs)]
    names = short_names(runs)
    page = template.render(
        rows=[describe_run(run, names[run.name], differing) for run in runs],
        differing=differing,
        searches=[{"name": file.stem, "picture": base64.b64encode(file.read_bytes()).decode()} for file in searches],
        environments=[
            describe_environment(environment, group, names, directory) for environment, group in environments.items()
        ],
        details=[
            describe_details(run, names[run.name], index, directory)
            for index, run in enumerate(runs[:MOST_DETAILS])
            if run.rows
        ],
        left_out=max(0, len(runs) - MOST_DETAILS),
        warnings=[*warnings, *(warning for run in runs for warning in run.warnings)],
        **describe_configuration(environments),
        versions={"run": names[runs[0].name], **runs[0].versions},
    )
    (directory / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")  # names of any bytes
    return directory / PAGE


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """Return the keys that tell runs of the same environment apart, leaving out what is merely recorded."""
    keys = dict.fromkeys(key for run in runs for key in run.config if not RECORDING.match(key))
    groups = by_environment(runs).values()
    return [key for key in keys if any(differs(key, group) for group in groups)]


def differs(key: str, runs: Sequence[Run]) -> bool:
    """Return whether a key has several values among these runs."""
    return len({repr(run.config.get(key)) for run in runs}) > 1


def describe_configuration(environments: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return what is the same in all runs, and by key the value of each environment where only its own runs agree."""
    runs = [run for group in environments.values() for run in group]
    common, own = {}, {}
    for key in dict.fromkeys(key for run in runs for key in run.config):
        if not differs(key, runs):
            common[key] = runs[0].config.get(key)
        elif not any(differs(key, group) for group in environments.values()):
            own[key] = [group[0].config.get(key) for group in environments.values()]
    return {"common": common, "own": own}


def by_environment(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs of each environment."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.config["env.id"]), []).append(run)
    return groups


def group_runs(runs: Sequence[Run]) -> Groups:
    """Return the runs of one environment by everything but the seed, under labels that say what differs.

    A seed counts once: its runs are no independent ones. The run that counts has a score, is the longest, is the last.
    """
    names = last_words([key for key in differing_keys(runs) if key != "seed"])
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        changed = ", ".join(f"{name}={run.config.get(key)}" for key, name in names.items())
        seeds, seed = groups.setdefault(textwrap.fill(changed or "all", 40), {}), run.config["seed"]
        seeds[seed] = max(run, seeds.get(seed, run), key=lambda one: (bool(Score([one]).values), one.env_steps))
    return {label: list(seeds.values()) for label, seeds in groups.items()}


def last_words(keys: Sequence[str]) -> dict[str, str]:
    """Return what to call keys: by their last word, or whole where policy and critic have one of the same name."""
    words = [key.split(".")[-1] for key in keys]
    return {key: key if words.count(word) > 1 else word for key, word in zip(keys, words, strict=True)}


def short_names(runs: Sequence[Run]) -> dict[str, str]:
    """Return the runs' directories, by name, without what they have in common."""
    if len(runs) == 1:
        return {runs[0].name: Path(runs[0].name).name}
    common = os.path.commonpath([os.path.abspath(run.name) for run in runs])  # as typed, some may be relative
    return {run.name: os.path.relpath(run.name, common) for run in runs}


def describe_run(run: Run, name: str, differing: Sequence[str]) -> dict[str, Any]:
    """Return a run's row of the table of runs."""
    errors = [abs(error) for error in run.values("trust_region/kl_error_relative")]
    accepted = run.values("trust_region/accepted")
    rates = run.values("time/steps_per_second")
    evaluations = run.values(SCORE)
    returns = run.values(RETURN)
    return {
        "name": name,
        "status": status_in_words(run),
        "healthy": run.whole,
        "differing": [run.config.get(key) for key in differing],
        "env_steps": f"{run.env_steps:,}" if run.rows else "–",
        "training_return": number(float(np.mean(returns[-10:])) if returns else None),
        "final_evaluation": number(run.final(SCORE)),
        "best_evaluation": number(max(evaluations) if evaluations else None),
        "kl_spent": percent(float(np.median(spent)) if (spent := shares_spent(run)) else None),
        "error": percent(float(np.median(errors)) if errors else None),
        "rejected": percent(1 - float(np.mean(accepted)) if accepted else None),
        "rate": number(float(np.median(rates)) if rates else None),
    }


def status_in_words(run: Run) -> str:
    """Return a run's status, with the return at which it stopped if that is why."""
    enough = run.config.get("run.stop_at_return")
    reached = run.final(SCORE)
    if run.status != STOPPED or enough is None or reached is None or reached < enough:
        return run.status  # a callback of an earlier version stopped it, or it was to stop at another return
    return f"stopped at a return of {number(enough)}"


def shares_spent(run: Run) -> list[float]:
    """Return KL / δ of every accepted step."""
    return [row["trust_region/kl"] / row["trust_region/max_kl"] for row in run.rows if row.get("trust_region/accepted")]


def describe_environment(
    environment: str, runs: Sequence[Run], names: Mapping[str, str], directory: Path
) -> dict[str, Any]:
    """Return the section of one environment: scores and figures over all its runs."""
    groups, slug = group_runs(runs), re.sub(r"[^\w.-]+", "-", environment)
    drawn = {
        "learning": draw_learning(groups),
        "scores": draw_scores(groups),
        "promises": draw_promises(groups),
        "solver": draw_solver(groups),
    }
    promises = [describe_promises(label, group) for label, group in groups.items()]
    counted = {run.name for group in groups.values() for run in group}
    return {
        "name": environment,
        "repeats": [names[run.name] for run in runs if run.name not in counted],
        "scores": [describe_score(label, group) for label, group in groups.items()],
        "promises": [row for row in promises if row],
        "pictures": [picture(figure, directory / f"{slug}_{name}.png") for name, figure in drawn.items() if figure],
    }


def describe_score(label: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return a group's row of the table of scores."""
    score = Score(runs)
    interval = f"{number(score.interval[0])} to {number(score.interval[1])}" if score.interval else "–"
    return {
        "label": label,
        "seeds": len(score.values),
        "left_out": score.left_out,
        "iqm": number(score.iqm),
        "interval": interval,
    }


def describe_details(run: Run, name: str, index: int, directory: Path) -> dict[str, Any]:
    """Return one run's section: its trust region, its worst iterations and the profile nearest to the worst."""
    worst = worst_iterations(run)
    pictures = [picture(draw_trust_region(run), directory / f"run{index}_trust_region.png")]
    if run.profiles:
        steps = np.array([int(profile["name"].removeprefix("step_")) for profile in run.profiles])
        target = worst[0]["env_steps"] if worst else steps[-1]
        nearest = run.profiles[int(np.abs(steps - target).argmin())]
        title = f"after {int(nearest['name'].removeprefix('step_')):,} steps"
        pictures.append(picture(draw_profile(nearest, title), directory / f"run{index}_profile.png"))
    return {"name": name, "status": status_in_words(run), "worst": worst, "pictures": pictures}


def worst_iterations(run: Run) -> list[dict[str, Any]]:
    """Return the accepted steps in which the quadratic model was most wrong, the worst first."""
    rows = [
        {
            "iteration": row["iteration"],
            "env_steps": row["env_steps"],
            "kl": row["trust_region/kl"],
            "kl_quadratic": row["trust_region/kl_quadratic"],
            "error": row["trust_region/kl_error_relative"],
            "step_fraction": row["trust_region/step_fraction"],
        }
        for row in run.rows
        if "trust_region/kl_error_relative" in row and row["trust_region/kl"] > SMALLEST_KL
    ]
    return sorted(rows, key=lambda row: -abs(row["error"]))[:WORST]


def picture(figure: Figure, file: Path) -> str:
    """Write a figure as PNG and return it in base64 for the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    file.write_bytes(buffer.getvalue())
    return base64.b64encode(buffer.getvalue()).decode()


def number(value: float | None) -> str:
    """Return a number for a table, or a dash."""
    return "–" if value is None else f"{value:,.1f}"


def percent(value: float | None) -> str:
    """Return a share for a table, or a dash."""
    return "–" if value is None else f"{value:.1%}"
