"""Checkpoints: whole or not there, and nothing but data."""

import os
from pathlib import Path
from typing import Any

import torch

from trpo.config import UserError

FORMAT_VERSION = 1
BEST = "best.pt"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain data) so that `path` holds all of it or what it held before.

    A temporary file in the same directory, flushed to disk, then renamed.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save({"format_version": FORMAT_VERSION, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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


def save_numbered(directory: Path, state: dict[str, Any], *, env_steps: int, keep: int) -> None:
    """Write the checkpoint of `env_steps` and remove all but the newest `keep` numbered ones."""
    save(directory / f"step_{env_steps:012d}.pt", state)
    for old in numbered(directory)[:-keep]:
        old.unlink()


def numbered(directory: Path) -> list[Path]:
    """Return the numbered checkpoints, oldest first."""
    return sorted(directory.glob("step_*.pt"))


def newest(directory: Path) -> Path:
    """Return the newest numbered checkpoint. Raises `UserError` if there is none."""
    found = numbered(directory)
    if not found:
        raise UserError(f"{directory} holds no checkpoint yet")
    return found[-1]
