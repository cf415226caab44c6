"""Whole runs of squashed actions: every way to act sends the same; a discrete policy refuses what it has not."""

import math
from contextlib import closing

import numpy as np
import pytest
import torch
from tiny_runs import TINY, compose, refusal, rows

import trpo
from trpo.commands.train import train
from trpo.numerics.params import flatten
from trpo.sampling.environments import Environments
from trpo.sampling.evaluation import evaluate
from trpo.trainer import Trainer

SQUASHED = ("env.id=Pendulum-v1", *TINY, "policy.bounds=tanh", "policy.initial_log_std=0.5")


def test_environments_get_the_tanh_of_what_is_kept(monkeypatch):
    sent, step = [], Environments.step
    monkeypatch.setattr(Environments, "step", lambda self, actions: (sent.append(actions), step(self, actions))[1])
    with closing(Trainer(compose(*SQUASHED))) as trainer:
        rollout = trainer.collect()
    assert rollout.actions.abs().max() > 1
    torch.testing.assert_close(torch.stack(sent), rollout.actions.tanh())
    assert torch.stack(sent).abs().max() < 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("squashed") / "run"
    assert train([*SQUASHED, f"hydra.run.dir={directory}"]) == 0
    return directory


def test_a_loaded_agent_acts_by_the_tanh_of_its_mean(run):
    loaded = trpo.load(run)
    seen = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    with torch.no_grad():
        mean = loaded.agent.policy(loaded.agent.normalize(torch.from_numpy(seen)))[:, :1]
    np.testing.assert_allclose(loaded.act(seen), 2 * np.tanh(mean.numpy()), rtol=1e-5)  # torques are within ±2
    drawn = np.concatenate([loaded.act(seen, stochastic=True) for _ in range(20)])
    assert 1.5 < np.abs(drawn).max() < 2


def test_evaluation_sends_the_tanh_as_well(run, monkeypatch):
    loaded, decoded = trpo.load(run), []
    inside = type(loaded.agent.bounds).inside
    monkeypatch.setattr(
        type(loaded.agent.bounds), "inside", lambda self, actions: decoded.append(actions) or inside(self, actions)
    )
    evaluate(loaded.agent, loaded.config.env, episodes=range(1), seed=0)
    assert len(decoded) == 200  # Pendulum's steps


def test_its_entropy_is_that_of_squashed_actions(run, tmp_path):
    """Of an action inside ±1 it is at most log 2, far below that of the normal it is drawn from."""
    assert train([*SQUASHED[:-2], SQUASHED[-1], f"hydra.run.dir={tmp_path / 'clipped'}"]) == 0
    squashed, clipped = rows(run)[0]["policy/entropy"], rows(tmp_path / "clipped")[0]["policy/entropy"]
    assert squashed < np.log(2) < clipped


@pytest.mark.parametrize(
    "override", ["policy.final_std_scale=0.5", "policy.bounds=tanh", "policy.std=state", "policy.noise_correlation=0.5"]
)
def test_what_discrete_actions_do_not_have_is_refused(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = override.partition("=")[0]
    assert f"{key} must be" in refusal(train, "env.id=CartPole-v1", *TINY, override)


@pytest.mark.parametrize("std", ["shared", "state"])
def test_sigma_falls_by_its_schedule_and_the_kl_of_that_is_logged(std, tmp_path):
    """Beside a policy that hardly moves (δ = 1e-9) σ is what the schedule says, and its KL that of two normals."""
    line = [
        "env.id=Pendulum-v1",
        *TINY,
        "run.total_steps=320",
        "run.steps_per_iteration=32",
        "trust_region.max_kl=1e-9",
    ]
    settings = [f"policy.std={std}", "policy.final_std_scale=0.25", "normalize.observations=false"]
    assert train([*line, *settings, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    found = rows(tmp_path / "run")
    shifts = [math.log(0.25) * row["env_steps"] / 320 for row in found]  # by the steps that are done
    assert shifts[-1] == math.log(0.25)
    for row, last, now in zip(found, [0.0, *shifts[:-1]], shifts, strict=True):
        assert row["policy/std_mean"] == pytest.approx(math.exp(-1.0 + now), rel=0.02)  # one of the state is nearly so
        d = last - now
        assert row["trust_region/sigma_kl"] == pytest.approx(0.5 * (math.expm1(2 * d) - 2 * d), rel=1e-3)


def test_an_agent_that_another_run_starts_as_has_its_own_schedule():
    config = compose("env.id=Pendulum-v1", *TINY, "policy.final_std_scale=0.25")
    with closing(Trainer(config)) as first, closing(Trainer(config)) as second:
        for _ in range(2):
            first.iterate()
        assert float(first.agent.policy.shift) < 0
        second.adopt(first.state(), "another run")
    assert float(second.agent.policy.shift) == 0
    assert torch.equal(flatten(second.agent.policy), flatten(first.agent.policy))


def test_entropy_is_no_part_of_what_was_promised(tmp_path):
    """Promises are of reward; with neither rewards nor advantages scaled they are in the surrogate's unit."""
    raw = ("normalize.rewards=false", "normalize.advantages=false")
    line = ["env.id=Pendulum-v1", *TINY, *raw, "trust_region.entropy=5.0", "run.evaluation_episodes=0"]
    assert train([*line, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    step, judged, *_ = rows(tmp_path / "run")
    assert step["trust_region/entropy_improvement"] > 0.01
    expected = step["trust_region/improvement"] - step["trust_region/entropy_improvement"]
    assert judged["trust_region/improvement_promised"] == pytest.approx(expected)


@pytest.mark.parametrize("override", ["policy.std=state", "policy.final_std_scale=0.5"])
def test_a_network_of_ones_own_has_a_sigma_of_its_own(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("env.id=Pendulum-v1", *TINY, "policy.network=own_networks:Plain", override)
    assert "its own σ" in refusal(train, *line)
