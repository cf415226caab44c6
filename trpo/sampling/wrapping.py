"""`env.wrappers`: classes around every single environment, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from trpo.config import EnvConfig, UserError, first_line
from trpo.sampling.missing import missing_module, not_installed
from trpo.system.imports import named_object

FORMS = "module:Class or {wrapper: module:Class, argument: value}"
WRAPPED = ("sync", "async")  # backends that step single environments


def check_backend(config: EnvConfig) -> None:
    """Raise `UserError` if there are wrappers on a backend whose environments cannot be wrapped one by one."""
    if config.wrappers and config.backend not in WRAPPED:
        raise UserError(
            f"env.wrappers needs env.backend={' or '.join(WRAPPED)}: with {config.backend} there are no single "
            "environments to wrap"
        )


def wrapped(env: gymnasium.Env, wrappers: Sequence[Any]) -> gymnasium.Env:
    """Return an environment inside its wrappers, the first of them innermost.

    Raises `UserError` naming the entry that is wrong, and closes the environment then.
    """
    for number, entry in enumerate(wrappers):
        try:
            name, arguments = parsed(entry)
            env = wrapper_class(name)(env, **arguments)
        except Exception as error:
            env.close()
            raise UserError(f"env.wrappers[{number}], {entry}: {reason(error)}") from error
    return env


def parsed(entry: Any) -> tuple[str, dict[str, Any]]:
    """Return the class that an entry names and its arguments. Raises `UserError` if it has none of the forms.

    Besides `FORMS`, `{module.Class: {argument: value}}`, the form of RL Baselines3 Zoo.
    """
    name, arguments = entry, {}
    if isinstance(entry, Mapping) and "wrapper" in entry:
        arguments = {**entry}
        name = arguments.pop("wrapper")
    elif isinstance(entry, Mapping) and len(entry) == 1:
        ((name, arguments),) = entry.items()
    if not isinstance(name, str) or not isinstance(arguments, Mapping | None):
        raise UserError(f"an entry is {FORMS}")
    return name, {str(key): tuples(value) for key, value in (arguments or {}).items()}


def tuples(value: Any) -> Any:
    """Return lists as tuples, which YAML does not have and sizes must be."""
    return tuple(tuples(part) for part in value) if isinstance(value, list) else value


def wrapper_class(name: str) -> type[gymnasium.Wrapper]:
    """Return the class of a name, `module:Class` or `module.Class`. Raises `UserError` if it is no wrapper."""
    try:
        found = named_object(name, f"an entry is {FORMS}")
    except ModuleNotFoundError as error:
        module = name.rpartition(":" if ":" in name else ".")[0]
        raise UserError(not_installed(error.name or module, module)) from error
    if not (isinstance(found, type) and issubclass(found, gymnasium.Wrapper)):
        raise UserError(f"{found.__name__} is no gymnasium.Wrapper")
    return found


def reason(error: Exception) -> str:
    """Return in one line why a wrapper could not be put around an environment."""
    missing = None if isinstance(error, UserError) else missing_module(error)
    return not_installed(missing, "") if missing else first_line(error)
