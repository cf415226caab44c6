"""The command `trpo-search`: settings that learn more, found by trying."""

import argparse
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from trpo.commands.checks import check_can_start
from trpo.commands.compose import compose_jobs, register_schema, slug, to_config
from trpo.commands.exit_codes import command, refuse
from trpo.commands.search_space import configured, corners, parse_space, with_configured
from trpo.config import Config, UserError
from trpo.record import run_directory
from trpo.sampling.interface import Interface

if TYPE_CHECKING:
    from trpo.search.study import Search

EPILOG = """\
what is searched, in the words of Hydra's sweeps:
  trust_region.max_kl=interval(0.005,0.1)             any number between the two
  'trust_region.max_kl=tag(log,interval(0.005,0.1))'  the same, on a logarithmic scale
  'critic.epochs=range(5,30,5)'                       5, 10, … 25; interval(5,30): every whole number
  policy.activation=tanh,relu                         one of these; also choice(tanh,relu)
Everything else is the same in all trials.

A trial is --seeds runs, seeds 0, 1, …; its value is the mean over them of the last third of the evaluations. Trial 0 is
the configuration as it is. The same line again goes on where the search stopped, in as many shells as you like, on any
machine that sees the file. Found: DIR/task/best.yaml (trpo-train --config-dir DIR task=best), DIR.png, DIR being the
storage without its suffix; trpo-report DIR shows the runs.
Exit codes: 0 enough trials have ended, 1 none is complete or a worker died, 2 a mistake on the command line, 129, 130,
140 or 143 stopped by a signal after saving."""


@command("trpo-search")
def search(arguments: list[str]) -> int:
    """Search, and write what was found."""
    options = search_parser().parse_intermixed_args(arguments)
    try:
        from trpo.search.study import check_storage
        from trpo.search.workers import run_workers
    except ModuleNotFoundError as error:
        raise UserError(f"trpo-search needs {error.name}: pip install 'trpo[search]'") from error
    from trpo.commands.search_results import conclude

    asked = checked_search(options)
    check_storage(asked)
    compose = functools.partial(compose_config, config_dir=options.config_dir)
    code = run_workers(asked, compose, options.workers)
    return code if code > 1 else max(code, conclude(asked, compose))


def search_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-search`."""
    parser = argparse.ArgumentParser(
        prog="trpo-search",
        description="Search for settings that learn more. An override gives a key a value, or says what to try.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of trpo-train")
    parser.add_argument("--trials", type=at_least_one, default=50, metavar="N", help="in all (default: 50)")
    parser.add_argument("--seeds", type=at_least_one, default=2, metavar="N", help="runs of each (default: 2)")
    parser.add_argument("--workers", type=at_least_one, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--storage", type=Path, metavar="FILE", help="the study, shared by all (default: studies/ENVIRONMENT.log)"
    )
    parser.add_argument(
        "--pruner", choices=("median", "none"), default="median", help="what gives up trials (default: median)"
    )
    parser.add_argument("--sampler-seed", type=int, default=0, metavar="N", help="of what is tried (default: 0)")
    parser.add_argument("--config-dir", metavar="DIR", help="with task/*.yaml of your own")
    return parser


def at_least_one(text: str) -> int:
    """Return a positive whole number. Raises what argparse makes a line of."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)


def checked_search(options: argparse.Namespace) -> "Search":
    """Return the search that was asked for; every corner of its space could be run.

    Raises `UserError` before anything has been made.
    """
    from trpo.search.study import Search

    if options.sampler_seed < 0:
        raise UserError(f"--sampler-seed must be at least 0, got {options.sampler_seed}")
    register_schema()
    fixed, space = parse_space(options.overrides)
    interfaces: dict[str, Interface] = {}
    (job,) = compose_jobs(fixed, options.config_dir, multirun=False)
    config = to_config(job)
    agent = check_can_start(config, interfaces)
    values = ((dimension.name, configured(job, dimension, config, agent)) for dimension in space)
    start = {name: value for name, value in values if value is not None}
    for corner in corners(fixed, space, options.config_dir):
        check_can_start(checked_evaluations(to_config(corner)), interfaces)
    return Search(
        storage=checked_file(options.storage or Path("studies", f"{slug(config.env.id)}.log")),
        fixed=tuple(fixed),
        space=tuple(with_configured(space, start)),
        start=start,
        seeds=options.seeds,
        trials=options.trials,
        prune=options.pruner == "median",
        grace=math.ceil(evaluations_of(config) / 3),
        sampler_seed=options.sampler_seed,
    )


def checked_evaluations(config: Config) -> Config:
    """Return a configuration whose runs are evaluated. Raises `UserError` for one without."""
    if not config.run.evaluation_episodes:
        raise UserError("run.evaluation_episodes=0: without evaluations a trial has no value")
    return config


def checked_file(storage: Path) -> Path:
    """Return the file of a study. Raises `UserError` if it, or the directory of its runs, cannot be made."""
    directory = storage.with_suffix("")
    if not storage.suffix:
        raise UserError(f"--storage {storage}: name a file, as studies/hopper.log; the runs go to studies/hopper")
    if storage.suffix.lower() == ".png":  # it would be drawn over the journal, and all trials lost
        raise UserError(
            f"--storage {storage}: the figure is called so; name the study otherwise, as studies/hopper.log"
        )
    if storage.is_dir():
        raise UserError(f"--storage {storage} is a directory")
    run_directory.check_can_be_made(directory)
    return storage


def evaluations_of(config: Config) -> int:
    """Return how many evaluations a run has."""
    return max(1, config.run.total_steps // config.run.evaluate_every) if config.run.evaluate_every else 1


def compose_config(overrides: list[str], config_dir: str | None) -> Config:
    """Return the configuration of a run; workers compose their own."""
    register_schema()
    (job,) = compose_jobs(overrides, config_dir, multirun=False)
    return to_config(job)
