"""Files that are damaged, disks that are full, environments that misbehave: told in one line, nothing lost."""

import errno
import os
import pickle
import re
import shutil
from pathlib import Path

import faulty
import pytest
import torch
from tiny_runs import TINY, checkpoints, fingerprints, rows, train_tiny

from trpo.commands.train import train
from trpo.record import checkpoint, run_directory
from trpo.record.logger import Logger
from trpo.trainer import Trainer

# Four iterations after the warm-up, a checkpoint after each.
FOUR = ("run.total_steps=160", "run.checkpoint_every=32", "run.keep_checkpoints=99", "run.evaluation_episodes=0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    assert train_tiny(directory, *FOUR) == 0
    return directory


@pytest.fixture
def run(whole, tmp_path):
    """A copy of a run that was killed after its last checkpoint."""
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    return tmp_path / "run"


def resume(run, *overrides):
    return train([f"run.resume={run}", *overrides])


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.glob("*.pt")}


# Damaged checkpoints

DAMAGES = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "cut by one byte": lambda whole: whole[:-1],
    "emptied": lambda whole: b"",
    "garbage": lambda whole: bytes(range(256)) * 40,
    "zeros in the middle": lambda whole: whole[:3_000] + bytes(2_000) + whole[5_000:],
    "another file of torch": lambda whole: pickle.dumps([1, 2]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(damage, run, whole):
    *_, before, newest = checkpoints(run)
    newest.write_bytes(damage(newest.read_bytes()))
    assert resume(run) == 0
    log = (run / "train.log").read_text()
    assert f"{newest} cannot be read" in log
    assert f"going on from {before}" in log
    assert fingerprints(run) == fingerprints(whole)
    assert checkpoint.load(newest)["iteration"] == 4  # written again, over the damage


@pytest.mark.parametrize("damage", [DAMAGES["cut"], DAMAGES["emptied"]])
def test_if_all_checkpoints_are_damaged_the_run_is_refused_in_one_line_and_left_alone(damage, run, capsys):
    for file in checkpoints(run):
        file.write_bytes(damage(file.read_bytes()))
    before = contents(run / "checkpoints"), (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert resume(run) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no checkpoint that can be read" in line
    assert (contents(run / "checkpoints"), (run / "metrics.jsonl").read_bytes()) == before


def test_what_was_just_saved_is_never_what_is_removed(run):
    """A damaged file has the larger number, and only one is kept."""
    newest = checkpoints(run)[-1]
    newest.rename(newest.with_name(checkpoint.numbered_name(1_000)))
    checkpoints(run)[-1].write_bytes(b"damaged")
    assert resume(run, "run.keep_checkpoints=1", "run.evaluation_episodes=1") == 0
    _, state = checkpoint.newest_readable(run / "checkpoints")
    assert state["env_steps"] == 160


class Payload:
    """Unpickling it makes a directory."""

    def __init__(self, directory):
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["a pickle", "a checkpoint with a pickle in it"])
def test_code_in_a_checkpoint_never_runs(write, run, whole, tmp_path):
    newest, payload = checkpoints(run)[-1], Payload(tmp_path / "ran")
    if write is None:
        torch.save({**checkpoint.load(newest), "exact": payload}, newest)
    else:
        newest.write_bytes(write(payload))
    assert resume(run) == 0
    assert not (tmp_path / "ran").exists()
    assert str(newest) in (run / "train.log").read_text()
    assert fingerprints(run) == fingerprints(whole)


def test_checkpoints_of_a_later_version_are_named_and_left_alone(run):
    for file in checkpoints(run):
        torch.save({**torch.load(file, weights_only=True), "format_version": 999}, file)
    before = contents(run / "checkpoints")
    assert resume(run) != 0
    assert "format 999" in (run / "train.log").read_text()
    assert contents(run / "checkpoints") == before


# Disks that cannot be written to


@pytest.fixture
def fill(monkeypatch):
    """Lets nothing be brought to disk below a folder any more."""
    fsync = os.fsync

    def fill(folder):
        def full(file):
            if Path(os.readlink(f"/proc/self/fd/{file}")).is_relative_to(folder):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(file)

        monkeypatch.setattr(os, "fsync", full)

    return fill


@pytest.mark.parametrize("fallback", [True, False], ids=["with a fallback", "without one"])
def test_on_a_full_disk_earlier_checkpoints_stay_and_the_state_goes_to_the_fallback(
    fallback, run, whole, tmp_path, capsys, fill, monkeypatch
):
    before = contents(run / "checkpoints")
    failing = checkpoint.numbered_name(192)
    fill(run / "checkpoints")
    place = tmp_path / "elsewhere" / "deep"
    setting = [f"run.fallback_directory={place}"] if fallback else []
    capsys.readouterr()
    assert resume(run, "run.total_steps=224", *setting) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert failing in line
    assert contents(run / "checkpoints") == before
    assert not (run / "summary.json").exists()
    assert place.exists() == fallback
    if fallback:
        assert str(place) in line
        assert [file.name for file in place.rglob("*.pt")] == [failing]
        monkeypatch.undo()
        assert go_on_as_told(line, run, whole, tmp_path) == 0


def told_in(line):
    """Where a line says that the state is, and where it is to be moved."""
    return map(Path, re.search("the state is in (.*?), move it to (.*?) to go on", line).groups())


def go_on_as_told(line, run, whole, tmp_path):
    """Move the state as the line says, and compare with a run whose disk was never full."""
    shutil.move(*told_in(line))
    code = resume(run, "run.total_steps=224")
    shutil.copytree(whole, tmp_path / "longer")
    resume(tmp_path / "longer", "run.total_steps=224")
    assert fingerprints(run) == fingerprints(tmp_path / "longer")
    return code


def test_a_full_disk_at_the_best_checkpoint_is_told_too(tmp_path, capsys, fill, monkeypatch):
    run, place = tmp_path / "run", tmp_path / "elsewhere"
    train_tiny(run, *FOUR, "run.total_steps=64")
    capsys.readouterr()
    fill(run / "checkpoints")
    assert resume(run, "run.total_steps=96", "run.evaluation_episodes=1", f"run.fallback_directory={place}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert checkpoint.load(checkpoints(run)[-1])["env_steps"] == 64
    rescued, _ = told_in(line)
    assert place in rescued.parents
    assert checkpoint.load(rescued)["iteration"] == 1  # as many as there are rows
    assert len(rows(run)) == 1


def test_on_a_full_disk_the_whole_state_is_saved_though_an_agent_could_not_be(tmp_path, fill, monkeypatch):
    """The best agent in training waits to be written, and what goes on matters more than what acts."""
    run, place = tmp_path / "run", tmp_path / "elsewhere"
    write = Logger.write

    def failing(logger, row, *, env_steps):
        if env_steps >= 1280:
            fill(run / "checkpoints")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(logger, row, env_steps=env_steps)

    monkeypatch.setattr(Logger, "write", failing)
    long = ("run.steps_per_iteration=256", "env.num_envs=4", "run.checkpoint_every=0", "run.evaluation_episodes=0")
    assert train_tiny(run, *long, "run.total_steps=1280", f"run.fallback_directory={place}") == 1
    (numbered,) = place.rglob("step_*.pt")
    assert {"optimizer", "ranks"} <= checkpoint.load(numbered).keys()
    assert numbered.with_name(checkpoint.BEST_TRAINING).exists()
    assert not checkpoint.numbered(run / "checkpoints")


def test_a_file_in_the_place_of_the_folder_sends_the_state_to_the_fallback(tmp_path, capsys, monkeypatch):
    run, place = tmp_path / "run", tmp_path / "elsewhere"
    warm_up = Trainer.warm_up
    monkeypatch.setattr(Trainer, "warm_up", lambda trainer: (warm_up(trainer), (run / "checkpoints").touch())[0])
    assert train_tiny(run, *FOUR, f"run.fallback_directory={place}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    rescued, _ = told_in(line)
    assert place in rescued.parents
    assert checkpoint.load(rescued)["iteration"] == 1


def test_runs_that_share_a_fallback_keep_a_state_each(tmp_path, monkeypatch, capsys, fill):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # paths that lead out must not lead out of the fallback
    fill(tmp_path / "sweep")
    monkeypatch.setattr(run_directory, "write_config", lambda *_: None)  # it is brought to that disk too
    jobs = ("seed=0,1", "hydra.sweep.dir=../sweep", "hydra.sweep.subdir=${hydra.job.num}", "run.evaluation_episodes=0")
    assert train(["-m", "task=cartpole", *TINY, *jobs, "run.fallback_directory=../elsewhere"]) == 1
    rescued = [next(iter(told_in(line))) for line in capsys.readouterr().err.splitlines()]
    assert [checkpoint.load(file)["iteration"] for file in rescued] == [2, 2]
    assert len({file.resolve() for file in rescued}) == 2
    assert sorted(file.resolve() for file in rescued) == sorted((tmp_path / "elsewhere").rglob("*.pt"))


# Environments

# A fault in this process, and what the one line says of it.
FAULTS = {
    "raise in step": "the simulator fell over",
    "raise in reset": "the simulator cannot reset",
    "wrong shape": "has the shape",
    "text for numbers": "and not numbers",
    "NaN observation": "observation[1] of environment 0 is nan after its step 40",
    "infinite observation": "observation[1] of environment 0 is inf after its step 40",
    "NaN reward": "reward of environment 0 is nan after its step 40",
    "infinite reward": "reward of environment 0 is -inf after its step 40",
}


def test_every_fault_is_tried_here_or_in_processes_of_their_own():
    assert {*FAULTS, "hang", "die"} == set(faulty.FAULTS)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.filterwarnings("always")  # Gymnasium warns of what a process raised: that is how it comes to train.log
def test_a_misbehaving_environment_ends_the_run_with_one_line_and_the_state_before_it(fault, backend, tmp_path, capsys):
    run = tmp_path / "run"
    env = ["env.id=faulty:Faulty-v0", f"env.backend={backend}", f"+env.kwargs.fault='{fault}'", "+env.kwargs.at=40"]
    assert train([*env, *TINY, *FOUR, "run.checkpoint_every=0", f"hydra.run.dir={run}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert FAULTS[fault] in line
    assert f"traceback: {run / 'train.log'}" in line
    log = (run / "train.log").read_text()
    assert "Traceback" in log
    if fault.startswith("raise"):
        assert "faulty.py" in log
    (saved,) = checkpoints(run)
    state = checkpoint.load(saved)
    assert (state["iteration"], state["env_steps"]) == (1, 64)
    assert len(rows(run)) == 1
    assert all(torch.isfinite(tensor).all() for tensor in state["agent"].values())
    assert not (run / "summary.json").exists()


def test_a_run_whose_evaluation_fails_keeps_the_iteration_before_it(tmp_path, capsys):
    """Evaluation environments count their own steps: 20 a run, so the third evaluation is the first to fail."""
    run = tmp_path / "run"
    env = ["env.id=faulty:Faulty-v0", "+env.kwargs.fault='raise in step'", "+env.kwargs.at=95"]
    evaluate = ["run.evaluation_episodes=100", "run.evaluate_every=96", "run.total_steps=128"]
    assert train([*env, *TINY, *evaluate, f"hydra.run.dir={run}"]) == 1
    assert "the simulator fell over" in capsys.readouterr().err
    assert checkpoint.load(checkpoints(run)[-1])["iteration"] == len(rows(run)) == 1
