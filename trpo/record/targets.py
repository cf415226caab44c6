"""Files and directories that a person named, looked at before the work whose outcome is to go there."""

from pathlib import Path

from trpo.config import UserError
from trpo.record.run_directory import check_can_be_made, check_path


def check_target(file: Path, *, force: bool) -> None:
    """Raise `UserError` if a file cannot be written, is a directory, or would be overwritten without `force`."""
    check_room(file.parent, str(file), file.with_name(f"{file.name}.tmp") if file.name else file)
    if file.is_dir():
        raise UserError(f"{file} is a directory")
    if file.exists() and not force:
        raise UserError(f"{file} exists already; --force overwrites it")


def check_room(directory: Path, named: str, temporary: Path | None = None) -> None:
    """Raise `UserError` if nothing can be written into a directory, by the name of what a person wants there."""
    try:
        check_path(temporary or directory)
        check_can_be_made(directory)
    except UserError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise UserError(f"{named} cannot be written: {reason}") from error
