"""A task file: what a configuration changes, for `--config-dir DIR task=NAME`."""

from pathlib import Path
from typing import Any

import yaml

from trpo.record.files import write_atomically


def write_task(file: Path, changes: dict[str, Any], comment: str) -> None:
    """Write a nested mapping of keys as a task, with a comment of one line."""
    text = yaml.safe_dump(changes, sort_keys=False)
    write_atomically(file, f"# @package _global_\n# {comment}\n{text}".encode())
