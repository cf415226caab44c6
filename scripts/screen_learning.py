r"""Screen many settings at once: a two-level fractional factorial design over tasks, and what each setting did.

    python scripts/screen_learning.py runs/screen --tasks halfcheetah=400_000 hopper=300_000 --factors \
        trust_region.damping=0.1,3 trust_region.max_kl=0.01,0.03 policy.initial_log_std=-0.5,-1.5

Every run has a low or a high value of every factor, so each of them is compared over all runs: half against half.
With up to 5 factors, or 6 to 16 in 32 runs, main effects are not confounded with one another nor with interactions of
two (resolution IV: Montgomery, Design and Analysis of Experiments, chapter 8). Every run has a seed of its own.
`python scripts/benchmark_learning.py` confirms what this suggests.
"""

import argparse
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
from learning.contest import Job
from learning.work import run_all

from trpo.record.files import write_atomically

BASIC = 5  # factors whose combinations are all run: 32 runs
# Each further factor is a product of three or five of them: products of odd length cannot be products of two factors.
GENERATORS = [word for length in (1, 3, 5) for word in itertools.combinations(range(BASIC), length)]
FIRST_SEED = 100
SCORES = {"deterministic": "20 deterministic episodes of the last policy", "training": "last 100 training episodes"}


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing of the design, then write the table of effects."""
    options = make_parser().parse_args(arguments)
    factors, steps = dict(options.factors), dict(options.tasks)
    design = make_design(len(factors))
    jobs = [
        make_job(options.output.resolve(), row, signs, factors, task, number)
        for row, signs in enumerate(design)
        for task, number in steps.items()
    ]
    failures = run_all(jobs, steps=0)
    table = report(jobs, design, list(factors), list(steps))
    write_atomically(options.output / "screen.md", table.encode())
    print(table)
    return int(failures > 0)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder of all runs")
    parser.add_argument("--tasks", nargs="+", required=True, type=task, metavar="TASK=STEPS")
    parser.add_argument(
        "--factors", nargs="+", required=True, type=factor, metavar="KEY=LOW,HIGH", help=f"up to {len(GENERATORS)}"
    )
    return parser


def task(text: str) -> tuple[str, int]:
    """Return a task's name and its environment steps."""
    name, _, steps = text.partition("=")
    if not name or not steps.replace("_", "").isdecimal() or not int(steps):
        raise argparse.ArgumentTypeError(f"a task and its steps, as in hopper=300_000, got {text!r}")
    return name, int(steps)


def factor(text: str) -> tuple[str, list[str]]:
    """Return a key and its two values, which may be lists in brackets."""
    key, _, values = text.partition("=")
    levels = re.split(r",(?![^\[]*\])", values)
    if not key or len(levels) != 2 or not all(levels):
        raise argparse.ArgumentTypeError(f"a key and two values, as in trust_region.max_kl=0.01,0.03, got {text!r}")
    return key, levels


def make_design(factors: int) -> np.ndarray:
    """Return the levels, −1 or 1, of every factor in every run (2^min(factors, 5), factors)."""
    if factors > len(GENERATORS):
        raise SystemExit(f"at most {len(GENERATORS)} factors, got {factors}")
    full = np.array(list(itertools.product((-1, 1), repeat=min(factors, BASIC))))
    return np.stack([full[:, list(word)].prod(1) for word in GENERATORS[:factors]], axis=1)


def make_job(output: Path, row: int, signs: np.ndarray, factors: dict[str, list[str]], task: str, steps: int) -> Job:
    """Return one run of the design."""
    chosen = [f"{name}={values[int(sign > 0)]}" for (name, values), sign in zip(factors.items(), signs, strict=True)]
    overrides = (*chosen, f"run.total_steps={steps}", "run.checkpoint_every=0", "record.profile_every=0")
    return Job("screen", task, FIRST_SEED + row, output / f"run{row:02d}" / task, overrides)


def report(jobs: list[Job], design: np.ndarray, factors: list[str], tasks: list[str]) -> str:
    """Return the effects of all factors under every score as Markdown."""
    sections = []
    for score, meaning in SCORES.items():
        found = {job.directory: read_score(job, score) for job in jobs}
        columns = [np.array([found[job.directory] for job in jobs if job.task == task]) for task in tasks]
        lines = [f"| {meaning} | {' | '.join(tasks)} | mean |", "| --- |" + " --- |" * (len(tasks) + 1)]
        lines.append(f"| mean return | {' | '.join(f'{np.nanmean(column):,.0f}' for column in columns)} | |")
        effects = np.stack([estimate_effects(design, column) for column in columns])  # (tasks, 2, factors)
        for place in np.argsort(-effects[:, 0].mean(0)):
            cells = [f"{effect:+.0f} ± {error:.0f}" for effect, error in effects[:, :, place]]
            overall = np.sqrt((effects[:, 1, place] ** 2).sum()) / len(tasks)
            lines.append(
                f"| `{factors[place]}` | {' | '.join(cells)} | {effects[:, 0, place].mean():+.0f} ± {overall:.0f} |"
            )
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def read_score(job: Job, score: str) -> float:
    """Return a score of a run, NaN if it failed."""
    if not job.scores.exists():
        return np.nan
    value = json.loads(job.scores.read_text(encoding="utf-8"))[score]
    return np.nan if value is None else float(value)


def estimate_effects(design: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return high minus low of every factor and its standard error (2, factors), in per cent of the mean score.

    Least squares on the main effects; the error comes from what they leave, interactions included.
    """
    known = np.isfinite(scores)
    columns = np.column_stack([np.ones(known.sum()), design[known]])
    coefficients, *_ = np.linalg.lstsq(columns, scores[known], rcond=None)
    left = scores[known] - columns @ coefficients
    freedom = max(len(left) - columns.shape[1], 1)
    covariance = np.linalg.pinv(columns.T @ columns) * (left @ left) / freedom
    scale = 200 / abs(scores[known].mean())  # from −1 to 1 are two steps
    effects: np.ndarray = np.stack([coefficients[1:], np.sqrt(covariance.diagonal()[1:])]) * scale
    return effects


if __name__ == "__main__":
    sys.exit(main())
