"""The ends of the range: each trains two iterations with finite numbers, or is refused with a reason."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny_runs import TINY, checkpoints, fingerprints, rows, summary, train_tiny

from trpo.commands.train import train as train_command
from trpo.record import checkpoint


class Extreme(gymnasium.Env):
    """Observations of any size, or constant; rewards of any size, by the action or constant; episodes of any length."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, scale=1.0, offset=0.0, reward=1.0, constant=False, length=10, actions="discrete"):
        self.scale, self.offset, self.reward, self.constant, self.length = scale, offset, reward, constant, length
        if actions == "continuous":
            self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {}

    def step(self, action):
        self.steps += 1
        reward = self.reward * (1.0 if self.constant else float(np.sum(action)))
        return self.observation(), reward, self.steps == self.length, False, {}

    def observation(self):
        return (self.offset + self.scale * self.np_random.normal(size=3)).astype(np.float32)


gymnasium.register("Extreme-v0", entry_point=Extreme)


def train(run, *overrides, **kwargs):
    arguments = [f"+env.kwargs.{name}={value}" for name, value in kwargs.items()]
    return train_command(["env.id=test_extremes:Extreme-v0", *TINY, *arguments, *overrides, f"hydra.run.dir={run}"])


def assert_finite(run):
    """Every number of every row, and every tensor that is saved."""
    for row in rows(run):
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
    agent = checkpoint.load(checkpoints(run)[-1])["agent"]
    assert all(torch.isfinite(tensor).all() for tensor in agent.values())


# What trains: settings of the environment, and overrides.
TRAINS = {
    "rewards of 1e30, normalised": ({"reward": 1e30}, []),
    "rewards of 1e-30, normalised": ({"reward": 1e-30}, []),
    "rewards of 1e-30, raw": ({"reward": 1e-30}, ["normalize.rewards=false"]),
    "episodes of one step": ({"length": 1}, []),
    "episodes longer than the run": ({"length": 10**9}, ["run.evaluation_episodes=0"]),
    "one environment": ({}, ["env.num_envs=1"]),
    "more environments than steps": ({}, ["env.num_envs=40"]),
    "constant observations": ({"scale": 0.0, "offset": 3.0}, []),
    "observations of nothing but zeros": ({"scale": 0.0}, []),
    "observations of 1e8": ({"scale": 1e8}, []),
    "observations of 1e-8": ({"scale": 1e-8}, []),
    "observations of 1e-8 around 1": ({"scale": 1e-8, "offset": 1.0}, []),
    "observations of 1e30": ({"scale": 1e30}, []),
    "observations of 1e8, raw": ({"scale": 1e8}, ["normalize.observations=false"]),
    "observations of 1e-8, raw": ({"scale": 1e-8}, ["normalize.observations=false"]),
    "minibatches larger than the batch": ({}, ["critic.minibatch_size=100_000"]),
    "minibatches of one": ({}, ["critic.minibatch_size=1", "critic.epochs=1"]),
    "the smallest trust region": ({}, ["trust_region.max_kl=1e-12"]),
    "the largest trust region": ({}, ["trust_region.max_kl=100"]),
    "no discount": ({"length": 10**9}, ["advantage.gamma=1", "advantage.lam=1", "run.evaluation_episodes=0"]),
    "no future": ({}, ["advantage.gamma=0", "advantage.lam=0"]),
}


@pytest.mark.parametrize("name", TRAINS)
def test_an_extreme_trains_two_iterations_with_finite_numbers(name, tmp_path):
    settings, overrides = TRAINS[name]
    run = tmp_path / "run"
    assert train(run, "run.total_steps=96", *overrides, actions="continuous", **settings) == 0
    assert len(rows(run)) in (1, 2)
    assert len(rows(run)) == 2 or name == "more environments than steps"
    assert_finite(run)
    for row in rows(run):
        assert row["outcome"] == "accepted" or row["trust_region/kl"] == 0
        assert row["trust_region/kl"] <= row["trust_region/max_kl"]


# The same, for what can be learned: a step is really taken.
@pytest.mark.parametrize("name", ["rewards of 1e30, normalised", "observations of 1e8", "observations of 1e-8"])
def test_size_alone_keeps_no_step_from_being_taken(name, tmp_path):
    settings, overrides = TRAINS[name]
    assert train(tmp_path / "run", *overrides, **settings) == 0
    assert [row["outcome"] for row in rows(tmp_path / "run")] == ["accepted"] * 2


def test_a_thousand_times_the_reward_is_the_same_run_but_for_the_returns(tmp_path):
    """A power of two, so that not even a rounding differs; normalisation takes it out."""
    for name, reward in (("one", 1.0), ("many", 1024.0)):
        assert train(tmp_path / name, reward=reward) == 0
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "many")
    one, many = (rows(tmp_path / name)[-1]["rollout/episode_return"] for name in ("one", "many"))
    assert many == 1024 * one


def test_raw_rewards_of_1e30_are_refused_with_a_reason_before_anything_is_lost(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, "normalize.rewards=false", reward=1e30) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "normalize.rewards" in line or "too large for float32" in line
    assert_finite(run)


@pytest.mark.parametrize("normalize", ["true", "false"])
@pytest.mark.parametrize("constant", [0.0, 1.0, -1e6])
def test_constant_rewards_train_or_have_no_gradient(constant, normalize, tmp_path):
    run = tmp_path / "run"
    assert train(run, f"normalize.rewards={normalize}", reward=constant, constant=True) == 0
    assert_finite(run)
    assert {row["outcome"] for row in rows(run)} <= {"accepted", "zero_gradient", "no_improvement"}


def test_without_advantages_the_outcome_is_named_and_the_policy_keeps_its_bits(tmp_path):
    """One state, one reward, one step: every advantage is the same, and standardised it is 0."""
    run = tmp_path / "run"
    every = ["run.checkpoint_every=32", "run.keep_checkpoints=9", "run.total_steps=128"]
    assert train(run, *every, scale=0.0, reward=1.0, constant=True, length=1) == 0
    assert [row["outcome"] for row in rows(run)] == ["zero_gradient"] * 3
    assert len(set(fingerprints(run))) == 1
    assert_finite(run)
    for row in rows(run):
        assert row["trust_region/gradient_norm"] == row["trust_region/kl"] == row["trust_region/step_norm"] == 0
        assert "trust_region/kl_error_relative" not in row
        assert row["trust_region/accepted"] == 0
    states = [checkpoint.load(file)["agent"] for file in checkpoints(run)]
    policy = [name for name in states[0] if name.startswith("policy")]
    assert policy
    assert all(torch.equal(states[0][name], states[-1][name]) for name in policy)
    assert "gradient is zero" in (run / "train.log").read_text()


@pytest.mark.parametrize("normalize", ["true", "false"])
def test_a_batch_of_one_sample_trains(normalize, tmp_path):
    run = tmp_path / "run"
    one = ["env.num_envs=1", "run.steps_per_iteration=1", "run.total_steps=3", "critic.minibatch_size=1"]
    assert train(run, *one, f"normalize.advantages={normalize}") == 0
    assert rows(run)[-1]["env_steps"] == 3
    assert_finite(run)
    outcomes = {row["outcome"] for row in rows(run)}
    assert (outcomes == {"zero_gradient"}) == (normalize == "true")  # a single advantage is its own mean


@pytest.mark.parametrize("task", ["cartpole", "pendulum"])
def test_one_step_asked_for_is_one_iteration(task, tmp_path, capsys):
    run = tmp_path / "run"
    assert train_tiny(run, "run.total_steps=1", task=task) == 0
    assert (len(rows(run)), summary(run)["iterations"]) == (1, 1)
    assert "64 steps (1 asked)" in capsys.readouterr().out
    assert_finite(run)


def test_two_of_everything_in_an_episode_longer_than_the_run_has_no_return_to_tell(tmp_path):
    run = tmp_path / "run"
    assert train(run, "run.evaluation_episodes=0", length=10**9) == 0
    assert all(row["rollout/episodes"] == 0 and "rollout/episode_return" not in row for row in rows(run))
