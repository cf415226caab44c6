"""Runs one after the other, each in a process of its own that has both cores, watched while its episodes end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from speed.machine import describe_machine
from speed.training import last_word

from minutes.contest import CONTESTANTS, OURS, TASKS, Run, arguments, episodes_file
from minutes.episodes import Course, Tail
from minutes.settings import settings_of

CORES = 2
SCRIPTS = Path(__file__).parents[1]
PATIENCE = 20  # seconds that a process has to end in, once it was asked to


def run_all(runs: Iterable[Run], output: Path, *, minutes: float) -> int:
    """Do every run and add its result to the file; return how many died."""
    keep_to_cores()
    output.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    for run in runs:
        try:
            result = measure(run, minutes)
        except subprocess.CalledProcessError as error:
            failures += 1
            say(run, f"died, exit code {error.returncode}: {last_word(error.stderr)}")
            continue
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        say(run, summary(result))
    return failures


def keep_to_cores() -> None:
    """Keep this process, and those that it starts, to as many cores as the table is about."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def measure(run: Run, minutes: float) -> dict[str, Any]:
    """Return the result of one run. Raises `CalledProcessError` with what a process said that died."""
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder, "errors.log")
        started = time.time()
        process = start(run, Path(folder), errors)
        course = Course(TASKS[run.task].thresholds, started=started, limit=60 * minutes)
        try:
            ended = follow(process, Tail(episodes_file(run, Path(folder))), course)
        finally:
            stop(process)
        if ended == "died":
            said = errors.read_text(encoding="utf-8", errors="replace")
            raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)
    return {**run._asdict(), "minutes": minutes, "ended": ended, **course.result(), **circumstances(run)}


def start(run: Run, folder: Path, errors: Path) -> subprocess.Popen[bytes]:
    """Start the process of a run; what it says of itself is kept in `errors`."""
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    with errors.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", CONTESTANTS[run.contestant].module, *arguments(run, folder)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            stderr=file,
            cwd=folder,  # MuJoCo leaves its log where it stands
        )


def follow(process: subprocess.Popen[bytes], tail: Tail, course: Course) -> str:
    """Look each second at what has ended, until the run is over; return in a word how it came to that."""
    while True:
        code = process.poll()  # before the file is read: what it wrote last is in there
        course.take(tail.rows())
        if course.complete:
            return "passed"
        if code is not None:
            return "died" if code else "finished"
        if time.time() - course.started > course.limit:
            return "time"
        try:
            process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, if need be without its consent."""
    process.terminate()
    try:
        process.wait(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def circumstances(run: Run) -> dict[str, Any]:
    """Return the machine, and what the contestant was run with."""
    machine = ", ".join(f"{name} {value}" for name, value in describe_machine(torch.device("cpu")).items())
    ours = run.contestant in OURS
    return {
        "machine": machine,
        "settings": CONTESTANTS[run.contestant].told if ours else settings_of(run.contestant, run.task),
    }


def summary(result: dict[str, Any]) -> str:
    """Return how a run went, in a line."""
    passed = [f"{int(one):,} after {at:.0f} s" for one, at in result["seconds"].items() if at is not None]
    mean = "no episode ended" if result["final_mean"] is None else f"at {result['final_mean']:,.0f}"
    return "; ".join([*passed, f"{mean} after {result['env_steps']:,} steps"])


def say(run: Run, text: str) -> None:
    """Show how a run went."""
    print(f"{run}: {text}", file=sys.stderr, flush=True)
