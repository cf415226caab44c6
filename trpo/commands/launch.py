"""From checked configurations to running jobs, under Hydra.

Hydra composes and launches, it does not guard: its callbacks swallow exceptions, its own errors exit 1, and it makes
directories first. So every job of a run or a sweep is composed and checked here before Hydra starts.
"""

import argparse
import logging
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from trpo.commands.compose import compose_jobs, register_schema, setting
from trpo.commands.elsewhere import has_processes, run_elsewhere
from trpo.commands.exit_codes import refuse
from trpo.commands.jobs import exit_code, run_here
from trpo.commands.plans import check_jobs, resumed_directory
from trpo.commands.resume import Plan
from trpo.config import UserError
from trpo.run import train
from trpo.system import ranks
from trpo.system.signals import StopRequest

SHOW_ONLY = ("cfg", "info", "hydra_help", "shell_completion")  # flags with which nothing is trained


def launch(arguments: list[str]) -> int:
    """Check every job that the arguments ask for, then let Hydra run them; return the worst exit code.

    Of several ranks the leader does so, and the others do the job that it tells them. Raises `UserError` before
    anything has been made if any one job cannot start.
    """
    with ranks.joined():
        if not ranks.leads():
            return follow(ranks.of_leader(None))
        plans: list[Plan] = []
        try:
            options = parse(arguments)
            jobs = composed(options)
            plans = check_jobs(jobs, multirun=options.multirun)
        finally:
            ranks.of_leader(plans)
        if options.multirun and jobs and has_processes(jobs[0]):
            sweep = Path(jobs[0].hydra.sweep.dir).absolute()  # whatever the directory that its processes work in
            options.overrides.append(setting("hydra.sweep.dir", sweep))  # or another time would be in its name
            return run_elsewhere(hydra_arguments(options), plans, sweep)
        return run_here(hydra_arguments(options))


def composed(options: argparse.Namespace) -> list[DictConfig]:
    """Return every job that is asked for, or nothing if the options only ask to show something."""
    register_schema()
    if directory := resumed_directory(options.overrides, multirun=options.multirun):
        options.overrides.append(setting("hydra.run.dir", directory))
    if options.hydra_help or options.shell_completion:
        return []
    jobs = compose_jobs(options.overrides, options.config_dir, multirun=options.multirun)
    return [] if any(getattr(options, name) for name in SHOW_ONLY) else jobs


def follow(plans: list[Plan]) -> int:
    """Take part in the job that the leader runs, without a directory, and return an exit code."""
    if not plans or plans[0].finished:
        return 0
    handler = logging.StreamHandler()
    handler.addFilter(concerns_this_rank)
    logging.basicConfig(format=f"rank {ranks.number()}: %(message)s", handlers=[handler])
    logging.captureWarnings(True)
    with StopRequest():  # until it is said what ended the run
        try:
            summary = train(plans[0].config, Path(), plans[0].overrides, resume=plans[0].resume)
            return exit_code(str(summary["exit_reason"]))
        except (ConnectionError, UserError) as error:
            logging.error("%s", error)
        except Exception:
            logging.exception("the run failed")
    return 1


def concerns_this_rank(record: logging.LogRecord) -> bool:
    """Return whether the leader does not say the same: errors, and what a rank's own environments did."""
    return record.levelno >= logging.ERROR or record.name.startswith("trpo.sampling.environments")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return Hydra's flags and the overrides, which may stand on both sides of them. Raises `UserError`."""
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    options = parser.parse_intermixed_args(arguments)
    for name in ("experimental_rerun", "config_path", "config_name"):
        if getattr(options, name):
            raise UserError(f"--{name.replace('_', '-')} is not supported")
    if not options.cfg and (options.resolve or options.package):
        raise UserError("--resolve and --package belong to --cfg")
    return options


def hydra_arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line in the order that Hydra can read: flags first."""
    switches = {"multirun": "-m", "resolve": "--resolve", "hydra_help": "--hydra-help", "run": "--run"}
    valued = {"cfg": "--cfg", "package": "--package", "info": "--info", "config_dir": "--config-dir"}
    flags = [flag for name, flag in switches.items() if getattr(options, name)]
    flags += [f"{flag}={getattr(options, name)}" for name, flag in valued.items() if getattr(options, name)]
    return [*flags, *(["-sc"] if options.shell_completion else []), "--", *options.overrides]
