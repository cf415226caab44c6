"""Checkpoints: whole or not there, and nothing but data."""

import io
import logging
from pathlib import Path
from typing import Any

import torch

from trpo.config import UserError
from trpo.record import run_directory
from trpo.record.files import write_atomically

log = logging.getLogger(__name__)

FORMAT_VERSION = 2  # 1 had neither the promise of the last step nor action values
BEST = "best.pt"  # by evaluations
BEST_TRAINING = "best_training.pt"  # by the episodes of training; enough to act


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data), whole or not at all. Raises `OSError` if it cannot be written."""
    buffer = io.BytesIO()  # torch turns an OSError of its own writes into something else
    torch.save({"format_version": FORMAT_VERSION, **state}, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint, on the CPU. Code in the file is refused, never run.

    Raises `UserError` if it is missing, damaged, no checkpoint, or of a later format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is damaged, or not one ({type(error).__name__})"
        ) from error
    version = state.get("format_version") if isinstance(state, dict) else None
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, this version of trpo reads up to {FORMAT_VERSION}")
    return state  # type: ignore[no-any-return]


def read(path: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest checkpoint of a run directory, or the one that a path names, and its state.

    Raises `UserError` if there is none.
    """
    if not path.is_dir():
        return path, load(path)
    run_directory.check_is_run(path)
    return newest(path / run_directory.CHECKPOINTS)


def numbered_name(env_steps: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort by steps."""
    return f"step_{env_steps:012d}.pt"


def numbered(directory: Path) -> list[Path]:
    """Return the numbered checkpoints, oldest first."""
    return sorted(directory.glob("step_*.pt"))


def remove_oldest(directory: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` numbered checkpoints."""
    for old in numbered(directory)[:-keep]:
        old.unlink()


def set_aside(directory: Path, newest: Path) -> None:
    """Rename the numbered checkpoints after `newest`, which could not be read, so that none passes for the newest."""
    for path in numbered(directory):
        if path > newest:
            path.rename(path.with_name(path.name + ".damaged"))


def newest(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the newest numbered checkpoint that can be read, and its state. Raises `UserError` if there is none."""
    found = newest_readable(directory)
    if found is None:
        raise UserError(f"{directory} holds no checkpoint yet")
    return found


def newest_readable(directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest numbered checkpoint that can be read, and its state; damaged ones are reported and passed.

    None if there is none yet. Raises `UserError` if there are some and all are damaged.
    """
    found = numbered(directory)
    if not found:
        return None
    for path in reversed(found):
        try:
            return path, load(path)
        except UserError as error:
            log.warning("%s; the one before it is used", error)
    raise UserError(f"{directory} holds no checkpoint that can be read")
