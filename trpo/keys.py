"""The configuration as flat keys, the way they are typed: `trust_region.max_kl`."""

import dataclasses
import difflib
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from trpo.config import Config, Section, UserError, dotted
from trpo.fields import MAPPING


def fields_by_key(section: type[Section] = Config, path: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Yield every key as it is typed, with its field."""
    for field in dataclasses.fields(section):
        if field.metadata:
            yield dotted(path, field.name), field
        else:
            yield from fields_by_key(field.default_factory, field.name)  # type: ignore[arg-type]


def flat(config: Config) -> dict[str, str | int | float | bool]:
    """Return every key with its value, as plain values that a table can hold."""
    values: dict[str, str | int | float | bool] = {}
    for name, _ in fields_by_key():
        value = operator.attrgetter(name)(config)
        values[name] = value if isinstance(value, str | int | float | bool) else str(value)
    return values


def differing(config: Section, default: Section) -> dict[str, Any]:
    """Return the keys whose values differ from those of another configuration, nested as in a task file."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, other = getattr(config, field.name), getattr(default, field.name)
        if isinstance(value, Section):
            value = differing(value, other)
            other = {}
        if value != other:
            changes[field.name] = list(value) if isinstance(value, tuple) else value
    return changes


def nested(values: Mapping[str, Any], section: type[Section] = Config) -> Any:
    """Return the configuration that `dataclasses.asdict` made a dictionary of; what it lacks takes its default.

    Raises `UserError` for what is no key of this version.
    """
    fields = {field.name: field for field in dataclasses.fields(section)}
    if unknown := values.keys() - fields.keys():
        raise UserError(f"unknown keys {', '.join(sorted(unknown))}: a configuration of another version")
    parts = {
        name: value if fields[name].metadata else nested(value, fields[name].default_factory)  # type: ignore[arg-type]
        for name, value in values.items()
    }
    return section(**parts)


def mapping_of(typed: str) -> str | None:
    """Return the key whose mapping has an entry that is called so, as `env.kwargs` has `env.kwargs.goal_velocity`."""
    mappings = (name for name, field in fields_by_key() if field.type == MAPPING)
    return next((name for name in mappings if typed.startswith(f"{name}.")), None)


def check_key(typed: str) -> None:
    """Raise a `UserError` with the nearest keys if `typed` is not a key of the configuration."""
    keys = [name for name, _ in fields_by_key()]
    if typed in keys or mapping_of(typed):
        return
    near = nearest(typed, keys)
    section = [name for name in keys if name.startswith(typed.split(".")[0] + ".")]
    hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(section) or 'a list in --help'}"
    raise UserError(f"unknown key {typed!r}; {hint}")


def nearest(typed: str, keys: list[str]) -> list[str]:
    """Return the keys that `typed` may mean: those called so in another section, or else those spelt alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    name = typed.rpartition(".")[2]
    same = [key for key in keys if last[key] == name]
    alike = difflib.get_close_matches(name, set(last.values()), n=1)
    return (
        difflib.get_close_matches(typed, same, n=3, cutoff=0)
        or difflib.get_close_matches(typed, keys, n=3)
        or [key for key in keys if last[key] in alike]
    )
