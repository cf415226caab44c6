"""An environment in a file of the working directory is found by every command, in every process."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import process, summary

from trpo.system.imports import look_here_too

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


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_a_console_script_finds_it_and_is_not_misled_by_other_files(here, backend):
    arguments = ["env.id=my_env:Mine-v0", f"env.backend={backend}", *TINY, "hydra.run.dir=run"]
    ended = ran(here, "trpo-train", *arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert summary(here / "run")["exit_reason"] == "finished"
    evaluated = ran(here, "trpo-evaluate", "run", "--episodes", "1")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    assert "my_env:Mine-v0" in evaluated.stdout


@pytest.mark.slow
def test_a_sweep_finds_it(here):
    ended = ran(here, "trpo-train", "-m", "env.id=my_env:Mine-v0", "seed=0,1", *TINY, "hydra.sweep.dir=sweep")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(list((here / "sweep").glob("*/summary.json"))) == 2


START = """
import multiprocessing, sys
from trpo.commands.train import train
if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    sys.exit(train())
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_processes_of_async_environments_find_it_however_they_are_started(here, method):
    (here / "bin").mkdir()
    (here / "bin" / "start.py").write_text(START.format(method=method))
    arguments = ["env.id=my_env:Mine-v0", "env.backend=async", *TINY, "hydra.run.dir=run"]
    ended = process(sys.executable, here / "bin" / "start.py", *arguments, cwd=here)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert summary(here / "run")["exit_reason"] == "finished"


@pytest.mark.slow
def test_safe_paths_stay_safe(here, monkeypatch):
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    ended = process(BIN / "trpo-train", "env.id=my_env:Mine-v0", *TINY, cwd=here)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "my_env" in ended.stderr


def test_a_working_directory_that_is_gone_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    before = list(sys.path)
    look_here_too()
    assert sys.path == before
