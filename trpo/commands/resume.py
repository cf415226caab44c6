"""What a job is going to do in its directory: start, go on, or nothing."""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trpo.config import Config, UserError
from trpo.keys import mapping_of
from trpo.record import checkpoint, run_directory

AUTO = "auto"
LENGTH = "run.total_steps"
GROUPS = ("task", "surrogate")  # of settings in files, each chosen by one word
# What may change when a run goes on: how long it is, what is recorded, where threads run. All else decides the numbers.
CHANGEABLE = (
    "env.pin",
    "env.evaluation_kwargs",
    "run.total_steps",
    "run.evaluate_every",
    "run.evaluation_episodes",
    "run.stop_at_return",
    "run.checkpoint_every",
    "run.keep_checkpoints",
    "run.fallback_directory",
    "run.resume",
    "record.progress",
    "record.profile_every",
    "record.dump_every",
    "record.info_keys",
    "record.wandb",
)


class Plan(NamedTuple):
    """What a job is going to do, and where."""

    directory: Path
    config: Config
    overrides: list[str]
    resume: bool  # whether the run that is in the directory goes on
    finished: bool  # whether there is nothing left to do


class Composed(NamedTuple):
    """A job as it was typed; checked only if it starts afresh, for a run that goes on has a configuration already."""

    overrides: list[str]
    select: Callable[[str], Any]  # key to value
    config: Callable[[], Config]  # the whole, or `UserError`


def plan_job(composed: Composed, directory: Path, load_config: Callable[[Path], Config]) -> Plan:
    """Return the plan for a job in its directory.

    A run that goes on keeps the configuration that it was started with. Overrides that repeat it are accepted,
    `CHANGEABLE` ones applied, all others refused with a `UserError`.
    """
    asked = composed.select("run.resume")
    if not asked or (asked == AUTO and not (directory / run_directory.CONFIG).exists()):
        config = changed(composed.config(), "run.resume", "")
        return Plan(directory, config, recorded(composed.overrides), resume=False, finished=False)
    run_directory.check_is_run(directory)
    stored = config = load_config(directory / run_directory.CONFIG)
    before = run_directory.read_overrides(directory)
    for line in composed.overrides:
        config = merged(config, composed, line, before)
    reason, steps = run_directory.ended(directory)
    finished = reason == run_directory.FINISHED and steps >= config.run.total_steps
    if finished and asked != AUTO:
        raise UserError(f"{directory} holds a finished run of {steps} steps; a larger run.total_steps makes it go on")
    meant = (run_directory.STOPPED, run_directory.CALLBACK, run_directory.PRUNED)
    finished |= reason in meant and asked == AUTO  # as it was meant to; who names it wants more
    if not finished and config.run.total_steps < stored.run.total_steps:
        check_leaves_steps(directory, config.run.total_steps)
    lines = recorded([*before, *composed.overrides])
    lines = [line for line in lines if key_of(line) != LENGTH] + lengths(directory, before, stored, config)
    return Plan(directory, config, lines, resume=True, finished=finished)


def merged(config: Config, composed: Composed, line: str, before: list[str]) -> Config:
    """Return the stored configuration with one typed override taken in, or raise `UserError`."""
    key = key_of(line)
    if key in GROUPS:
        if line not in before:
            raise UserError(f"{line}: the run was not started with this {key}, and a run keeps the one it has")
        return config
    if key == "run.resume":
        return config
    name = mapping_of(key) or key
    old, new = operator.attrgetter(name)(config), composed.select(name)
    if name in CHANGEABLE:
        return changed(config, name, new)
    if old != new:
        raise UserError(f"{key} decides the numbers, so a run that goes on keeps it: it is {old}, {new} was asked for")
    return config


def check_leaves_steps(directory: Path, asked: int) -> None:
    """Raise `UserError` if a run has done the steps that are asked for: it would end at once, and not be evaluated."""
    state = state_before(directory)
    if state is not None and asked <= state["env_steps"]:
        raise UserError(
            f"{directory} has done {state['env_steps']:,} steps already, and run.total_steps={asked} leaves none; "
            "give more, or leave it out to go on as the run was started"
        )


def state_before(directory: Path) -> dict[str, Any] | None:
    """Return the state from which a run would go on, or None if it would start again, or fail and say so then."""
    for file in reversed(checkpoint.numbered(directory / run_directory.CHECKPOINTS)):
        with suppress(UserError):
            return checkpoint.load(file)
    return None


def recorded(lines: list[str]) -> list[str]:
    """Return the overrides that would start such a run: the last line for each key, none that resumes."""
    latest = {key_of(line): line for line in lines}
    return [line for key, line in latest.items() if key != "run.resume"]


def lengths(directory: Path, before: list[str], stored: Config, config: Config) -> list[str]:
    """Return the lines of `run.total_steps` of a run that goes on: all that it was given, in their order.

    Steps that are done were annealed over the length of then: only who knows it can tell how the run was made. A run
    that would start again has no such steps.
    """
    given, now = lines_of(LENGTH, before), f"{LENGTH}={config.run.total_steps}"
    if config.run.total_steps == stored.run.total_steps:
        return given
    if state_before(directory) is None:
        return [now]
    return [*(given or [f"{LENGTH}={stored.run.total_steps}"]), now]


def lines_of(key: str, lines: Sequence[str]) -> list[str]:
    """Return the overrides that set a key."""
    return [line for line in lines if key_of(line) == key]


def key_of(line: str) -> str:
    """Return the key that an override sets."""
    return line.lstrip("+").split("=", 1)[0]


def changed(config: Config, key: str, value: Any) -> Config:
    """Return the configuration with one key of a section changed."""
    section, name = key.split(".")
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})
