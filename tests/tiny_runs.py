"""Tiny runs of the commands, and what they leave behind: shared by the tests of the command line and of the files."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from trpo.commands.compose import compose_jobs, register_schema, to_config
from trpo.commands.train import train
from trpo.models.agent import Agent
from trpo.record import checkpoint
from trpo.sampling.making import check_environment
from trpo.trainer import agent_for

TESTS = Path(__file__).parent
SCRIPTS = Path(sys.executable).parent

PATIENCE = 180  # seconds for what takes a few: the machine may be slow, and busy with more than this

# Two iterations of 32 steps after the 32 that warm the normalisers up.
TINY = (
    "env.num_envs=2",
    "run.total_steps=96",
    "run.steps_per_iteration=32",
    "run.evaluation_episodes=2",
    "policy.hidden_sizes=[8]",
    "critic.hidden_sizes=[8]",
    "critic.epochs=2",
    "critic.minibatch_size=16",
    "trust_region.anneal=0.0",  # so that what happens does not depend on how much will follow
)


def compose(*overrides):
    """The configuration of one job."""
    register_schema()
    (job,) = compose_jobs(list(overrides), None, multirun=False)
    return to_config(job)


def train_tiny(directory, *overrides, task="cartpole", flags=()):
    """The exit code of a tiny run into `directory`; later overrides win over TINY."""
    return train([*flags, f"task={task}", *TINY, *overrides, f"hydra.run.dir={directory}"])


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def has_rows(directory, count):
    """Whether a run that goes on has written so many rows; a part of the next one may be there."""
    return has_lines(directory / "metrics.jsonl", count)


def has_lines(file, count):
    return file.exists() and file.read_bytes().count(b"\n") >= count


def fingerprints(directory):
    return [row["fingerprint"] for row in rows(directory)]


def summary(directory):
    return json.loads((directory / "summary.json").read_text())


def checkpoints(directory):
    return sorted((directory / "checkpoints").glob("step_*.pt"))


def agent_of(config, file) -> Agent:
    """The agent that a checkpoint holds."""
    agent = agent_for(config, check_environment(config.env))
    agent.load_state_dict(checkpoint.load(file)["agent"])
    return agent


def everything_below(directory):
    return sorted(directory.rglob("*"))


def refusal(command, *arguments):
    """The one line with which a command refuses its arguments, exit code 2, nothing printed and nothing made."""
    before = everything_below(Path.cwd())
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            code = command(list(arguments))
        except SystemExit as exit_request:
            code = exit_request.code
    assert (code, output.getvalue()) == (2, "")
    assert everything_below(Path.cwd()) == before
    lines = errors.getvalue().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def environment_variables():
    """Those of a process that can import `broken`, and this very `trpo`."""
    path = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def process(*command, cwd, stdout=subprocess.PIPE):
    """A finished process of its own."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment_variables(),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )


def same_tensors(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)
