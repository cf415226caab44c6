"""A task file: what a configuration changes, for `--config-dir DIR task=NAME`, and what is wrong in one."""

from pathlib import Path
from typing import Any

import yaml

from trpo.record.files import write_atomically

YAMLError = yaml.YAMLError  # for rooms that read YAML by other libraries


def write_task(file: Path, changes: dict[str, Any], comment: str) -> None:
    """Write a nested mapping of keys as a task, with a comment of one line."""
    text = yaml.safe_dump(changes, sort_keys=False)
    write_atomically(file, f"# @package _global_\n# {comment}\n{text}".encode())


def mistake_in_yaml(error: yaml.YAMLError) -> str:
    """Return in one line what is wrong in a file of YAML, and where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:  # a character that no file of YAML may have: it says so, with the file, in two lines
        return " ".join(str(error).split())
    return f"{mark.name}, line {mark.line + 1}: {getattr(error, 'problem', None) or 'no YAML'}"
