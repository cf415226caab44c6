"""The commands `trpo-train`, `trpo-evaluate` and `trpo-report`: arguments in, one exit code out."""

import argparse
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field
from pathlib import Path
from typing import Any

import numpy as np

from trpo.compose import load_config, tasks
from trpo.config import FINITE, UserError, describe_range
from trpo.keys import fields_by_key
from trpo.launch import launch, refuse
from trpo.models.agent import load_agent
from trpo.record import checkpoint, run_directory
from trpo.sampling.evaluation import Evaluation
from trpo.sampling.evaluation import evaluate as evaluate_agent
from trpo.sampling.making import check_environment
from trpo.train import agent_for


def train(arguments: list[str] | None = None) -> int:
    """Run `trpo-train` and return its exit code."""
    return reported("trpo-train", train_command, arguments)


def evaluate(arguments: list[str] | None = None) -> int:
    """Run `trpo-evaluate` and return its exit code."""
    return reported("trpo-evaluate", evaluate_command, arguments)


def report(arguments: list[str] | None = None) -> int:
    """Run `trpo-report` and return its exit code."""
    return reported("trpo-report", report_command, arguments)


def reported(command: str, function: Callable[[list[str]], int], arguments: list[str] | None) -> int:
    """Return the exit code of a command; a mistake is one line and code 2."""
    try:
        return function(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    except ConnectionError as error:  # of several ranks, before or after the run itself
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130


def train_command(arguments: list[str]) -> int:
    """Print the help, or train."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    with console():
        return launch(arguments)


@contextmanager
def console() -> Iterator[None]:
    """Show what is meant for the person, and only that; `train.log` gets everything."""
    logger, handler = logging.getLogger("trpo.console"), logging.StreamHandler(sys.stdout)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def help_text() -> str:
    """Return the help of `trpo-train`: tasks and keys come from the files and dataclasses themselves."""
    task_lines = [f"  {name:<26}{environment}" for name, environment in tasks().items()]
    key_lines = [
        f"  {f'{name}={default_of(field)}':<44} {field.metadata['text']}{range_of(field)}"
        for name, field in fields_by_key()
    ]
    return "\n".join(
        [
            "Train a TRPO agent.",
            "",
            "  trpo-train task=cartpole                            a task with its settings",
            "  trpo-train env.id=Acrobot-v1                        any Gymnasium environment",
            "  trpo-train task=hopper seed=3 trust_region.max_kl=0.02",
            "  trpo-train -m task=cartpole,acrobot seed=0,1,2      a sweep: every combination",
            "  trpo-train task=hopper --cfg job                    show the configuration, run nothing",
            "",
            "Tasks (task=…):",
            *task_lines,
            "",
            "Keys and their defaults:",
            *key_lines,
            "",
            "hydra.run.dir=DIR chooses the run directory, hydra.sweep.dir=DIR that of a sweep. --config-dir DIR adds a",
            "directory with task/*.yaml of your own. --hydra-help explains Hydra's other flags.",
            "Exit codes: 0 finished, 1 a run failed, 2 a mistake on the command line, 130 or 143 stopped by a signal.",
        ]
    )


def default_of(field: Field) -> str:
    """Return a field's default as it would be typed."""
    if field.default_factory is dict:
        return "{}"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return str(list(field.default)) if isinstance(field.default, tuple) else str(field.default)


def range_of(field: Field) -> str:
    """Return a field's range in brackets, if its line of help does not say it already."""
    words = describe_range(field)
    return "" if field.metadata["choices"] or words == FINITE else f" ({words})"


def evaluate_command(arguments: list[str]) -> int:
    """Evaluate the agent of a run directory and print its returns."""
    options = evaluation_parser().parse_args(arguments)
    if options.episodes < 1 or options.seed < 0:
        raise UserError(f"--episodes must be at least 1 and --seed at least 0: {options.episodes}, {options.seed}")
    run_directory.check_is_run(options.run_directory)
    config = load_config(options.run_directory / run_directory.CONFIG)
    file, state = read_checkpoint(options.run_directory / run_directory.CHECKPOINTS, options.checkpoint)
    agent = agent_for(config, check_environment(config.env))
    load_agent(agent, state, str(file))
    evaluation = evaluate_agent(
        agent,
        config.env,
        episodes=range(options.episodes),
        seed=options.seed,
        stochastic=options.stochastic,
        video=options.video,
    )
    figures = describe(evaluation)
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"{config.env.id} after {state['env_steps']:,} steps, {options.episodes} episodes:")
        print("return {return_mean:.2f} ± {return_std:.2f} ({return_min:.2f} to {return_max:.2f})".format(**figures))
        print(f"length {figures['length_mean']:.1f}")
    return 0


def evaluation_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-evaluate`."""
    parser = argparse.ArgumentParser(
        prog="trpo-evaluate",
        description="Returns of a trained agent: mean ± standard deviation over episodes.",
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="where trpo-train wrote the run")
    parser.add_argument("--episodes", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the mode")
    parser.add_argument("--seed", type=int, default=0, help="of initial states and actions (default: 0)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="default: the newest of the run")
    parser.add_argument("--video", type=Path, metavar="DIR", help="write every episode as MP4 into DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def read_checkpoint(folder: Path, chosen: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the chosen checkpoint or the newest that can be read. Raises `UserError` if there is none."""
    if chosen is not None:
        return chosen, checkpoint.load(chosen)
    found = checkpoint.newest_readable(folder)
    if found is None:
        raise UserError(f"{folder} holds no checkpoint yet")
    return found


def describe(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures of `trpo-evaluate --json`."""
    returns = np.array(evaluation.returns)
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(np.mean(evaluation.lengths)),
        "episodes": len(returns),
    }


def report_command(arguments: list[str]) -> int:
    """Write the report of the runs in some directories and print where it is."""
    parser = argparse.ArgumentParser(
        prog="trpo-report", description="Runs, or a whole sweep, to figures, tables and one self-contained HTML page."
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="runs, or folders that hold runs")
    parser.add_argument("--output", type=Path, default=Path("report"), metavar="DIR", help="default: report")
    options = parser.parse_args(arguments)
    try:
        from trpo.record.report import write_report
        from trpo.record.runs import find_runs
    except ModuleNotFoundError as error:
        raise UserError(f"trpo-report needs {error.name}: pip install 'trpo[report]'") from error
    print(write_report(find_runs(options.directories), options.output))
    return 0
