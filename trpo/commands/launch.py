"""From checked configurations to running jobs, under Hydra.

Hydra composes and launches, it does not guard: its callbacks swallow exceptions, its own errors exit 1, and it makes
directories first. So every job of a run or a sweep is composed and checked here before Hydra starts.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trpo.commands.compose import CONFIGS, compose_jobs, load_config, one_line, register_schema
from trpo.commands.exit_codes import refuse
from trpo.commands.plans import as_typed, check_jobs, resumed_directory
from trpo.commands.resume import Plan, plan_job
from trpo.config import UserError, first_line
from trpo.record import run_directory
from trpo.run import train
from trpo.system import ranks

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
            plans = checked_plans(options)
        finally:
            ranks.of_leader(plans)
        return run_hydra(hydra_arguments(options))


def checked_plans(options: argparse.Namespace) -> list[Plan]:
    """Return what every job is going to do, or nothing if the options only ask to show something."""
    register_schema()
    if directory := resumed_directory(options.overrides):
        options.overrides.append(f"hydra.run.dir='{directory}'")
    if options.hydra_help or options.shell_completion:
        return []
    jobs = compose_jobs(options.overrides, options.config_dir, multirun=options.multirun)
    if any(getattr(options, name) for name in SHOW_ONLY):
        return []
    return check_jobs(jobs, multirun=options.multirun)


def follow(plans: list[Plan]) -> int:
    """Take part in the job that the leader runs, without a directory, and return an exit code."""
    if not plans or plans[0].finished:
        return 0
    handler = logging.StreamHandler()
    handler.addFilter(concerns_this_rank)
    logging.basicConfig(format=f"rank {ranks.number()}: %(message)s", handlers=[handler])
    logging.captureWarnings(True)
    try:
        return exit_code(train(plans[0].config, Path(), plans[0].overrides, resume=plans[0].resume))
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


def run_hydra(arguments: list[str]) -> int:
    """Hand over to Hydra; return 1 if any job failed, 130 or 143 if a signal stopped one."""
    codes = [0]
    launcher = os.getpid()

    def job(composed: DictConfig) -> None:
        code = run_job(composed)
        codes.append(code)
        if code > 1:  # stopped by a signal: the jobs after it must not start
            raise SystemExit(code)
        if code and os.getpid() != launcher:  # a launcher with processes of its own: only exceptions travel
            raise RuntimeError("the job failed; its train.log has the traceback")

    before, sys.argv = sys.argv, ["trpo-train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here rather than being printed by Hydra
    try:
        hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error
    except SystemExit as stopped:
        return int(stopped.code or 0)
    finally:
        sys.argv = before
    return max(codes)


def run_job(composed: DictConfig) -> int:
    """Train one job in the directory that Hydra made for it and return its exit code."""
    settings: Any = HydraConfig.get()
    directory = Path(settings.runtime.output_dir)
    plan = plan_job(as_typed(composed, settings.overrides.task), directory, load_config)
    if plan.finished:
        print(f"{directory} holds a finished run: nothing to do")
        return 0
    try:
        summary = train(plan.config, directory, plan.overrides, resume=plan.resume)
    except Exception as error:
        log = directory / run_directory.LOG
        print(f"trpo-train: {type(error).__name__}: {first_line(error)} (traceback: {log})", file=sys.stderr)
        return 1
    return exit_code(summary)


def exit_code(summary: dict[str, Any]) -> int:
    """Return what a shell reports for the signal that stopped a run, and 0 for any other end."""
    reason = str(summary["exit_reason"])
    return 128 + signal.Signals[reason] if reason in signal.Signals.__members__ else 0
