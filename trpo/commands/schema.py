"""The dataclasses of the configuration as the schema that everything composed is checked against."""

from typing import Any

from omegaconf import DictConfig, IntegerNode, OmegaConf

from trpo.config import Config
from trpo.fields import INTEGERS, whole
from trpo.keys import fields_by_key


class WholeNode(IntegerNode):
    """An integer that may be typed as a number without a fraction: `1e6` in an override, a file or an interpolation."""

    def _validate_and_convert_impl(self, value: Any) -> int:
        return super()._validate_and_convert_impl(whole(value))

    def __deepcopy__(self, memo: dict[int, Any]) -> "WholeNode":  # or OmegaConf's own, which makes an IntegerNode
        copied = WholeNode()
        self._deepcopy_impl(copied, memo)
        return copied


def make_schema() -> DictConfig:
    """Return the dataclasses of the configuration as one that can be overridden."""
    schema: DictConfig = OmegaConf.structured(Config)
    make_writable(schema)
    for name, field in fields_by_key():
        accept_whole_floats(schema, name, str(field.type))
    return schema


def make_writable(node: DictConfig) -> None:
    """Lift the read-only flag that OmegaConf puts on frozen dataclasses, or nothing could be overridden."""
    OmegaConf.set_readonly(node, None)
    for name in node:
        if OmegaConf.is_dict(node[name]):
            make_writable(node[name])


def accept_whole_floats(schema: DictConfig, key: str, declared: str) -> None:
    """Let a key of integers take whole floats, which OmegaConf refuses."""
    section, _, name = key.rpartition(".")
    parent = OmegaConf.select(schema, section) if section else schema
    if declared == "int":
        parent[name] = WholeNode(parent[name], is_optional=False)
    elif declared == INTEGERS:  # their nodes are made anew with every list: the dataclass converts and checks them
        numbers: Any = parent._get_node(name)
        numbers._metadata.element_type = Any
