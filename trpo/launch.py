"""From overrides to running jobs; the only module that knows Hydra.

Hydra composes and launches, it does not guard: its callbacks swallow exceptions, its own errors exit 1, and it makes
directories first. So every job of a run or a sweep is composed and checked here before Hydra starts.
"""

import os
import re
import signal
import sys
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trpo.config import Config, UserError, first_line
from trpo.keys import check_key
from trpo.record import run_directory
from trpo.resume import AUTO, plan_job
from trpo.run import train
from trpo.sampling.making import check_environment
from trpo.train import resolve_device

PACKAGE_CONFIGS = Path(__file__).parent / "configs"  # in an installed wheel
SOURCE_CONFIGS = Path(__file__).parent.parent / "configs"  # in the repository
CONFIGS = PACKAGE_CONFIGS if PACKAGE_CONFIGS.is_dir() else SOURCE_CONFIGS
LONGEST_NAME = 100


def launch(arguments: list[str]) -> int:
    """Check every job that the arguments ask for, then let Hydra run them; return the worst exit code.

    Raises `UserError` before anything has been made if any one of them cannot start.
    """
    options = get_args_parser().parse_args(arguments)
    if options.experimental_rerun or options.config_path or options.config_name:
        raise UserError("--experimental-rerun, --config-path and --config-name are not supported")
    register_schema()
    if directory := resumed_directory(options.overrides):
        arguments = [*arguments, f"hydra.run.dir='{directory}'"]
        options.overrides.append(arguments[-1])
    if not (options.hydra_help or options.shell_completion):
        jobs = compose_jobs(options.overrides, options.config_dir, multirun=options.multirun)
        if not (options.cfg or options.info):
            check_jobs(jobs, multirun=options.multirun)
    return run_hydra(arguments)


def resumed_directory(overrides: list[str]) -> Path | None:
    """Return the run directory that `run.resume` names: it is where the run goes on, so Hydra must be told."""
    for override in reversed(overrides):
        name, _, value = override.partition("=")
        if name.lstrip("+") == "run.resume" and value.strip("'\"") not in ("", AUTO):
            directory = Path(value.strip("'\""))
            run_directory.check_is_run(directory)
            return directory
    return None


def register_schema() -> None:
    """Give Hydra the dataclasses of `config.py` and the resolver of directory names."""
    ConfigStore.instance().store(name="schema", node=make_schema())
    OmegaConf.register_new_resolver("slug", slug, replace=True)


def make_schema() -> DictConfig:
    """Return the dataclasses of `config.py` as a configuration that can be overridden."""
    schema: DictConfig = OmegaConf.structured(Config)
    make_writable(schema)
    return schema


def make_writable(node: DictConfig) -> None:
    """Lift the read-only flag that OmegaConf puts on frozen dataclasses, or nothing could be overridden."""
    OmegaConf.set_readonly(node, None)
    for name in node:
        if OmegaConf.is_dict(node[name]):
            make_writable(node[name])


def slug(text: str) -> str:
    """Return text as one safe part of a path: `ALE/Pong-v5` has a slash, override lists have commas."""
    return re.sub(r"[^\w.=+-]+", "-", str(text))[:LONGEST_NAME].strip("-") or "default"


def compose_jobs(overrides: list[str], config_dir: str | None, *, multirun: bool) -> list[DictConfig]:
    """Return the composed configuration of every job, `hydra` node included, or raise `UserError`."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        for override in parsed:
            check_override(override, multirun=multirun)
        jobs = BasicSweeper.split_arguments(parsed, None)[0] if multirun else [list(overrides)]
        search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="trpo"):
            return [hydra.compose("config", job + search, return_hydra_config=True) for job in jobs]
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error


def check_override(override: Override, *, multirun: bool) -> None:
    """Raise `UserError` if an override names neither a key of ours nor one of Hydra's."""
    name = override.key_or_group
    if override.is_delete():
        raise UserError(f"{override.input_line}: keys cannot be removed, only set")
    if override.is_sweep_override() and not multirun:
        raise UserError(f"{override.input_line} has several values: add -m for a sweep")
    if name != "task" and not re.match(r"hydra[./]|hydra$", name):
        check_key(name)


def one_line(error: BaseException) -> str:
    """Return Hydra's or OmegaConf's message in one line, with the key it is about and what went wrong with it."""
    if missing := re.search(r"Could not find 'task/(.*)'", str(error)):
        return f"there is no task {missing[1]!r}; tasks: {', '.join(tasks())}"
    if isinstance(error.__cause__, OmegaConfBaseException):
        return f"{first_line(error)}: {first_line(error.__cause__)}"
    return first_line(error)


def check_jobs(jobs: list[DictConfig], *, multirun: bool) -> None:
    """Raise `UserError` if any job cannot start: range, device, environment, spaces, directory, what it resumes."""
    seen: set[str] = set()
    for number, job in enumerate(jobs):
        directory = job_directory(job, number, of_sweep=multirun)
        plan = plan_job(to_config(job), list(job.hydra.overrides.task), directory, load_config)
        if plan.finished:
            continue
        resolve_device(plan.config)
        if (environment := repr(plan.config.env)) not in seen:
            check_environment(plan.config.env)
            seen.add(environment)
        if not plan.resume:
            run_directory.check_free(directory)


def job_directory(job: DictConfig, number: int, *, of_sweep: bool) -> Path:
    """Return the directory that Hydra is going to give to a job."""
    if not of_sweep:
        return Path(job.hydra.run.dir)
    with open_dict(job):
        job.hydra.job.num = number
    return Path(job.hydra.sweep.dir, job.hydra.sweep.subdir)


def to_config(composed: DictConfig) -> Config:
    """Return the typed configuration; its own checks raise `UserError`."""
    own = composed.copy()
    with open_dict(own):
        own.pop("hydra", None)
    try:
        config = OmegaConf.to_object(own)
    except OmegaConfBaseException as error:
        raise UserError(first_line(error)) from error
    assert isinstance(config, Config)
    return config


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
    finally:
        sys.argv = before
    return max(codes)


def run_job(composed: DictConfig) -> int:
    """Train one job in the directory that Hydra made for it and return its exit code."""
    settings = HydraConfig.get()
    directory = Path(settings.runtime.output_dir)
    plan = plan_job(to_config(composed), list(settings.overrides.task), directory, load_config)
    if plan.finished:
        print(f"{directory} holds a finished run: nothing to do")
        return 0
    try:
        summary = train(plan.config, directory, plan.overrides, resume=plan.resume)
    except Exception as error:
        log = directory / run_directory.LOG
        print(f"trpo-train: {type(error).__name__}: {first_line(error)} (traceback: {log})", file=sys.stderr)
        return 1
    reason = str(summary["exit_reason"])
    return 0 if reason == run_directory.FINISHED else 128 + signal.Signals[reason]


def tasks() -> dict[str, str]:
    """Return the shipped tasks and their environments."""
    files = sorted((CONFIGS / "task").glob("*.yaml"))
    return {file.stem: str(OmegaConf.load(file).env.id) for file in files}


def load_config(file: Path) -> Config:
    """Return the configuration that a run was made with. Raises `UserError` if it is damaged."""
    try:
        merged = OmegaConf.merge(make_schema(), OmegaConf.load(file))
    except Exception as error:
        raise UserError(f"{file} is not a configuration of this version: {first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return to_config(merged)
