"""One key of the configuration: its default, its line of help, and the type and range of its values.

The command line, the error messages and `--help` speak from this one source. Standard library only.
"""

import dataclasses
import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

FINITE = "a finite number"
INTEGERS = "tuple[int, ...]"
TEXTS = "tuple[str, ...]"
LIST = "tuple[Any, ...]"
OPTIONAL = "float | None"
MAPPING = "dict[str, Any]"
TYPES = {
    "int": "a whole number",
    INTEGERS: "a list of whole numbers",
    TEXTS: "a list of texts",
    LIST: "a list",
    "float": FINITE,
    OPTIONAL: "a finite number or null",
    "bool": "true or false",
    "str": "a text",
    MAPPING: "a mapping",
}
LISTED: dict[Any, type] = {INTEGERS: int, TEXTS: str, LIST: object}  # of what


def key(
    default: Any,
    text: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field with its line of help and its allowed range."""
    metadata = {"text": text, "above": above, "at_least": at_least, "at_most": at_most, "choices": choices}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def settled(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a value in the form that its field stores: lists as tuples, whole numbers as integers."""
    if isinstance(value, list):  # what YAML and Hydra make of a tuple
        value = tuple(value)
    if field.type == "int":
        return whole(value)
    return tuple(whole(number) for number in value) if field.type == INTEGERS and isinstance(value, tuple) else value


def whole(value: Any) -> Any:
    """Return a number without a fraction, `1e6` say, as an integer, and anything else as it is."""
    if isinstance(value, bool):  # which Python takes for an integer
        return value
    return int(value) if isinstance(value, Integral) or (isinstance(value, float) and value.is_integer()) else value


def has_type(field: dataclasses.Field[Any], value: Any) -> bool:
    """Return whether a settled value is the list or the integer that its field declares; ranges tell other types."""
    if field.type in LISTED:
        kind = LISTED[field.type]
        return isinstance(value, tuple) and all(kind is object or type(one) is kind for one in value)
    return field.type != "int" or type(value) is int


def in_range(field: dataclasses.Field[Any], value: Any) -> bool:
    """Return whether one value lies in the range that its field declares; a NaN lies in none."""
    bounds = field.metadata
    if value is None:
        return field.type == OPTIONAL
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (bounds["above"] is None or value > bounds["above"])
        and (bounds["at_least"] is None or value >= bounds["at_least"])
        and (bounds["at_most"] is None or value <= bounds["at_most"])
        and (not bounds["choices"] or value in bounds["choices"])
    )


def describe(field: dataclasses.Field[Any]) -> str:
    """Return the type and the range of a field in words, for values of another type."""
    words, kind = describe_range(field), TYPES[str(field.type)]
    if field.metadata["choices"]:
        return words
    return kind if words == FINITE else f"{kind} {words}"


def describe_range(field: dataclasses.Field[Any]) -> str:
    """Return the range of a field in words, for messages and for `--help`."""
    bounds = field.metadata
    if bounds["choices"]:
        return "one of " + ", ".join(bounds["choices"])
    words = {"above": "above", "at_least": "at least", "at_most": "at most"}
    parts = [f"{words[name]} {bounds[name]:g}" for name in words if bounds[name] is not None]
    return " and ".join(parts) or FINITE


class UserError(Exception):
    """A mistake of the person at the keyboard: shown as one line, exit code 2, nothing started.

    >>> import trpo
    >>> try:
    ...     trpo.load("nowhere")
    ... except trpo.UserError as error:
    ...     print(error)
    there is no checkpoint nowhere
    """


def first_line(error: BaseException) -> str:
    """Return an exception as one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Section:
    """One group of keys; every value is checked when it is made, on the command line as in Python."""

    path: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = settled(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.metadata:
                self._check(field, value)

    def _check(self, field: dataclasses.Field[Any], value: Any) -> None:
        if not has_type(field, value):
            raise UserError(f"{dotted(self.path, field.name)} must be {describe(field)}, got {value!r}")
        for number in value if isinstance(value, tuple) else (value,):
            if not in_range(field, number):
                raise UserError(f"{dotted(self.path, field.name)} must be {describe_range(field)}, got {value!r}")


def dotted(*parts: str) -> str:
    """Return a key as it is typed on the command line."""
    return ".".join(part for part in parts if part)
