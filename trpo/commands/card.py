"""The command `trpo-card`: a run to a model card."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from trpo.commands.compose import choices
from trpo.commands.evaluate import describe, evaluate_run
from trpo.commands.exit_codes import command, refuse
from trpo.commands.resume import GROUPS, LENGTH, key_of, lines_of
from trpo.config import UserError
from trpo.record import run_directory
from trpo.record.files import write_atomically
from trpo.record.targets import check_target
from trpo.sampling.making import FUNCTION

README = "README.md"  # where the Hub looks for a card


@command("trpo-card")
def card(arguments: list[str]) -> int:
    """Write the card of a run and print where it is."""
    options = card_parser().parse_args(arguments)
    if options.stochastic and options.episodes is None:
        raise UserError("--stochastic needs --episodes: what a run says of itself is of the mode")
    run_directory.check_is_run(options.run_directory)
    output = options.output or options.run_directory / README
    check_target(output, force=options.force)
    text = written(options)
    write_atomically(output, text.encode())
    print(output)
    return 0


def written(options: argparse.Namespace) -> str:
    """Return the card that the options ask for. Raises `UserError` if a package is missing."""
    try:
        from trpo.record.card import MODE, SAMPLES, Score, render_card
        from trpo.record.runs import read_run
    except ModuleNotFoundError as error:
        raise UserError(f"trpo-card needs {error.name}: pip install 'trpo[report]'") from error
    run, anew = read_run(options.run_directory), None
    for warning in run.warnings:
        print(f"trpo-card: {warning}", file=sys.stderr)
    if options.episodes is not None:
        evaluated = evaluate_run(
            options.run_directory, episodes=options.episodes, seed=options.seed, stochastic=options.stochastic
        )
        figures, protocol = describe(evaluated.evaluation), SAMPLES if options.stochastic else MODE
        mean, std = figures["return_mean"], figures["return_std"]
        anew = Score(protocol, evaluated.env_steps, options.episodes, options.seed, mean, std)
    overrides = run_directory.read_overrides(options.run_directory)
    return render_card(run, how_trained(overrides), anew)


def how_trained(overrides: Sequence[str]) -> str:
    """Return in Markdown the command that starts such a run, and what one command cannot say of how it was made."""
    if any(line.startswith(f"env.id={FUNCTION}") for line in overrides):
        rest = shlex.join(line for line in overrides if key_of(line) != "env.id")
        made = "By `trpo.train` from Python, on an environment that a function made: no command can call it."
        return f"{made} The other keys: `{rest}`." if rest else made
    first, later = (lines := lines_of(LENGTH, overrides))[:1], lines[1:]
    started = [*(line for line in overrides if key_of(line) != LENGTH), *first]
    command = f"```sh\n{shlex.join(['trpo-train', *flags_for(overrides), *started])}\n```"
    if not later:
        return command
    went_on = ", then ".join(f"`{line}`" for line in later)
    return (
        f"{command}\n\nSo it was started; it went on with {went_on}. What is annealed falls over the steps that are "
        "asked for, so that no single command makes this run again."
    )


def flags_for(overrides: Sequence[str]) -> list[str]:
    """Return what else a command needs that has these overrides: the directory of a task of somebody's own.

    Where that was is not recorded, and to who reads the card it would mean nothing.
    """
    chosen = [(key_of(line), line.partition("=")[2].strip("'\"")) for line in overrides]
    own = any(key in GROUPS and name not in choices(key) for key, name in chosen)
    return ["--config-dir", "DIR"] if own else []


def card_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-card`."""
    parser = argparse.ArgumentParser(
        prog="trpo-card",
        description="A model card as the Hugging Face Hub reads it: scores, versions, and what the trust region did.",
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="where trpo-train wrote the run")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: README.md in RUN_DIR")
    parser.add_argument("--episodes", type=int, help="evaluate anew, so many; default: what the run says of itself")
    parser.add_argument("--stochastic", action="store_true", help="in these sample actions instead of taking the mode")
    parser.add_argument("--seed", type=int, default=0, help="of their initial states and actions (default: 0)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    return parser
