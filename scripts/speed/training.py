"""Sections on the training rate: every contestant is a command in a process of its own that prints one JSON line.

The line holds `steps` and `seconds`, or the command ends with another exit code than 0 and its last word becomes the
note of a row without values. To add a contestant is to add a name and a command.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from speed.rows import Options, Row
from trpo.commands.compose import compose_jobs, register_schema, to_config
from trpo.config import Config

HALFCHEETAH = "task=halfcheetah"
RATE = (sys.executable, str(Path(__file__).with_name("rate.py")))
TIMEOUT = 600  # seconds
RANK_SETTINGS: dict[str, tuple[str, ...]] = {
    "": (),  # the shipped task
    ", few critic steps": ("critic.minibatch_size=2048",),
    ", large batches": ("env.num_envs=64", "run.steps_per_iteration=16384", "critic.minibatch_size=4096"),
    ", large batches, EnvPool": (
        *("env.num_envs=64", "run.steps_per_iteration=16384", "critic.minibatch_size=4096"),
        "env.backend=envpool",
    ),
}

Command = tuple[str, ...]


class UnavailableError(Exception):
    """A contestant that cannot run here, and why."""


def shipped(*overrides: str) -> Config:
    """Return the configuration that the command line composes from these overrides."""
    register_schema()
    (job,) = compose_jobs(list(overrides), None, multirun=False)
    return to_config(job)


def training_section(options: Options) -> list[Row]:
    """Return env steps per second of training on HalfCheetah-v5, of this project, its peers and bare environments."""
    return race(quick_contestants() if options.quick else training_contestants(options.device.type), options)


def ranks_section(options: Options) -> list[Row]:
    """Return env steps per second of one rank on one core and of two ranks on two, in each of several settings."""
    iterations = ("--iterations", "1") if options.quick else ("--iterations", "10")
    contestants: dict[str, Command] = {}
    for name, overrides in RANK_SETTINGS.items():
        ours = (*RATE, "trpo", *iterations, HALFCHEETAH, *overrides)
        contestants[f"one rank on one core{name}"] = (*ours, "--ranks", "1", "--cores", "0")
        contestants[f"two ranks on two cores{name}"] = (*ours, "--ranks", "2", "--cores", "0,1")
    return race(contestants, options)


def quick_contestants() -> dict[str, Command]:
    """Return one contestant of this project and one bare environment, for a few seconds."""
    tiny = ("--iterations", "1", HALFCHEETAH, "run.steps_per_iteration=64")
    return {
        ours_name("sync", 1): (*RATE, "trpo", *tiny),
        bare_name("Gymnasium", 2, 1): (*RATE, "bare", "--backend", "gymnasium", "--envs", "2", "--steps", "64"),
    }


def training_contestants(device: str) -> dict[str, Command]:
    """Return every contestant of a full run."""
    envs = shipped(HALFCHEETAH).env.num_envs
    contestants: dict[str, Command] = {}
    for backend in ("sync", "async", "envpool"):
        for threads in (1, 2):
            overrides = (f"env.backend={backend}", f"run.threads={threads}", f"device={device}")
            contestants[ours_name(backend, threads)] = (*RATE, "trpo", HALFCHEETAH, *overrides)
    for threads in (1, 2):
        settings = ("surrogate=pathwise", "env.backend=envpool", f"run.threads={threads}", f"device={device}")
        pathwise = (*RATE, "trpo", "--iterations", "100", HALFCHEETAH, *settings)  # a quarter as many samples in each
        contestants[f"trpo, pathwise, envpool, {plural(envs, 'env')}, {plural(threads, 'thread')}"] = pathwise
    for count, iterations in ((1, 4), (8, 1), (envs, 1)):  # its default, what it is best at, and as many as we have
        for threads in (1, 2):
            size = ("--envs", str(count), "--threads", str(threads), "--iterations", str(iterations))
            contestants[sb3_name(count, threads)] = (*RATE, "sb3", *size, "--device", device)
    for backend, threads in (("processes", 2), ("envpool", 1), ("envpool", 2)):
        chosen = ("--envs", "16", "--backend", backend, "--threads", str(threads), "--device", device)
        contestants[tianshou_name(backend, threads)] = (*RATE, "tianshou", *chosen)
    contestants[bare_name("Gymnasium", envs, 1)] = (*RATE, "bare", "--backend", "gymnasium", "--envs", str(envs))
    for count, threads in ((envs, 1), (envs, 2)):
        pool = ("--backend", "envpool", "--envs", str(count), "--threads", str(threads))
        contestants[bare_name("EnvPool", count, threads)] = (*RATE, "bare", *pool)
    return contestants


def ours_name(backend: str, threads: int) -> str:
    """Return the name of a contestant of this project; the shipped task is marked."""
    config = shipped(HALFCHEETAH)
    mark = " (the shipped task)" if (backend, threads) == (config.env.backend, config.run.threads) else ""
    return f"trpo, {backend}, {plural(config.env.num_envs, 'env')}, {plural(threads, 'thread')}{mark}"


def sb3_name(envs: int, threads: int) -> str:
    """Return the name of sb3-contrib with so many environments and threads."""
    return f"sb3-contrib TRPO, {plural(envs, 'env')}, {plural(threads, 'thread')}"


def tianshou_name(backend: str, threads: int) -> str:
    """Return the name of tianshou as its example has it, on one of the backends that the example chooses from."""
    where = "EnvPool" if backend == "envpool" else "a process each"
    return f"tianshou TRPO, 16 envs ({where}), {plural(threads, 'thread')}"


def bare_name(backend: str, envs: int, threads: int) -> str:
    """Return the name of environments that nobody learns from."""
    return f"bare {backend}, {plural(envs, 'env')}, {plural(threads, 'thread')}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def race(contestants: dict[str, Command], options: Options) -> list[Row]:
    """Return a row for every contestant, taking turns; one that cannot run is asked once."""
    rows = {name: Row(name, {"environment": "HalfCheetah-v5"}, []) for name in contestants}
    for _ in range(options.repetitions):
        for name, command in contestants.items():
            row = rows[name]
            if row.note:
                continue
            try:
                report = run_contestant(command)
            except UnavailableError as error:
                row.note = f"not available: {error}"
            else:
                row.values.append(report["steps"] / report["seconds"])
                row.parts = report.get("parts", {})
    return list(rows.values())


def run_contestant(command: Command) -> dict[str, Any]:
    """Return the JSON line that a command printed last. Raises `UnavailableError` with its own words if it failed."""
    with tempfile.TemporaryDirectory() as folder:  # some leave files where they are
        ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder)
    if ended.returncode:
        raise UnavailableError(last_word(ended.stderr))
    report: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return report


def last_word(errors: str) -> str:
    """Return the line of an error output that says what went wrong: the project's own, or else the last."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    own = [line.removeprefix("trpo-train: ") for line in lines if line.startswith("trpo-train: ")]
    return re.sub(r" \(traceback: .*\)", "", (own or lines or ["no message"])[-1])
