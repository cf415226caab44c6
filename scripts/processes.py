"""Training processes to start, stop and compare, for torture.py."""

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

SCRIPTS = Path(__file__).parent


def start(*arguments: str, limit: int | None = None) -> subprocess.Popen[str]:
    """Start a training process; `limit` is the largest file in bytes that it may write."""

    def restrict() -> None:
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-m", "trpo", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restrict,
    )


def finish(*arguments: str, limit: int | None = None) -> tuple[int, str]:
    """Return the exit code and the errors of a training process."""
    process = start(*arguments, limit=limit)
    _, errors = process.communicate(timeout=900)
    return process.returncode, errors.strip()


def rows(directory: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run without what depends on the clock."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {tag: value for tag, value in json.loads(line).items() if not tag.startswith("time/") and tag != "wall_time"}
        for line in lines
    ]


def newest(directory: Path) -> Path:
    """Return the newest numbered checkpoint."""
    return sorted((directory / "checkpoints").glob("step_*.pt"))[-1]


def same_run(one: Path, other: Path) -> str:
    """Return "bit-identical", or what differs between two runs."""
    if rows(one) != rows(other):
        return "metrics differ"
    states = [torch.load(newest(directory), weights_only=True) for directory in (one, other)]
    for state in states:
        del state["seconds"], state["config"]  # the clock, and how often checkpoints are written
    buffers = [pickle.dumps(flatten(state)) for state in states]
    return "bit-identical" if buffers[0] == buffers[1] else "checkpoints differ"


def flatten(tree: Any) -> Any:
    """Return a nested state with tensors as lists."""
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return {str(key): flatten(value) for key, value in tree.items()}
    return [flatten(value) for value in tree] if isinstance(tree, list | tuple) else tree


def parameters(directory: Path) -> list[torch.Tensor]:
    """Return the agent's tensors in the newest checkpoint."""
    return list(torch.load(newest(directory), weights_only=True)["agent"].values())
