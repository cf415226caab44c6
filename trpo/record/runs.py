"""Run directories read back: whole ones, failed ones, unfinished ones, damaged ones."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from trpo.config import UserError, first_line
from trpo.record.run_directory import (
    CONFIG,
    FINISHED,
    LOG,
    METRICS,
    PROFILES,
    PRUNED,
    STOPPED,
    SUMMARY,
)

TIME = re.compile(r"\d{4}-\d\d-\d\d ")  # how a line of train.log begins
PROFILE = re.compile(r"step_\d+")  # what the file of a profile is called
DRAWN = {  # of a profile
    *("outcome", "max_kl", "fractions", "kl", "kl_quadratic", "kl_cubic", "improvement", "improvement_linear"),
    *("candidates", "cg_residuals"),
}

Rows = list[dict[str, Any]]


class Run(NamedTuple):
    """What one run left behind."""

    name: str  # unique among those read together
    config: dict[str, Any]  # key as typed to value
    rows: Rows  # of metrics.jsonl, up to the first damage
    summary: dict[str, Any]  # empty unless the run ended in order
    status: str  # finished, stopped, pruned, stopped by …, failed: …, unfinished
    warnings: list[str]
    profiles: list[dict[str, Any]]

    @property
    def whole(self) -> bool:
        """Whether the run came to its end, or learned enough before."""
        return self.status in (FINISHED, STOPPED)

    @property
    def env_steps(self) -> int:
        """How far the run came, in environment steps."""
        return int(self.rows[-1]["env_steps"]) if self.rows else 0

    @property
    def versions(self) -> dict[str, Any]:
        """With which versions the run was made; empty if it has not ended, or its summary does not say."""
        told = self.summary.get("versions")
        return told if isinstance(told, dict) else {}

    def final(self, tag: str) -> float | None:
        """Return the value of a tag after the last iteration, or None if it was not logged there.

        Of evaluations only one that the run ended with is final: those before are of earlier policies.
        """
        return self.rows[-1].get(tag) if self.rows else None

    def column(self, tag: str) -> tuple[list[float], list[float]]:
        """Return the environment steps and values of a tag, where it exists."""
        points = [(row["env_steps"], row[tag]) for row in self.rows if tag in row]
        return [x for x, _ in points], [y for _, y in points]

    def values(self, tag: str) -> list[float]:
        """Return the values of a tag, where it exists."""
        return self.column(tag)[1]


def find_runs(paths: Iterable[Path], warnings: list[str] | None = None) -> list[Run]:
    """Return every run at or below the paths, in the order of their names; who cannot be read is told in `warnings`.

    A run counts once, under the first of its names, however many lead to it. Raises `UserError` if there is none.
    """
    directories: dict[str, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no directory {path}")
        found = sorted(directories_of_runs(path))
        if not found:
            raise UserError(f"{path} holds no run: no directory in it has {CONFIG} and {METRICS} or {LOG}")
        for directory in found:
            directories.setdefault(os.path.realpath(directory), directory)
    runs, reasons = read_runs(directories.values())
    if not runs:
        raise UserError(reasons[0])
    if warnings is not None:
        warnings += [f"{reason}: left out" for reason in reasons]
    return runs


def directories_of_runs(path: Path) -> Iterator[Path]:
    """Yield the directory of every run at or below a path, behind links too, each once: links may go in circles."""
    seen = set()
    for name, below, files in os.walk(path, followlinks=True):
        place = os.path.realpath(name)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        if CONFIG in files and is_run(Path(name)):
            yield Path(name)
        links = {one for one in below if os.path.islink(os.path.join(name, one))}
        below[:] = [*sorted({*below} - links), *sorted(links)]  # what is there itself keeps its own name


def read_runs(directories: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in some directories, and why those that are missing among them cannot be read."""
    runs, reasons = [], []
    for directory in directories:
        try:
            runs.append(read_run(directory))
        except UserError as error:
            reasons.append(str(error))
    return runs, reasons


def is_run(directory: Path) -> bool:
    """Return whether a directory with a configuration is that of a run, be it one that failed before its first row."""
    return (directory / METRICS).exists() or (directory / LOG).exists()


def read_run(directory: Path) -> Run:
    """Return one run, as far as it can be read; whatever could not be is in `warnings`.

    Raises `UserError` if its configuration cannot be read or is no run's.
    """
    warnings: list[str] = []
    config = read_config(directory / CONFIG)
    summary = read_json(directory / SUMMARY, warnings) or {}
    return Run(
        name=str(directory),
        config=config,
        rows=read_rows(directory / METRICS, warnings),
        summary=summary,
        status=status_of(directory, summary),
        warnings=warnings,
        profiles=read_profiles(directory / PROFILES, warnings),
    )


def read_config(file: Path) -> dict[str, Any]:
    """Return a run's configuration, key as typed to value. Raises `UserError` if it is damaged or somebody else's."""
    try:
        config = dict(flatten(yaml.safe_load(file.read_text(encoding="utf-8"))))
    except (yaml.YAMLError, AttributeError, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged, so nothing is known of that run: {first_line(error)}") from error
    if not isinstance(config.get("env.id"), str) or not isinstance(config.get("seed"), int):
        raise UserError(f"{file} is no configuration of a run: it has no env.id or no seed")
    return config


def read_json(file: Path, warnings: list[str]) -> dict[str, Any] | None:
    """Return the object in a file, or None with a warning if it is damaged, or None if there is no file."""
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        warnings.append(f"{file} is damaged: left out")
        return None


def read_profiles(directory: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """Return the profiles in a directory with their names, in their order; what is none costs a warning."""
    profiles = []
    for file in sorted(directory.glob("*.json")):
        profile = read_json(file, warnings)
        if profile is not None and PROFILE.fullmatch(file.stem) and profile.keys() >= DRAWN:
            profiles.append(profile | {"name": file.stem})
        elif profile is not None:
            warnings.append(f"{file} is no profile of a step: left out")
    return profiles


def read_rows(file: Path, warnings: list[str]) -> Rows:
    """Return the rows of a metrics file up to the first line that is not one, with a warning if there is one."""
    rows: Rows = []
    lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows.append({**row, "env_steps": int(row["env_steps"])})
        except (ValueError, KeyError, TypeError, OverflowError):  # the last of steps without end
            where = f"is damaged at line {number}"
            if not line.endswith(b"\n"):
                where = f"ends within line {number}, so its run goes on or was killed"
            warnings.append(f"{file} {where}: read up to there")
            break
    return rows


def status_of(directory: Path, summary: dict[str, Any]) -> str:
    """Return how a run ended, or that it has not."""
    reason = summary.get("exit_reason")
    if reason is not None:
        return reason if reason in (FINISHED, STOPPED, PRUNED) else f"stopped by {reason}"
    log = directory / LOG
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    _, failed, after = text.rpartition("the run failed")
    if not failed or "the run starts" in after or "going on from" in after:  # the last is what earlier versions say
        return "unfinished"
    trace = list(itertools.takewhile(lambda line: not TIME.match(line), after.strip().splitlines()))
    return f"failed: {exception_in(trace) if trace else 'see train.log'}"


def exception_in(trace: Sequence[str]) -> str:
    """Return the line of a traceback that names the exception: the first without an indent after the last stack.

    Lines of its message may follow.
    """
    stacks = [number for number, line in enumerate(trace) if line.startswith("Traceback")]
    after = trace[stacks[-1] + 1 :] if stacks else trace
    return next((line for line in after if line[:1].strip()), trace[-1])


def flatten(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested configuration under dotted keys, mappings among them by the order of their names."""
    for name, value in tree.items():
        if isinstance(value, dict) and not name.endswith("kwargs"):
            yield from flatten(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", in_order(value)


def in_order(value: Any) -> Any:
    """Return a value in which entries of mappings have the order of their names, however they were typed."""
    if isinstance(value, dict):
        return {name: in_order(value[name]) for name in sorted(value, key=str)}
    return [in_order(part) for part in value] if isinstance(value, list) else value
