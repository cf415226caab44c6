"""Runs that end because they learned enough, start as another's agent, and are evaluated elsewhere than they train."""

import pytest
import torch
from tiny_runs import TINY, checkpoints, fingerprints, refusal, rows, summary, train_tiny

import trpo
from trpo.commands.evaluate import evaluate
from trpo.commands.train import train
from trpo.record import checkpoint
from trpo.trainer import Trainer

OFTEN = ("run.evaluate_every=32", "run.total_steps=320", "trust_region.max_kl=0.1")


def returns(run):
    return [row["evaluation/return_mean"] for row in rows(run) if "evaluation/return_mean" in row]


@pytest.mark.slow
def test_a_run_ends_after_the_first_evaluation_that_is_enough(tmp_path, capsys):
    assert train_tiny(tmp_path / "whole", *OFTEN) == 0
    every = returns(tmp_path / "whole")
    enough = max(every) - 1e-9  # which neither the first nor the last reaches, or the test could not fail
    expected = next(number for number, value in enumerate(every) if value >= enough)
    assert 0 < expected < len(every) - 1
    run = tmp_path / "run"
    assert train_tiny(run, *OFTEN, f"run.stop_at_return={enough}") == 0
    assert returns(run) == every[: expected + 1]
    assert (summary(run)["exit_reason"], summary(run)["iterations"]) == ("stopped", expected + 1)
    assert checkpoint.load(checkpoints(run)[-1])["iteration"] == expected + 1
    capsys.readouterr()
    assert train_tiny(run, *OFTEN, f"run.stop_at_return={enough}", "run.resume=auto") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert train_tiny(run, *OFTEN, "run.stop_at_return=null", f"run.resume={run}") == 0
    assert fingerprints(run) == fingerprints(tmp_path / "whole")  # as if it had never stopped


def test_an_evaluation_below_is_no_reason_to_stop(tmp_path):
    assert train_tiny(tmp_path / "run", "run.stop_at_return=501") == 0
    assert summary(tmp_path / "run")["exit_reason"] == "finished"


# run.init_from


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    directory = tmp_path_factory.mktemp("earlier") / "run"
    assert train_tiny(directory, "run.evaluation_episodes=0") == 0
    return directory


def test_a_run_starts_as_the_agent_of_another_with_an_optimiser_of_its_own_and_no_warm_up(earlier, tmp_path):
    file = checkpoints(earlier)[-1]
    for name, source in (("of a run", earlier), ("of a checkpoint", file)):
        still = ("critic.learning_rate=1e-12", "trust_region.max_kl=1e-12")  # so that its first state can be seen
        other = ("seed=5", "advantage.gamma=0.9", "run.evaluation_episodes=0", "run.total_steps=32", *still)
        assert train_tiny(tmp_path / name, f"run.init_from={source}", *other) == 0
        before, after = checkpoint.load(file), checkpoint.load(checkpoints(tmp_path / name)[-1])
        assert after["env_steps"] == 32  # all of it is learned from
        for part in ("policy", "critic"):
            for key, value in before["agent"].items():
                if key.startswith(part):
                    torch.testing.assert_close(after["agent"][key], value, rtol=0, atol=1e-5)
        counts = [state["agent"]["normalizer.moments.count"] for state in (before, after)]
        assert counts[1] == counts[0] + 32
        assert all(state["step"] <= 4 for state in after["optimizer"]["state"].values())


def test_it_goes_on_like_any_run_without_the_other(earlier, tmp_path):
    line = (f"run.init_from={tmp_path / 'copy'}", "run.evaluation_episodes=0", "run.checkpoint_every=32")
    (tmp_path / "copy").symlink_to(earlier)
    assert train_tiny(tmp_path / "whole", *line, "run.total_steps=128") == 0
    assert train_tiny(tmp_path / "run", *line, "run.total_steps=64") == 0
    (tmp_path / "copy").unlink()
    assert train_tiny(tmp_path / "run", *line, "run.total_steps=128", "run.resume=auto") == 0
    assert fingerprints(tmp_path / "run") == fingerprints(tmp_path / "whole")


def test_one_that_failed_in_its_first_iteration_goes_on_without_a_warm_up_too(earlier, tmp_path, monkeypatch):
    line = (f"run.init_from={earlier}", "run.evaluation_episodes=0")
    assert train_tiny(tmp_path / "whole", *line) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", lambda *_: 1 / 0)
        assert train_tiny(tmp_path / "run", *line) == 1
    assert train_tiny(tmp_path / "run", *line, "run.resume=auto") == 0
    assert fingerprints(tmp_path / "run") == fingerprints(tmp_path / "whole")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.hidden_sizes=[9]", "size mismatch for policy.network.0.weight"),
        ("normalize.rewards=false", "reward_scale"),
        ("env.id=Acrobot-v1", "size mismatch"),
    ],
)
def test_what_does_not_fit_is_named(override, words, earlier, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(train, "task=cartpole", *TINY, f"run.init_from={earlier}", override)
    assert "run.init_from" in line
    assert words in line


def test_what_is_no_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    for name, words in (("absent", "there is no checkpoint absent"), ("notes", "notes is not a run directory")):
        assert words in refusal(train, "task=cartpole", f"run.init_from={name}")


# env.evaluation_kwargs, env.max_episode_steps


def test_an_agent_is_evaluated_under_the_arguments_that_are_for_that(tmp_path, capsys):
    slow = ("env.max_episode_steps=20", "+env.kwargs.g=1.0", "+env.evaluation_kwargs.g=0.0")
    assert train_tiny(tmp_path / "run", *slow, task="pendulum") == 0
    assert train_tiny(tmp_path / "other", *slow[:2], task="pendulum") == 0
    assert fingerprints(tmp_path / "run") == fingerprints(tmp_path / "other")
    (mean,), (other,) = returns(tmp_path / "run"), returns(tmp_path / "other")
    assert mean != other
    assert all(row["rollout/episode_length"] == 20 for row in rows(tmp_path / "run") if row["rollout/episodes"])
    capsys.readouterr()
    assert evaluate([str(tmp_path / "run"), "--episodes", "1"]) == 0
    assert "length 20.0" in capsys.readouterr().out
    assert trpo.load(tmp_path / "run").config.env.evaluation.kwargs == {"g": 0.0}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+env.evaluation_kwargs.nothing=1"], "unexpected keyword argument 'nothing'"),
        (["env.max_episode_steps=5", "+env.kwargs.max_episode_steps=6"], "give one of them"),
        (["env.id=probes:Counting-v0", "+env.evaluation_kwargs.kind=box"], "is"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(overrides, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(train, "task=pendulum", *overrides)
