"""Jobs under Hydra: how it is started, and what it starts for each."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trpo.commands.compose import CONFIGS, load_config, one_line, setting
from trpo.commands.plans import as_typed
from trpo.commands.resume import plan_job
from trpo.config import UserError, first_line
from trpo.console import console
from trpo.record import run_directory
from trpo.run import Watch, train
from trpo.system.signals import StopRequest
from trpo.system.streams import say


def run_here(arguments: list[str]) -> int:
    """Let Hydra run jobs one after the other; return the worst code of them, 128 and its number after a signal.

    A signal that comes when a run is over, by an error or by itself, waits until the job has said so: torchrun sends
    one as soon as another rank is gone. The jobs after it do not start.
    """
    codes = [0]

    def job(composed: DictConfig) -> None:
        with StopRequest() as stop:
            codes.append(run_job(composed))
        if stop.received:
            raise SystemExit(128 + stop.received)

    try:
        under_hydra(job, arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return max(codes)


def under_hydra(job: Callable[[DictConfig], None], arguments: list[str]) -> None:
    """Let Hydra call `job` for every job that the arguments ask for. Raises `UserError` for what it says of them."""
    before, sys.argv = sys.argv, ["trpo-train", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here rather than being printed by Hydra
    try:
        hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(one_line(error)) from error
    finally:
        sys.argv = before


def run_job(composed: DictConfig, watch: Watch | None = None) -> int:
    """Train one job in the directory that Hydra made for it and return its exit code."""
    settings: Any = HydraConfig.get()
    directory = Path(settings.runtime.output_dir)
    plan = plan_job(as_typed(composed, settings.overrides.task), directory, load_config)
    if plan.finished:
        say(f"{directory} holds a finished run: nothing to do", sys.stdout)
        return 0
    try:
        summary = train(plan.config, directory, plan.overrides, resume=plan.resume, watch=watch)
    except UserError as error:  # what no check before could know: another process has begun to write here
        say(f"trpo-train: {error}", sys.stderr)
        return 2
    except Exception as error:
        log = directory / run_directory.LOG
        say(f"trpo-train: {type(error).__name__}: {first_line(error)} (traceback: {log})", sys.stderr)
        return 1
    if code := exit_code(str(summary["exit_reason"])):
        console.info("saved; to go on: trpo-train %s", shlex.quote(setting("run.resume", directory)))
    return code


def exit_code(reason: str) -> int:
    """Return what a shell reports for the signal that stopped a run, and 0 for any other reason to end."""
    return 128 + signal.Signals[reason] if reason in signal.Signals.__members__ else 0
