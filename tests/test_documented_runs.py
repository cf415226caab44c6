"""Every command that README.md and docs/ tell people to type is run, made short, or it says here why not."""

import sys

import pytest
from pages import ROOT, blocks
from tiny_runs import TINY, process, train_tiny
from typed import words_of

from trpo.commands.card import card
from trpo.commands.evaluate import evaluate
from trpo.commands.export import export
from trpo.commands.report import report
from trpo.commands.train import train

# How a line begins that tests/test_documentation.py checks but nobody runs here, and why.
ONLY_CHECKED = {
    "make": "sets up an environment, or runs what runs this",
    "source": "of the environment that make has set up",
    "pip": "installs",
    "eval": "tests/commands/test_completion.py has a shell",
    "torchrun": "tests/system/test_ranks_processes.py runs it",
    "trpo-evaluate RUN_DIR --render": "needs a screen",
    "trpo-train -m hydra/launcher=submitit_slurm": "needs Slurm",
    "trpo-search": "tests/commands/test_search.py has shorter ones",
    "hf": "uploads",
    "python scripts/symptoms.py": "minutes",
    "python scripts/benchmark": "an hour; tests/scripts has its parts",
    "python scripts/promise_and_fact.py": "an hour",
    "python scripts/torture.py": "a quarter of an hour",
    "python scripts/two_hosts.py": "needs to be root",
}
THROUGH_VALUES = ("action_values.warm_up=0", "action_values.minibatches=2", "action_values.minibatch_size=8")


def typed_lines():
    """Every line of every block of commands, as parameters that are named by their page."""
    for block in blocks("sh"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            text = " ".join(line.split("   #")[0].split())
            yield pytest.param(line, id=f"{block.id.split(':')[0]}: {text}")


def only_checked(line):
    return any(line.startswith(beginning) for beginning in ONLY_CHECKED)


RUN_HERE = [line for line in typed_lines() if not only_checked(line.values[0])]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A tiny run with dumps, to be evaluated, reported and gone on with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    whole_episodes = ("run.total_steps=1024", "run.steps_per_iteration=512", "env.max_episode_steps=20")
    assert train_tiny(tmp_path / "run", *whole_episodes, "record.dump_every=1", task="pendulum") == 0
    return tmp_path / "run"


def shortened(arguments):
    """The arguments of trpo-train with others behind them that win."""
    if "--help" in arguments:
        return arguments
    if any(argument.startswith("run.resume=/") for argument in arguments):
        return [*arguments, "run.total_steps=1536"]  # all else decides the numbers
    pathwise = THROUGH_VALUES if "surrogate=pathwise" in arguments else ()
    return [*arguments, *TINY, "run.evaluation_episodes=0", *pathwise]


def ran(words):
    """The exit code of a command, made short."""
    program, *arguments = words
    if program == "python":
        return process(sys.executable, ROOT / arguments[0], *arguments[1:], cwd=".").returncode
    if program == "trpo-evaluate":
        return evaluate([*arguments, "--episodes", "1"])
    others = {"trpo-report": report, "trpo-export": export, "trpo-card": card}
    return others[program](arguments) if program in others else train(shortened(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN_HERE)
def test_a_command_of_the_pages_runs(line, run):
    words = list(words_of(line, run))
    assert words, "a line without a command"
    assert ran(words) == 0


def test_every_exception_is_needed_and_most_commands_are_run():
    lines = [line.values[0] for line in typed_lines()]
    for beginning in ONLY_CHECKED:
        assert any(line.startswith(beginning) for line in lines), beginning
    assert len(RUN_HERE) > len(lines) / 2
    assert {line.values[0].split()[0] for line in RUN_HERE} == {
        *("trpo-train", "trpo-evaluate", "trpo-report", "trpo-export", "trpo-card", "python")
    }
