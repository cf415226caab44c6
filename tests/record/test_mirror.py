"""Weights & Biases: what it is asked for, and that what was trained is in its files."""

import re
import sys
from importlib.metadata import distributions
from unittest.mock import Mock

import pytest
import wandb
from tiny_runs import TINY, process, refusal, rows, train_tiny

from trpo.commands.train import train
from trpo.record import logger, mirror

SETTINGS = ["task=cartpole", *TINY, "run.evaluation_episodes=0", "record.wandb=mine", "hydra.run.dir=run"]


@pytest.fixture
def init(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb, "init", Mock())
    return wandb.init


def test_a_run_asks_for_its_project_with_its_keys_before_the_event_file_is_opened(init, tmp_path, monkeypatch):
    opened = []
    writer = logger.SummaryWriter
    monkeypatch.setattr(logger, "SummaryWriter", lambda *_, **__: opened.append(init.called) or writer(*_, **__))
    assert train([*SETTINGS, "seed=3"]) == 0
    asked = init.call_args.kwargs
    assert (asked["project"], asked["name"], asked["dir"]) == ("mine", "run", str(tmp_path / "run"))
    assert asked["sync_tensorboard"] is True
    assert (asked["config"]["seed"], asked["config"]["trust_region.max_kl"]) == (3, 0.04)
    assert opened == [True]
    init.return_value.finish.assert_called_once_with(exit_code=0)


def test_a_run_that_goes_on_has_the_id_that_it_had_and_another_run_has_another(init):
    assert train(SETTINGS) == 0
    assert train(["run.resume=run", "run.total_steps=128"]) == 0
    assert train_tiny("other", "record.wandb=mine", "run.evaluation_episodes=0") == 0
    first, again, other = (call.kwargs["id"] for call in init.call_args_list)
    assert first == again != other
    assert all(call.kwargs["resume"] == "allow" for call in init.call_args_list)


def test_a_run_that_fails_is_one_that_failed_there(init, capsys):
    assert train([*SETTINGS[1:], "env.id=broken:Raising-v0"]) == 1
    capsys.readouterr()
    init.return_value.finish.assert_called_once_with(exit_code=1)


@pytest.mark.usefixtures("init")
def test_without_the_package_nothing_is_made_and_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(mirror, "distributions", lambda name: () if name == "wandb" else distributions(name=name))
    assert refusal(train, *SETTINGS) == "trpo-train: record.wandb needs wandb: pip install 'trpo[wandb]'"


def test_who_is_not_logged_in_is_told_so_in_one_line(init, capsys):
    init.side_effect = wandb.errors.UsageError("No API key configured.")
    assert train(SETTINGS) == 2
    words = "trpo-train: record.wandb=mine: No API key configured. WANDB_MODE=offline needs no login\n"
    assert capsys.readouterr().err == words


@pytest.mark.slow
def test_what_was_trained_is_in_the_file_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = process(sys.executable, "-m", "trpo", *SETTINGS, "record.profile_every=1", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    held = file.read_bytes()
    scalars = {tag for row in rows(tmp_path / "run") for tag in row if "/" in tag}
    assert {"trust_region/kl", "trust_region/kl_quadratic", "trust_region/max_kl"} <= scalars
    assert [tag for tag in scalars if not re.search(re.escape(tag).encode() + rb"\W", held)] == []
    assert b"profile/step" in held
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
