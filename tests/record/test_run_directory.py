import datetime
import errno
import logging
import os
import platform
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from tiny_runs import everything_below, rows, summary, train_tiny

from trpo.config import UserError
from trpo.record import run_directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("directory") / "run"
    train_tiny(directory, "run.evaluate_every=32")
    return directory


def test_a_run_leaves_the_files_of_the_contract_and_no_others(run):
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    (events,) = [name for name in names if name.startswith("events.out.tfevents.")]
    assert names - {events} == {
        "config.yaml",
        "overrides.yaml",
        "metrics.jsonl",
        "checkpoints",
        "checkpoints/best.pt",
        "checkpoints/step_000000000096.pt",
        "summary.json",
        "train.log",
    }


def test_the_summary_is_that_of_the_run(run):
    told, last = summary(run), rows(run)[-1]
    assert set(told) == {
        "exact",
        "exit_reason",
        "iterations",
        "outcomes",
        "env_steps",
        "seconds",
        "steps_per_second",
        "final_evaluation",
        "best_evaluation",
        "best_training",
        "git_commit",
        "versions",
    }
    assert (told["exit_reason"], told["iterations"], told["env_steps"]) == ("finished", 2, 96)
    assert told["steps_per_second"] == pytest.approx(96 / told["seconds"])
    assert told["final_evaluation"] == {
        "env_steps": 96,
        "return_mean": last["evaluation/return_mean"],
        "return_std": last["evaluation/return_std"],
        "length_mean": last["evaluation/length_mean"],
        "episodes": last["evaluation/episodes"],
    }
    assert told["best_evaluation"]["return_mean"] == max(row["evaluation/return_mean"] for row in rows(run))


def test_the_summary_tells_the_versions_that_are_installed(run):
    told = summary(run)["versions"]
    assert told["python"] == platform.python_version()
    for package in ("torch", "numpy", "gymnasium", "mujoco", "trpo"):
        assert told[package] == version(package)
    assert ("envpool" in told) is (find_spec("envpool") is not None)


def test_the_summary_is_written_last(run):
    times = {
        path.name: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "train.log"
    }
    assert max(times, key=times.get) == "summary.json"


def test_the_log_has_times_and_how_the_run_began_and_ended(run):
    first, second, *_, last = (run / "train.log").read_text().splitlines()
    datetime.datetime.strptime(first[:19], "%Y-%m-%d %H:%M:%S")
    assert first.endswith("the run starts")
    assert "CartPole-v1" in second
    assert "evaluation: return" in last


@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_that_of_the_source_if_git_tracks_it(tracked, tmp_path, monkeypatch):
    source = tmp_path / "room" / "run_directory.py"
    source.parent.mkdir()
    source.write_text("")

    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    if tracked:
        git("add", ".")
    git("commit", "--allow-empty", "-m", "first")
    monkeypatch.setattr(run_directory, "__file__", str(source))
    assert run_directory.git_commit() == (git("rev-parse", "HEAD") if tracked else None)
    if tracked:
        source.write_text("changed")
        assert run_directory.git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_directory.git_commit() is None


def test_the_configuration_and_the_overrides_are_written_as_yaml(tmp_path):
    run_directory.write_config(tmp_path / "a" / "b", {"seed": 1, "sizes": (1, 2)}, ["seed=1", "task=x"])
    assert yaml.safe_load((tmp_path / "a" / "b" / "overrides.yaml").read_text()) == ["seed=1", "task=x"]
    assert re.match("seed: 1\n", (tmp_path / "a" / "b" / "config.yaml").read_text())


def test_an_empty_or_absent_directory_and_one_with_other_files_are_free(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_directory.check_free(tmp_path)
    run_directory.check_free(tmp_path / "absent")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "summary.json", "checkpoints"])
def test_any_file_of_a_run_makes_a_directory_taken(tmp_path, name):
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=name):
        run_directory.check_free(tmp_path)


@pytest.mark.parametrize("name", ["", "absent/below", "absent/../other", "absent/../../outside"])
def test_what_a_check_tries_is_gone_afterwards(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    run_directory.check_can_be_made(inside / name)
    assert everything_below(tmp_path) == [inside]


@pytest.mark.parametrize("room_for", range(4))
def test_a_check_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch, room_for):
    """A disk with room for so many directories, and for no file."""
    made, mkdir = [], os.mkdir

    def full(path, *arguments, **options):
        if len(made) == room_for:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mkdir(path, *arguments, **options)
        made.append(path)

    monkeypatch.setattr(os, "mkdir", full)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: full(dir))
    with pytest.raises(UserError, match="No space left"):
        run_directory.check_can_be_made(tmp_path / "run" / "below")
    assert len(made) == room_for
    assert everything_below(tmp_path) == []


def test_checks_at_the_same_moment_do_not_disturb_each_other(tmp_path):
    directories = [tmp_path / "runs" / "task" / str(number) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        checks = [pool.submit(run_directory.check_can_be_made, directory) for directory in directories * 50]
        for number, check in enumerate(checks):
            if number == 100:  # as a job that starts meanwhile
                directories[0].mkdir(parents=True)
            check.result()
    assert everything_below(tmp_path) == [tmp_path / "runs", tmp_path / "runs" / "task", directories[0]]


# What a crash can leave of three rows, and the iterations whose rows stay when the run goes on after the third.
REMAINS = {
    "whole": ("{0}{1}{2}", [1, 2, 3]),
    "rows after the checkpoint": ("{0}{1}{2}{3}", [1, 2, 3]),
    "half a row after it": ('{0}{1}{2}{{"iteration": 4, "env_', [1, 2, 3]),
    "half a row before it": ('{0}{1}{{"iteration": 3, "env_', [1, 2]),
    "a row without its end": ('{0}{1}{{"iteration": 3, "env_steps": 96}}', [1, 2]),
    "a row that is lost": ("{0}{1}{3}", [1, 2]),
    "zeros": ("{0}{1}\0\0\0\0\n{2}", [1, 2, 3]),
    "a row glued to half a row": ('{0}{1}{{"iteration": 3, {3}', [1, 2]),
    "a row twice": ("{0}{1}{1}{2}", [1, 2, 3]),
    "other lines": ('{0}17\n{{}}\n[]\n{{"iteration": null}}\n\n{1}{2}', [1, 2, 3]),
    "nothing": ("", []),
}


@pytest.mark.parametrize(("left", "kept"), REMAINS.values(), ids=REMAINS)
def test_of_the_rows_those_stay_that_are_whole_and_not_written_again(left, kept, tmp_path):
    lines = [f'{{"iteration": {number}, "env_steps": {32 * number}}}\n' for number in range(1, 5)]
    (tmp_path / "metrics.jsonl").write_text(left.format(*lines))
    run_directory.truncate(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(lines[number - 1] for number in kept)


def test_rows_are_on_disk_before_the_checkpoint_that_follows_them(tmp_path, monkeypatch):
    fsync, brought = os.fsync, []

    def watched(file):
        brought.append(Path(os.readlink(f"/proc/self/fd/{file}")).name)
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    train_tiny(tmp_path / "run", "run.checkpoint_every=32", "run.evaluation_episodes=0")
    saved = [number for number, name in enumerate(brought) if name.startswith("step_")]
    assert len(saved) == 2
    assert [brought[number - 1] for number in saved] == ["metrics.jsonl"] * 2


def test_an_error_is_logged_with_its_traceback_and_goes_on(tmp_path):
    def fail():
        with run_directory.log_file(tmp_path):
            logging.getLogger("somewhere").warning("before")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    log = (tmp_path / "train.log").read_text()
    assert "WARNING somewhere: before" in log
    assert "Traceback" in log
    assert "ZeroDivisionError" in log


def test_after_the_run_the_log_is_closed(tmp_path):
    with run_directory.log_file(tmp_path):
        pass
    logging.getLogger("somewhere").warning("after")
    assert "after" not in (tmp_path / "train.log").read_text()
