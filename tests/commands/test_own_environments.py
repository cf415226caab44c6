"""An environment in a file of the working directory is found by every command, in every process."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import summary

BIN = Path(sys.executable).parent
MODULE = """
import gymnasium
from gymnasium.envs.classic_control import PendulumEnv

gymnasium.register("Mine-v0", PendulumEnv, max_episode_steps=20)
"""
TINY = ("env.num_envs=2", "run.steps_per_iteration=16", "run.total_steps=16", "run.evaluation_episodes=1")


@pytest.fixture
def here(tmp_path):
    """A working directory with an environment, and with a file that is called like a module of the standard library."""
    (tmp_path / "my_env.py").write_text(MODULE)
    (tmp_path / "queue.py").write_text("raise RuntimeError('this is not the standard library')")
    return tmp_path


def ran(here, command, *arguments):
    """Run a console script, whose path does not begin with the working directory."""
    return subprocess.run([BIN / command, *arguments], cwd=here, capture_output=True, text=True)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_console_script_finds_it_and_is_not_misled_by_other_files(here, backend):
    arguments = ["env.id=my_env:Mine-v0", f"env.backend={backend}", *TINY, "hydra.run.dir=run"]
    ended = ran(here, "trpo-train", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert summary(here / "run")["exit_reason"] == "finished"
    evaluated = ran(here, "trpo-evaluate", "run", "--episodes", "1")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    assert "my_env:Mine-v0" in evaluated.stdout


def test_a_sweep_finds_it(here):
    ended = ran(here, "trpo-train", "-m", "env.id=my_env:Mine-v0", "seed=0,1", *TINY, "hydra.sweep.dir=sweep")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list((here / "sweep").glob("*/summary.json"))) == 2
