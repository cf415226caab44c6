"""From checked configurations to running jobs, under Hydra.

Hydra composes and launches, it does not guard: its callbacks swallow exceptions, its own errors exit 1, and it makes
directories first. So every job of a run or a sweep is composed and checked here before Hydra starts.
"""

import argparse
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trpo.commands.checks import check_can_start
from trpo.commands.compose import CONFIGS, compose_jobs, load_config, one_line, register_schema, to_config
from trpo.commands.exit_codes import refuse
from trpo.commands.resume import AUTO, Composed, Plan, plan_job
from trpo.config import UserError, first_line
from trpo.record import checkpoint, run_directory
from trpo.run import train
from trpo.sampling.interface import Interface
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


def resumed_directory(overrides: list[str]) -> Path | None:
    """Return the run directory that `run.resume` names: it is where the run goes on, so Hydra must be told."""
    for override in reversed(overrides):
        name, _, value = override.partition("=")
        if name.lstrip("+") == "run.resume" and value.strip("'\"") not in ("", AUTO):
            directory = Path(value.strip("'\""))
            run_directory.check_is_run(directory)
            return directory
    return None


def check_jobs(jobs: list[DictConfig], *, multirun: bool) -> list[Plan]:
    """Return the plan of every job.

    Raises `UserError` if any cannot start: range, device, environment, spaces, policy, directory, resumption, ranks.
    """
    if multirun and ranks.count() > 1:
        raise UserError("-m starts a process for each job: run it without torchrun, or one job at a time with it")
    plans: list[Plan] = []
    interfaces: dict[str, Interface] = {}
    taken: dict[Path, int] = {}
    for number, job in enumerate(jobs):
        directory = job_directory(job, number, jobs[0] if multirun else None)
        run_directory.check_path(directory)
        if taken.setdefault(directory.resolve(), number) != number:
            raise UserError(f"jobs {taken[directory.resolve()]} and {number} would share {directory}")
        plans.append(plan := plan_job(as_typed(job, job.hydra.overrides.task), directory, load_config))
        if plan.finished:
            continue
        check_ranks(plan, directory)
        check_can_start(plan.config, interfaces)
        check_directory = run_directory.check_can_be_made if plan.resume else run_directory.check_free
        check_directory(directory)
    return plans


def check_ranks(plan: Plan, directory: Path) -> None:
    """Raise `UserError` if a job cannot be shared among the ranks, or was among others."""
    config = plan.config
    before = ranks_before(directory) if plan.resume else ranks.count()
    if before != ranks.count():
        raise UserError(f"{directory} is a run of {before} rank(s), and a run keeps them; here are {ranks.count()}")
    if config.env.num_envs < ranks.count():
        raise UserError(f"env.num_envs={config.env.num_envs} is too few for {ranks.count()} ranks: each needs one")
    if config.record.dump_every and ranks.count() > 1:
        raise UserError("record.dump_every: no rank has the whole of an update; dump updates of one process")


def ranks_before(directory: Path) -> int:
    """Return on how many ranks a run was; without a checkpoint it starts again, on as many as there are."""
    for file in reversed(checkpoint.numbered(directory / run_directory.CHECKPOINTS)):
        with suppress(UserError):  # what cannot be read is reported when the run starts
            return len(checkpoint.load(file)["ranks"])
    return ranks.count()


def as_typed(job: DictConfig, overrides: ListConfig) -> Composed:
    """Return a composed job for `plan_job`, which knows no Hydra."""

    def select(key: str) -> Any:
        value = OmegaConf.select(job, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=True)
        return tuple(value) if isinstance(value, list) else value

    lines = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(lines, list)
    return Composed([str(line) for line in lines], select, lambda: to_config(job))


def job_directory(job: DictConfig, number: int, first: DictConfig | None) -> Path:
    """Return the directory that Hydra is going to give to a job; `first` is the first one of a sweep.

    The sweep's own directory has the time in it, which was another for each job that was composed here.
    """
    try:
        if first is None:
            return Path(job.hydra.run.dir)
        with open_dict(job):
            job.hydra.job.num = number
        return Path(first.hydra.sweep.dir, job.hydra.sweep.subdir)
    except OmegaConfBaseException as error:
        raise UserError(f"the directory of the run: {first_line(error)}") from error


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
