"""What every job is going to do, and that it can: checked before anything is made."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trpo.commands.checks import check_can_start
from trpo.commands.compose import load_config, to_config
from trpo.commands.resume import AUTO, Composed, Plan, key_of, plan_job, state_before
from trpo.config import UserError, first_line
from trpo.console import console
from trpo.record import run_directory
from trpo.sampling.interface import Interface
from trpo.sampling.remarks import remarks
from trpo.system import ranks


def resumed_directory(overrides: list[str], *, multirun: bool = False) -> Path | None:
    """Return the run directory that `run.resume` names: it is where the run goes on, so Hydra must be told.

    Raises `UserError` if it is none, and for whoever seems to want that the run goes on elsewhere.
    """
    text = typed_text(overrides, "run.resume")
    if text in ("", AUTO):
        return None
    if multirun:
        raise UserError(f"run.resume={text} is one run: leave -m out, or go on with a sweep by run.resume=auto")
    directory = Path(text)
    run_directory.check_is_run(directory)
    other = typed_text(overrides, "hydra.run.dir")
    if other and Path(other).resolve() != directory.resolve():
        raise UserError(
            f"run.resume={text} goes on in {text} itself: leave hydra.run.dir={other} out, "
            f"or start a run there as its agent, with run.init_from={text}"
        )
    return directory


def typed_text(overrides: list[str], key: str) -> str:
    """Return what the last override of a key gives it, without quotes, or nothing: where none or several are given."""
    for line in reversed(overrides):
        if key_of(line) != key:
            continue
        try:
            override = OverridesParser.create().parse_override(line)
        except HydraException:  # of which composing makes a line
            return ""
        value = override.value()
        if value is None or override.is_sweep_override():
            return ""
        return value if isinstance(value, str) else line.partition("=")[2]  # a directory may be called 007 or 1e5
    return ""


def check_jobs(jobs: list[DictConfig], *, multirun: bool) -> list[Plan]:
    """Return the plan of every job.

    Raises `UserError` if any cannot start: range, device, environment, spaces, policy, directory, resumption, ranks.
    What else is to be known of their environments is said once all can.
    """
    if multirun and ranks.count() > 1:
        raise UserError("-m starts a process for each job: run it without torchrun, or one job at a time with it")
    plans: list[Plan] = []
    known: list[str] = []
    interfaces: dict[str, Interface] = {}
    taken: dict[Path, int] = {}
    for number, job in enumerate(jobs):
        directory = job_directory(job, number, jobs[0] if multirun else None)
        run_directory.check_path(directory)
        if taken.setdefault(directory.resolve(), number) != number:
            raise UserError(f"jobs {taken[directory.resolve()]} and {number} would share {directory}")
        check_is_found_again(job, multirun=multirun)
        plans.append(plan := plan_job(as_typed(job, job.hydra.overrides.task), directory, load_config))
        if plan.finished:
            continue
        check_ranks(plan, directory)
        met = repr(plan.config.env) in interfaces
        check_can_start(plan.config, interfaces, resume=plan.resume)
        known += [] if met else remarks(plan.config.env)
        check_directory = run_directory.check_can_be_made if plan.resume else run_directory.check_free
        check_directory(directory)
    for remark in known:
        console.info(remark)
    return plans


def check_is_found_again(job: DictConfig, *, multirun: bool) -> None:
    """Raise `UserError` if a job is to go on where the same line finds another directory at another time."""
    keys = ("hydra.sweep.dir", "hydra.sweep.subdir") if multirun else ("hydra.run.dir",)
    if job.run.resume == AUTO and (timed := [key for key in keys if has_time(job, key)]):
        raise UserError(
            f"run.resume=auto goes on in the directory that the line had before, and {timed[0]} has the time in it, "
            f"so it would start again; give {timed[0]}=DIR"
        )


def has_time(job: DictConfig, key: str) -> bool:
    """Return whether the time of composing is part of a value, by whatever interpolations it comes there."""
    probe = job.copy()
    OmegaConf.clear_cache(probe)
    OmegaConf.select(probe, key)
    return "now" in OmegaConf.get_cache(probe)


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
    state = state_before(directory)
    return ranks.count() if state is None else len(state["ranks"])


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
