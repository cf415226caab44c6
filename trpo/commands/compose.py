"""From overrides to typed configurations; with `launch`, the only module that knows Hydra."""

import functools
import re
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException, ValidationError

from trpo.commands.notation import not_readable, quoted
from trpo.commands.resume import GROUPS
from trpo.commands.schema import make_schema
from trpo.config import Config, UserError, first_line
from trpo.fields import describe
from trpo.keys import check_key, fields_by_key, mapping_of
from trpo.record.task_file import YAMLError, mistake_in_yaml

PACKAGE_CONFIGS = Path(__file__).parents[1] / "configs"  # in an installed wheel
SOURCE_CONFIGS = Path(__file__).parents[2] / "configs"  # in the repository
CONFIGS = PACKAGE_CONFIGS if PACKAGE_CONFIGS.is_dir() else SOURCE_CONFIGS
LONGEST_NAME = 100
LAUNCHERS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}  # and the extras they come with
SWEEPER = "hydra.sweeper.params"  # more jobs, beside those that are composed here
NOT_CHECKED = f"{SWEEPER} is not supported: what is swept is typed, as in -m seed=0,1"


def compose_jobs(overrides: list[str], config_dir: str | None, *, multirun: bool) -> list[DictConfig]:
    """Return the composed configuration of every job, `hydra` node included, or raise `UserError`."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        for override in parsed:
            check_override(override, multirun=multirun)
        jobs = BasicSweeper.split_arguments(parsed, None)[0] if multirun else [list(overrides)]
        if config_dir and not Path(config_dir).is_dir():
            raise UserError(f"--config-dir: there is no directory {config_dir}")
        search = [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"] if config_dir else []
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="trpo"):
            composed = [hydra.compose("config", job + search, return_hydra_config=True) for job in jobs]
    except (HydraException, OmegaConfBaseException, YAMLError, OSError, ValueError) as error:
        raise UserError(one_line(error)) from error
    if any(OmegaConf.select(job, SWEEPER) for job in composed):  # from a file
        raise UserError(NOT_CHECKED)
    return composed


def check_override(override: Override, *, multirun: bool) -> None:
    """Raise `UserError` if an override names neither a key of ours nor one of Hydra's."""
    name = override.key_or_group
    if override.is_delete():
        raise UserError(f"{override.input_line}: keys cannot be removed, only set")
    if override.is_sweep_override() and not multirun:
        raise UserError(f"{override.input_line} has several values: add -m for a sweep")
    if name == "run.resume" and override.is_sweep_override():
        raise UserError(f"{override.input_line}: runs go on one by one, and a sweep by run.resume=auto")
    if name.startswith(SWEEPER):
        raise UserError(NOT_CHECKED)
    if name in GROUPS and override.value() is None:
        raise UserError(f"{override.input_line}: leave it out, or choose one of {', '.join(choices(name))}")
    if name not in GROUPS and not re.match(r"hydra[./]|hydra$", name):
        check_key(name)


def one_line(error: BaseException) -> str:
    """Return Hydra's or OmegaConf's message in one line, with the key it is about and what went wrong with it."""
    if missing := re.search(rf"Could not find '({'|'.join(GROUPS)})/(.*)'", str(error)):
        return f"there is no {missing[1]} {missing[2]!r}; {missing[1]}s: {', '.join(choices(missing[1]))}"
    if isinstance(error, YAMLError):
        return mistake_in_yaml(error)
    if isinstance(error, OverrideParseException) and (words := mistyped(error)):
        return words
    if (new := re.match(r"Could not override '(.*?)'", str(error))) and (mapping := mapping_of(new[1])):
        return f"{mapping} has no {new[1].removeprefix(mapping + '.')!r} yet: +{new[1]}=VALUE adds it"
    launcher = re.search(r"Could not find 'hydra/launcher/(\w+)'", str(error))
    if launcher and launcher[1] in LAUNCHERS:
        return f"hydra/launcher={launcher[1]} is not installed: pip install 'trpo[{LAUNCHERS[launcher[1]]}]'"
    if isinstance(error, OmegaConfBaseException):
        return wrong_type(error) or first_line(error)
    reason = error.__cause__ or error.__context__
    if not isinstance(reason, OmegaConfBaseException):
        return first_line(error)
    if file := re.match("In '(.*?)': ", str(error)):
        return f"in {file[1]}: {one_line(reason)}"
    return wrong_type(reason) or f"{first_line(error)}: {first_line(reason)}"


def mistyped(error: OverrideParseException) -> str | None:
    """Return in words why the grammar of overrides cannot read one, if that is what is wrong with it."""
    return not_readable(error.override, str(error)) if "=" in error.override else not_an_override(error.override)


def not_an_override(text: str) -> str:
    """Return what a word without `=` may have been meant to be."""
    keys = [name for name, _ in fields_by_key()]
    meant = [f"{group}={text}" for group in GROUPS if text in choices(group)]
    meant += [f"{key}=VALUE" for key in (*GROUPS, *keys) if key == text]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    return f"{text!r} is not an override, which is KEY=VALUE without spaces around the sign{hint}"


def wrong_type(error: OmegaConfBaseException) -> str | None:
    """Return in words what a key takes, if a value was refused for its type."""
    field = dict(fields_by_key()).get(error.full_key or "") if isinstance(error, ValidationError) else None
    return f"{error.full_key} must be {describe(field)}, got {error.value!r}" if field else None


def to_config(composed: DictConfig) -> Config:
    """Return the typed configuration; its own checks raise `UserError`."""
    own = composed.copy()
    with open_dict(own):
        own.pop("hydra", None)
    try:
        config = OmegaConf.to_object(own)
    except OmegaConfBaseException as error:
        raise UserError(one_line(error)) from error
    assert isinstance(config, Config)
    return config


@functools.cache
def register_schema() -> None:
    """Give Hydra the dataclasses of the configuration and the resolver of directory names, once a process."""
    ConfigStore.instance().store(name="schema", node=make_schema())
    OmegaConf.register_new_resolver("slug", slug, replace=True)


def slug(text: str) -> str:
    """Return text as one safe part of a path: `ALE/Pong-v5` has a slash, override lists have commas."""
    return re.sub(r"[^\w.=+-]+", "-", str(text))[:LONGEST_NAME].strip("-") or "default"


def setting(key: str, directory: Path) -> str:
    """Return the override that sets a directory, in quotes if Hydra would else read more than a path."""
    path = str(directory)
    if re.fullmatch(r"[\w.=+-]*/[\w./=+-]*", path, re.ASCII):  # without a slash it may be a number
        return f"{key}={path}"
    return f"{key}={quoted(path)}"


def choices(group: str) -> list[str]:
    """Return what is shipped to choose from in a group."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def tasks() -> dict[str, str]:
    """Return the shipped tasks and their environments."""
    return {name: str(OmegaConf.load(CONFIGS / "task" / f"{name}.yaml").env.id) for name in choices("task")}


def load_config(file: Path) -> Config:
    """Return the configuration that a run was made with. Raises `UserError` if it is damaged."""
    try:
        merged = OmegaConf.merge(make_schema(), OmegaConf.load(file))
    except Exception as error:
        raise UserError(f"{file} is not a configuration of this version: {one_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return to_config(merged)
