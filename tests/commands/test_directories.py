"""Directories that cannot be made are found out before anything starts, and leave nothing behind."""

import errno
import os
from pathlib import Path

import pytest
from tiny_runs import everything_below, refusal, train_tiny

from trpo.commands.evaluate import evaluate
from trpo.commands.train import train

TOO_LONG = "x" * 300


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory with a file, a link to nothing and a link to itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("nothing")
    (tmp_path / "circle").symlink_to("circle")
    return tmp_path


# A directory that cannot be made, and what of it the one line must name. Of /proc and /sys, `os.access` says to root
# that they can be written.
IMPOSSIBLE = [
    ("/proc/none", "/proc"),
    ("/proc/none/below", "/proc"),
    ("/proc", "/proc"),
    ("/sys/none", "/sys"),
    ("file", "file is not a directory"),
    ("file/below/further", "file is not a directory"),
    ("link", "link is not a directory"),
    ("link/below", "link is not a directory"),
    ("circle/below", "circle"),
    (TOO_LONG, "too long"),
    (f"absent/{TOO_LONG}/below", "too long"),
    ("a" + "/absent" * 1000, "too long"),
    ("null\0byte", "null"),
]


def name_of(value):
    return repr(value)[1:-1][:30]


@pytest.mark.parametrize(("directory", "said"), IMPOSSIBLE, ids=name_of)
@pytest.mark.parametrize("resume", ["", "auto"])
def test_a_run_is_refused_whose_directory_cannot_be_made(directory, said, resume):
    line = refusal(train, "task=cartpole", f"hydra.run.dir='{directory}'", f"run.resume={resume}")
    assert said in line


@pytest.mark.parametrize(("directory", "said"), IMPOSSIBLE, ids=name_of)
def test_a_sweep_is_refused_whose_directory_cannot_be_made(directory, said):
    assert said in refusal(train, "-m", "task=cartpole", "seed=0,1", f"hydra.sweep.dir='{directory}'")


@pytest.mark.parametrize("directory", [directory for directory, _ in IMPOSSIBLE], ids=name_of)
def test_a_run_is_refused_whose_fallback_cannot_be_made(directory):
    line = refusal(train, "task=cartpole", "hydra.run.dir=run", f"run.fallback_directory='{directory}'")
    assert f"run.fallback_directory={directory} cannot be written: " in line


def test_one_job_that_has_no_directory_refuses_the_sweep(elsewhere):
    (elsewhere / "sweep").mkdir()
    (elsewhere / "sweep" / "1").touch()
    line = refusal(
        train, "-m", "task=cartpole", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}"
    )
    assert "sweep/1 is not a directory" in line


@pytest.mark.parametrize("directory", [TOO_LONG, "circle/below", "null\0byte"], ids=name_of)
def test_what_can_be_no_directory_is_no_run_either(directory):
    for command, argument in ((train, f"run.resume='{directory}'"), (evaluate, directory)):
        assert "cannot be a directory" in refusal(command, argument)


@pytest.mark.parametrize(
    "directory", ["empty", "empty/inner", "empty/inner/absent", "absent/below", "absent/../other", "absent/../../out"]
)
def test_the_check_makes_nothing_and_keeps_empty_directories_of_before(elsewhere, directory):
    (elsewhere / "empty" / "inner").mkdir(parents=True)
    before = everything_below(elsewhere.parent)
    sweep = ["-m", "task=cartpole", f"hydra.sweep.dir={directory}", "device=cpu,abacus"]  # whose second job is refused
    assert "abacus" in refusal(train, *sweep)
    assert everything_below(elsewhere.parent) == before


def test_a_run_that_goes_on_needs_a_directory_that_can_be_written(elsewhere, monkeypatch):
    assert train_tiny("run", "run.total_steps=64", "run.evaluation_episodes=0") == 0
    forbid(monkeypatch, "run")
    assert "run cannot be made" in refusal(train, "run.resume=run", "run.total_steps=96")
    assert train_tiny("run", "run.total_steps=64", "run.evaluation_episodes=0", "run.resume=auto") == 0  # is finished


def forbid(monkeypatch, name):
    """Let nothing be made in directories of this name, which permissions do not achieve for root."""
    mkdir = os.mkdir

    def refusing(path, *arguments, **options):
        if Path(path).parent.name == name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refusing)


def test_a_disk_that_was_full_only_when_hydra_came_is_one_line_and_a_failure(elsewhere, monkeypatch, capsys):
    forbid(monkeypatch, "full")
    monkeypatch.setattr("trpo.record.run_directory.check_can_be_made", lambda directory: None)
    (elsewhere / "full").mkdir()
    assert train_tiny("full/run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trpo-train: ")
    assert "full/run" in line
