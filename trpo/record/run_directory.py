"""The files of one run: who they are, what is in them, and that one directory holds one run."""

import fcntl
import json
import logging
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import yaml

from trpo.config import UserError, first_line
from trpo.record.files import write_atomically

CONFIG = "config.yaml"
OVERRIDES = "overrides.yaml"
METRICS = "metrics.jsonl"
SUMMARY = "summary.json"
LOG = "train.log"
CHECKPOINTS = "checkpoints"
FINISHED = "finished"  # the exit reason of a run that came to its end
STOPPED = "stopped"  # of one that learned enough before, as run.stop_at_return says
CALLBACK = "callback"  # of one that a function ended which was called after every iteration: nobody knows why
PRUNED = "pruned"  # of one that a search gave up: others learned more in as many steps
PROFILES = "profiles"
DUMPS = "dumps"
TRIAL = "trial_"  # of the directories of a search's runs, before the number


def check_free(directory: Path) -> None:
    """Raise `UserError` if the directory cannot be made, or holds a run already: nothing is ever overwritten."""
    check_path(directory)
    for name in (CONFIG, METRICS, SUMMARY, CHECKPOINTS):
        if (directory / name).exists():
            go_on = "run.resume=auto goes on with it, " if name == CONFIG else ""  # which makes it a run
            another = "another hydra.run.dir (with -m: hydra.sweep.dir) starts a new one"
            raise UserError(f"{directory} already holds a run ({name}); {go_on}{another}")
    check_can_be_made(directory)


def check_can_be_made(directory: Path) -> None:
    """Raise `UserError` if a run cannot be written to a directory; nothing of what is tried stays."""
    check_path(directory)
    path = directory.absolute()
    there = next(above for above in (path, *path.parents) if os.path.lexists(above))
    if not there.is_dir():  # a file, or a link to nothing
        raise UserError(f"{directory} cannot be made: {there} is not a directory")
    try:
        try_to_make(there, path.relative_to(there).parts)
    except OSError as error:
        raise UserError(f"{directory} cannot be made: no run can be written in {there} ({error.strerror})") from error


def try_to_make(there: Path, names: Sequence[str]) -> None:
    """Make directories of these names inside each other, and a file in the last, and remove them all again.

    What `os.access` says is no answer: as root it says yes of `/proc` and of what is mounted read-only. They are made
    in a directory of their own, never at their place: of jobs that start at the same moment, one must not remove
    what another one has found there.
    """
    with ExitStack() as made:
        path = Path(tempfile.mkdtemp(prefix=".trpo-", dir=there))
        made.callback(path.rmdir)
        for name in names:
            if name != os.pardir:  # which could lead out
                path = path / name
                path.mkdir()
                made.callback(path.rmdir)
        with tempfile.TemporaryFile(dir=path):
            pass


def check_path(path: Path) -> None:
    """Raise `UserError` if no directory could ever have this path, or it may not even be looked at."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # it can be made, or `check_can_be_made` says why not
    except (OSError, ValueError) as error:  # a component too long, links in a circle, no permission, a null byte
        raise UserError(f"{str(path)!r} cannot be a directory: {getattr(error, 'strerror', error)}") from error


def ended(directory: Path) -> tuple[str, int]:
    """Return the exit reason of the run in a directory and its environment steps, or ("", 0) if it has not ended."""
    try:
        summary = json.loads((directory / SUMMARY).read_text(encoding="utf-8"))
        return str(summary["exit_reason"]), int(summary["env_steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def read_overrides(directory: Path) -> list[str]:
    """Return the overrides that a run was started with."""
    file = directory / OVERRIDES
    if not file.exists():
        return []
    try:
        lines = yaml.safe_load(file.read_text(encoding="utf-8")) or []
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is damaged: {first_line(error)}") from error
    if not isinstance(lines, list):
        raise UserError(f"{file} is damaged: it holds no list")
    return [str(line) for line in lines]


def check_is_run(directory: Path) -> None:
    """Raise `UserError` if the directory is not that of a run."""
    check_path(directory)
    if not directory.is_dir():
        raise UserError(f"there is no directory {directory}")
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} is not a run directory: it has no {CONFIG}")


def write_config(directory: Path, config: dict[str, Any], overrides: list[str]) -> None:
    """Write the resolved configuration and the overrides that led to it."""
    write_atomically(directory / OVERRIDES, yaml.safe_dump(overrides).encode())
    write_atomically(directory / CONFIG, yaml.safe_dump(config, sort_keys=False).encode())  # last: it makes a run


def write_summary(directory: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`, with the versions that produced it."""
    write_json(directory / SUMMARY, {**summary, "git_commit": git_commit(), "versions": versions()})


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write data as readable JSON, making the directory where needed. Raises `ValueError` on NaN and infinity."""
    write_atomically(path, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def truncate(directory: Path, iterations: int) -> None:
    """Drop the summary and what `metrics.jsonl` holds beyond so many iterations: a resumed run writes them again.

    Damaged lines are dropped as well: whoever reads the file gets no further than the first.
    """
    (directory / SUMMARY).unlink(missing_ok=True)
    file = directory / METRICS
    if not file.exists():
        return
    lines = file.read_bytes().splitlines(keepends=True)
    kept = {number: line for line in lines if 0 < (number := iteration_of(line)) <= iterations}
    write_atomically(file, b"".join(kept.values()))


def iteration_of(line: bytes) -> int:
    """Return the iteration of a line of `metrics.jsonl`, or 0 for one that is damaged or was not written to its end."""
    try:
        return int(json.loads(line)["iteration"]) if line.endswith(b"\n") else 0
    except (ValueError, KeyError, TypeError):
        return 0


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other processes from writing this run meanwhile. Raises `UserError` if one is doing so already."""
    with open(directory / LOG, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{directory} is being written by another process") from error
        yield


@contextmanager
def log_file(directory: Path) -> Iterator[None]:
    """Send everything logged meanwhile to `train.log`, with times, and the traceback of what ended it.

    Its first line says that the run starts, whatever the levels are: what failed before has not failed now.
    """
    handler = logging.FileHandler(directory / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.handle(logging.LogRecord(__name__, logging.INFO, __file__, 0, "the run starts", None, None))
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    except Exception:
        logging.getLogger(__name__).exception("the run failed")
        raise
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def versions() -> dict[str, str]:
    """Return the versions of Python and of every package that decides the numbers."""
    packages = ["trpo", "torch", "numpy", "gymnasium", "mujoco", "hydra-core", "tensorboard"]
    packages += [name for name in ("envpool",) if any(distributions(name=name))]  # a folder is none
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def git_commit() -> str | None:
    """Return the commit of the source tree, with `-dirty` if it was changed, or None if git does not track it."""
    if not git("ls-files", Path(__file__).name):  # installed: the repository around it is somebody else's
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def git(*arguments: str) -> str | None:
    """Return what git says in the source's directory, or None."""
    try:
        answer = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
