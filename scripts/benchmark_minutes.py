"""How many minutes to a return? This project and its peers against the clock, on two cores of one machine.

    pip install 'trpo[peers,envpool]'
    python scripts/benchmark_minutes.py --list                                  # which runs are missing
    python scripts/benchmark_minutes.py                                         # all of them: up to eleven hours
    python scripts/benchmark_minutes.py --contestants score sb3-ppo --tasks hopper --seeds 0
    python scripts/benchmark_minutes.py --report scripts/results/minutes        # the table and the figure

A run is over when the mean of its last 20 training episodes has passed the task's last threshold, or after ten minutes.
The clock starts with its process, imports included; runs follow each other, so that each has both cores to itself, and
nothing else should run beside them. Everybody learns as their own project has it: this one with the task as shipped,
Stable-Baselines3 and sb3-contrib with the settings of rl-baselines3-zoo (SAC with its defaults), tianshou's PPO with
those of its MuJoCo example. A result is a line of OUTPUT; a second call does what is missing there. Seconds of another
kind of machine are another table, so let a seed run on one.

tianshou 2.0.1 asks for an older filelock than constraints.txt has, so install the peers without the constraints.
"""

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

from minutes.contest import CONTESTANTS, SEEDS, TASKS, Run, missing, not_installed, planned
from minutes.tables import draw, report
from minutes.work import run_all
from speed.training import plural

from trpo.record.files import write_atomically

RESULTS = Path(__file__).parent / "results" / "minutes.jsonl"


def main(arguments: list[str] | None = None) -> int:
    """Do the runs that are missing, list them, or report on those that are there."""
    options = make_parser().parse_args(arguments)
    results = read_results(options.output, options.minutes)
    if options.report is not None:
        return write_report(results, options)
    runs = missing(chosen(options), results)
    if not options.list and (packages := not_installed(runs)):
        print(f"not installed: {', '.join(packages)}; pip install 'trpo[peers,envpool]'", file=sys.stderr)
        return 2
    print(f"{plural(len(runs), 'run')}, at most {60 * options.minutes * len(runs):,.0f} seconds", file=sys.stderr)
    if options.list:
        print("".join(f"{run}\n" for run in runs), end="")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending the run
    return int(run_all(runs, options.output, minutes=options.minutes) > 0)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "output", nargs="?", type=Path, default=RESULTS, help="the results (default: scripts/results/minutes.jsonl)"
    )
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), metavar="NAME")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=list(SEEDS), metavar="SEED")
    parser.add_argument("--minutes", type=float, default=10.0, help="of a run, and of the results (default: 10)")
    parser.add_argument("--list", action="store_true", help="print the runs that are missing, run nothing")
    parser.add_argument("--report", type=Path, metavar="STEM", help="write STEM.md and STEM.png, run nothing")
    return parser


def chosen(options: argparse.Namespace) -> list[Run]:
    """Return the runs that were asked for."""
    return [
        run
        for run in planned()
        if run.contestant in options.contestants and run.task in options.tasks and run.seed in options.seeds
    ]


def read_results(output: Path, minutes: float) -> list[dict[str, Any]]:
    """Return the results of runs that had so many minutes."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    return [result for result in map(json.loads, lines) if result["minutes"] == minutes]


def write_report(results: list[dict[str, Any]], options: argparse.Namespace) -> int:
    """Write the table and the figure."""
    if not results:
        print(f"{options.output} holds no results of {options.minutes:g} minutes", file=sys.stderr)
        return 1
    page = report(results, options.minutes)
    write_atomically(options.report.with_suffix(".md"), page.encode())
    draw(results).savefig(options.report.with_suffix(".png"), dpi=110)
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
