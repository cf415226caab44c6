"""Jobs side by side: as many as there are cores, each on a core of its own, each process a whole run."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, SimpleQueue

from learning.contest import PEER, Job, env_id, identity, training_arguments
from trpo.record.files import write_atomically

Command = list[str]
Waiting = SimpleQueue[tuple[Job, list[Command]]]
SCRIPTS = Path(__file__).parents[1]


def run_all(jobs: Iterable[Job], *, steps: int) -> int:
    """Train and score every job that has no scores yet; return how many failed.

    What was finished before is skipped, and a run of ours that was cut goes on from its checkpoint. Raises `ValueError`
    if what was finished had other overrides: two configurations of one name would be one row of the table.
    """
    waiting: Waiting = SimpleQueue()
    for job in jobs:
        if job.scores.exists():
            check_same_overrides(job)
        else:
            waiting.put((job, commands(job, steps)))  # here: EnvPool is asked for its spaces in one thread only
    failures: list[Job] = []
    workers = [threading.Thread(target=work, args=(core, waiting, failures)) for core in cores()]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(failures)


def check_same_overrides(job: Job) -> None:
    """Raise `ValueError` if the scores of a job are those of other overrides; older scores do not say."""
    overrides = json.loads(job.scores.read_text(encoding="utf-8")).get("overrides", list(job.overrides))
    if overrides != list(job.overrides):
        raise ValueError(f"{job.scores} is of {' '.join(overrides) or 'no overrides'}: choose another --name")


def cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def commands(job: Job, steps: int) -> list[Command]:
    """Return the modules to run with their arguments, one after the other; the last one prints the scores."""
    if job.contestant == PEER:
        return [["learning.peer", env_id(job.task), str(job.seed), str(steps)]]
    training = [] if finished(job) else [["trpo", *training_arguments(job)]]
    return [*training, ["learning.score", str(job.directory)]]


def work(core: int, waiting: Waiting, failures: list[Job]) -> None:
    """Do jobs on one core until none is left."""
    while True:
        try:
            job, own_commands = waiting.get_nowait()
        except Empty:
            return
        try:
            printed = [run(job, core, *command) for command in own_commands]
        except subprocess.CalledProcessError as error:
            failures.append(job)
            say(job, f"failed, exit code {error.returncode}: {last_line(job)}")
            continue
        scores = identity(job) | json.loads(printed[-1])
        write_atomically(job.scores, (json.dumps(scores) + "\n").encode())
        say(job, f"{scores['deterministic']:.1f} after {scores['env_steps']:,} steps, {scores['seconds']:.0f} s")


def finished(job: Job) -> bool:
    """Return whether a run of ours came to its end."""
    summary = job.directory / "summary.json"
    return summary.exists() and json.loads(summary.read_text(encoding="utf-8"))["exit_reason"] == "finished"


def run(job: Job, core: int, module: str, *arguments: str) -> str:
    """Return the last line that a Python process prints; what it says beside that is kept in `errors.log`."""
    job.directory.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    with errors_of(job).open("a", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=job.directory,  # MuJoCo leaves its log where it stands
        )
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, {core})
        output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, module)
    return output.strip().splitlines()[-1]


def errors_of(job: Job) -> Path:
    """Return where the errors of a job are kept: beside its directory, which must be fresh for a run."""
    return job.directory.with_suffix(".errors.log")


def last_line(job: Job) -> str:
    """Return the last line that a failed job left."""
    return (errors_of(job).read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"])[-1]


def say(job: Job, text: str) -> None:
    """Show how a job went."""
    print(f"{job.contestant} {job.task} seed {job.seed}: {text}", file=sys.stderr, flush=True)
