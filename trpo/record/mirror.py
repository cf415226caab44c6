"""Weights & Biases: it reads along what goes into the event file, figures and all."""

import secrets
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from trpo.config import UserError, first_line

PLACE = "wandb"  # in the run directory, where it writes as well


def check_installed() -> None:
    """Raise `UserError` if Weights & Biases is not installed."""
    if not any(distributions(name="wandb")):  # a folder of that name is none
        raise UserError("record.wandb needs wandb: pip install 'trpo[wandb]'")


def start(directory: Path, project: str, hyperparameters: Mapping[str, Any]) -> Any:
    """Return a run of Weights & Biases that mirrors event files opened from now on, until its `finish` is called.

    It is that of the run directory, so a run that goes on goes on there too. Raises `UserError` without a login.
    """
    import wandb

    (directory / PLACE).mkdir(exist_ok=True)
    try:
        return wandb.init(
            project=project,
            name=directory.resolve().name,
            id=id_of(directory / PLACE / "id"),
            resume="allow",
            dir=str(directory),
            config=dict(hyperparameters),
            sync_tensorboard=True,
            settings=wandb.Settings(console="off"),  # what is printed is in train.log
        )
    except wandb.errors.UsageError as error:
        raise UserError(f"record.wandb={project}: {first_line(error)} WANDB_MODE=offline needs no login") from error


def id_of(file: Path) -> str:
    """Return what is in a file, or else write it: an id that is nobody else's."""
    if not file.exists():
        file.write_text(secrets.token_hex(8))
    return file.read_text().strip()
