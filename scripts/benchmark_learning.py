"""Learning curves over tasks and seeds, scored as the published tables are, against their figures.

    python scripts/benchmark_learning.py runs/learning                                     # everything, seeds 0 to 4
    python scripts/benchmark_learning.py runs/learning --tasks hopper Pusher-v5 --seeds 0 1
    python scripts/benchmark_learning.py runs/learning --name wider --set policy.hidden_sizes=[256,256]
    python scripts/benchmark_learning.py runs/learning --peer --tasks ant                  # sb3-contrib as in the zoo
    python scripts/benchmark_learning.py runs/learning --report scripts/results/learning_table

A run is `trpo-train` with the task as shipped, stepped by EnvPool where that has the environment, with a checkpoint
every 30,000 steps. Every run keeps its directory OUTPUT/NAME/TASK/seedN, and `scores.json` there once it is scored on
Gymnasium's environments. Calling the script again goes on where it stopped. Protocols: (a) ten episodes of sampled
actions every 30,000 steps, the best point of the mean over seeds; (b) the last such point; (c) twenty episodes of
the last policy's mode; (d) the last hundred episodes of training.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from learning.contest import OURS, PEER, Job, directory_of
from learning.estimates import summarise_all
from learning.surrogates import side_by_side
from learning.tables import draw, write_table
from learning.targets import GROUPS, TARGETS
from learning.work import run_all

from trpo.record.files import write_atomically


def main(arguments: list[str] | None = None) -> int:
    """Train and score what is missing, then report on everything that is there."""
    options = make_parser().parse_args(arguments)
    failures = 0
    if options.report is None:
        try:
            failures = run_all(make_jobs(options), steps=options.steps)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        options.report = options.output / "learning"
    runs = read_scores(options.output)
    if not runs:
        print(f"{options.output} holds no scores", file=sys.stderr)
        return 1
    report(beside(read_report(options.report), runs), options.report)
    return int(failures > 0)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the folder of all runs")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["mujoco", "classic", "held_out"],
        help=f"task files, Gymnasium ids, or groups ({', '.join(GROUPS)}); default: all groups",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="default: 0 1 2 3 4")
    parser.add_argument("--name", default=OURS, help=f"of this configuration among the results (default: {OURS})")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the configuration")
    parser.add_argument("--peer", action="store_true", help="run sb3-contrib instead: pip install 'trpo[peers]'")
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the peer; ours are the task's own")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="STEM",
        help="run nothing, write STEM.md, STEM.png and STEM.json, whose other runs stay",
    )
    return parser


def make_jobs(options: argparse.Namespace) -> list[Job]:
    """Return the runs that were asked for, task by task."""
    tasks = [task for name in options.tasks for task in GROUPS.get(name, (name,))]
    name = PEER if options.peer else options.name
    output = options.output.resolve()
    return [
        Job(name, task, seed, directory_of(output, name, task, seed), tuple(options.set))
        for task in tasks
        for seed in options.seeds
    ]


def read_scores(output: Path) -> list[dict[str, Any]]:
    """Return the scores of all runs under a folder."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(output.glob("*/*/seed*/scores.json"))]


def read_report(stem: Path) -> list[dict[str, Any]]:
    """Return the scores of an earlier report, of which the directories may be gone."""
    file = stem.with_suffix(".json")
    scores: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return scores


def beside(earlier: list[dict[str, Any]], newer: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the scores of all runs, each once and those of one contestant together; the newer ones count."""
    runs = {(run["contestant"], run["task"], run["seed"]): run for run in [*earlier, *newer]}
    return [runs[key] for key in sorted(runs)]


def report(runs: list[dict[str, Any]], stem: Path) -> None:
    """Write the tables, the figure, and the scores that they were made from."""
    results = summarise_all(runs)
    contestants = sorted({name for name, _ in results}, key=lambda name: (name == PEER, name))
    order = [*TARGETS, *sorted({task for _, task in results} - set(TARGETS))]
    stem.parent.mkdir(parents=True, exist_ok=True)
    draw(results, contestants, order, stem.with_suffix(".png"))
    both = side_by_side(results, order)
    tables = [f"## Both surrogates\n\n{both}\n"] if both else []
    tables += [f"## {name}\n\n{write_table(results, name, order)}\n" for name in contestants]
    write_atomically(stem.with_suffix(".md"), "\n".join(tables).encode())
    write_atomically(stem.with_suffix(".json"), "\n".join(["[", ",\n".join(map(json.dumps, runs)), "]\n"]).encode())
    print("\n".join(tables))


if __name__ == "__main__":
    sys.exit(main())
