"""Kill, starve and mislead real training runs, and check that nothing is lost and nothing wrong gets in.

    python scripts/torture.py                        # 50 kills, every fault: about fifteen minutes
    python scripts/torture.py --kills 2 --short      # about a minute

Prints a table of fault, expected and seen; exit code 1 if any differ.
"""

import argparse
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from faulty import FAULTS
from processes import finish, newest, parameters, rows, same_run, start

TINY = (
    "env.num_envs=2",
    "run.steps_per_iteration=64",
    "run.evaluation_episodes=0",
    "run.checkpoint_every=64",
    "policy.hidden_sizes=[8]",
    "critic.hidden_sizes=[8]",
)


class Result(NamedTuple):
    """One line of the table."""

    fault: str
    expected: str
    seen: str

    @property
    def held(self) -> bool:
        """Whether what was seen is what was expected."""
        return self.seen == self.expected


def main() -> int:
    """Run everything and print the table; return 1 if anything was not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="SIGKILLs of one run (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--short", action="store_true", help="a smaller run to kill, half of the faults")
    options = parser.parse_args()
    results: list[Result] = []

    def report(result: Result) -> None:
        results.append(result)
        print(
            f"{'ok ' if result.held else 'NOT'}  {result.fault:<44} expected: {result.expected:<46} seen: {result.seen}"
        )
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        task = ("task=cartpole", *TINY, "run.total_steps=60_000") if options.short else KILLED
        report(kills(base / "kill", task, options.kills, random.Random(options.seed)))
        report(terminated(base / "terminate", task))
        for check in (damaged_newest, payload, file_size_limit, missing_package, not_a_checkpoint_format):
            report(check(base / check.__name__))
        for fault in FAULTS[:: 2 if options.short else 1]:
            report(environment_fault(base / fault.replace(" ", "_"), fault))
    wrong = sum(not result.held for result in results)
    print(f"{len(results)} checks, {wrong} not as expected")
    return int(wrong > 0)


KILLED = ("task=hopper", "run.total_steps=600_000", "run.checkpoint_every=2_048", "run.evaluate_every=100_000")


def kills(base: Path, task: tuple[str, ...], count: int, moments: random.Random) -> Result:
    """SIGKILL one run again and again, resume it each time, and compare it with one that was left alone."""
    whole, killed = base / "whole", base / "killed"
    finish(*task, f"hydra.run.dir={whole}")
    done = 0
    while done < count:
        process = start(*task, f"hydra.run.dir={killed}", "run.resume=auto")
        try:
            process.wait(timeout=moments.uniform(1.0, 8.0))
            break  # it came to its end between two kills
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            done += 1
    code, errors = finish(*task, f"hydra.run.dir={killed}", "run.resume=auto")
    seen = same_run(whole, killed) if code == 0 else errors
    return Result(f"{done} SIGKILLs at random moments", "bit-identical", seen)


def terminated(base: Path, task: tuple[str, ...]) -> Result:
    """SIGTERM between two scheduled checkpoints, then resume."""
    whole, stopped = base.parent / "kill" / "whole", base / "stopped"
    rare = [*task, "run.checkpoint_every=0"]
    process = start(*rare, f"hydra.run.dir={stopped}")
    while not (stopped / "metrics.jsonl").exists() or len(rows(stopped)) < 4:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    code, errors = finish(f"run.resume={stopped}")
    seen = f"{process.returncode}, {same_run(whole, stopped) if code == 0 else errors}"
    return Result("SIGTERM between checkpoints", "143, bit-identical", seen)


def prepared(base: Path) -> Path:
    """Return the directory of a small run that a signal stopped half-way, with several checkpoints."""
    process = start("task=cartpole", *TINY, "run.total_steps=1_000_000", f"hydra.run.dir={base}")
    while len(list((base / "checkpoints").glob("step_*.pt"))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return base


def damaged_newest(base: Path) -> Result:
    """Cut the newest checkpoint in half: the one before it is used, and that is said."""
    directory = prepared(base)
    file = newest(directory)
    steps = int(file.stem.removeprefix("step_"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, _ = finish(f"run.resume={directory}", f"run.total_steps={steps + 640}")
    said = f"{file} cannot be read" in (directory / "train.log").read_text(encoding="utf-8")
    counts = [row["iteration"] for row in rows(directory)]
    whole = counts == list(range(1, len(counts) + 1))
    return Result(
        "newest checkpoint cut in half",
        "exit 0, reported, no gap",
        f"exit {code}, {describe(said, 'reported')}, {describe(whole, 'no gap')}",
    )


def payload(base: Path) -> Result:
    """Put a pickle that runs code in the place of every checkpoint."""
    directory, trace = prepared(base), base.parent / "payload_ran"

    class Payload:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return (Path.touch, (trace,))

    for file in (directory / "checkpoints").glob("*.pt"):
        with open(file, "wb") as handle:
            pickle.dump(Payload(), handle)
    code, _ = finish(f"run.resume={directory}")
    return Result(
        "checkpoints that run code",
        "refused, did not run",
        f"{describe(code != 0, 'refused')}, {describe(not trace.exists(), 'did not run')}",
    )


def not_a_checkpoint_format(base: Path) -> Result:
    """Write checkpoints of a format from the future."""
    directory = prepared(base)
    for file in (directory / "checkpoints").glob("*.pt"):
        state = torch.load(file, weights_only=True)
        torch.save({**state, "format_version": 999}, file)
    code, _ = finish(f"run.resume={directory}")
    named = "format 999" in (directory / "train.log").read_text(encoding="utf-8")
    return Result(
        "checkpoints of a later format",
        "refused, named",
        f"{describe(code != 0, 'refused')}, {describe(named, 'named')}",
    )


def file_size_limit(base: Path) -> Result:
    """Let no file grow beyond what a checkpoint needs, as on a full disk."""
    directory = prepared(base)
    before = {file.name: file.read_bytes() for file in (directory / "checkpoints").glob("*.pt")}
    code, errors = finish(f"run.resume={directory}", limit=2_000)
    after = {file.name: file.read_bytes() for file in (directory / "checkpoints").glob("*.pt")}
    one_line = len(errors.splitlines()) == 1
    return Result(
        "no room to write",
        "exit 1, one line, checkpoints intact",
        f"exit {code}, {describe(one_line, 'one line')}, {describe(before == after, 'checkpoints intact')}",
    )


def missing_package(base: Path) -> Result:
    """Ask for an environment whose package is not installed."""
    code, errors = finish("env.id=no_such_package:Thing-v0", f"hydra.run.dir={base}")
    named = "no_such_package" in errors and len(errors.splitlines()) == 1
    return Result(
        "package not installed",
        "exit 2, named, nothing made",
        f"exit {code}, {describe(named, 'named')}, {describe(not base.exists(), 'nothing made')}",
    )


def environment_fault(base: Path, fault: str) -> Result:
    """Run an environment that goes wrong in an iteration after the first checkpoints."""
    backend = ("env.backend=async", "env.timeout=3") if fault in ("hang", "die") else ()
    kwargs = f"+env.kwargs.fault='{fault}'"
    code, errors = finish("env.id=faulty:Faulty-v0", kwargs, *TINY, *backend, f"hydra.run.dir={base}")
    log = (base / "train.log").read_text(encoding="utf-8") if (base / "train.log").exists() else ""
    seen = [
        f"exit {code}",
        describe(len(errors.splitlines()) == 1, "one line"),
        describe("Traceback" in log, "traceback in the log"),
        describe(all(torch.isfinite(value).all() for value in parameters(base)), "state saved and finite"),
    ]
    return Result(fault, "exit 1, one line, traceback in the log, state saved and finite", ", ".join(seen))


def describe(condition: bool, words: str) -> str:
    """Return the words, or that they are not so."""
    return words if condition else f"NOT {words}"


if __name__ == "__main__":
    sys.exit(main())
