"""Sweeps whose jobs Hydra's launchers run in processes of their own, on this machine or on others.

Such a process can tell the one that started it only that it failed, which would end the jobs beside it as well. So how
a job ended is read from its directory; and that a sweep is to stop stands in a file, for which every job looks before
it starts and after every iteration.
"""

import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from omegaconf import DictConfig

from trpo.commands.jobs import exit_code, run_job, under_hydra
from trpo.commands.resume import Plan
from trpo.config import UserError, first_line
from trpo.console import shown
from trpo.record import run_directory
from trpo.system.signals import StopRequest

STOP = ".stop"  # in the sweep's directory: the name of the signal that stops it


def has_processes(job: DictConfig) -> bool:
    """Return whether a job's launcher has processes of its own."""
    return str(job.hydra.launcher._target_) != f"{BasicLauncher.__module__}.{BasicLauncher.__qualname__}"


def run_elsewhere(arguments: list[str], plans: Sequence[Plan], sweep: Path) -> int:
    """Let Hydra launch jobs and wait for them; return 1 if any failed, 128 and its number if a signal stopped one."""
    stop = sweep / STOP
    stop.unlink(missing_ok=True)
    before = [summary_of(plan) for plan in plans]

    def job(composed: DictConfig) -> None:
        take_part(composed, stop)

    codes = [0]
    with StopRequest(told=partial(leave, stop)) as request:
        try:
            under_hydra(job, arguments)
            stop.unlink(missing_ok=True)  # every job is over; those of a launching process that dies still look for it
        except UserError:
            raise
        except Exception as error:  # a process was killed, a scheduler refused
            print(f"trpo-train: {type(error).__name__}: {first_line(error)}", file=sys.stderr)
            codes.append(1)
    codes += [code_of(plan, old) for plan, old in zip(plans, before, strict=True)]
    return max(codes if request.received is None else [*codes, 128 + request.received])


def leave(stop: Path, name: str) -> None:
    """Write down which signal stops the sweep."""
    stop.parent.mkdir(parents=True, exist_ok=True)
    stop.write_text(name)


def take_part(composed: DictConfig, stop: Path) -> None:
    """Run a job in a process of a launcher's, unless the sweep was stopped before."""
    between_jobs_signals_are_for_the_launching_process()
    if stop.exists():
        return
    with shown():
        code = run_job(composed, watch=lambda *_: stop.read_text() if stop.exists() else None)
    if code == exit_code("SIGUSR2") and callable(signal.getsignal(signal.SIGUSR2)):
        signal.raise_signal(signal.SIGUSR2)  # what is saved, submitit may put into Slurm's queue again


def between_jobs_signals_are_for_the_launching_process() -> None:
    """Ignore those that would end this process: joblib would kill the others as well, in the middle of their jobs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, signal.SIG_IGN)


def summary_of(plan: Plan) -> bytes | None:
    """Return what a job's directory says of how it ended, or None."""
    file = plan.directory / run_directory.SUMMARY
    return file.read_bytes() if file.exists() else None


def code_of(plan: Plan, before: bytes | None) -> int:
    """Return the exit code of a job that had this summary before; without a new one it failed, or never started."""
    if plan.finished:
        return 0
    if summary_of(plan) in (None, before):
        return 1
    return exit_code(run_directory.ended(plan.directory)[0])
