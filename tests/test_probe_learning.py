import dataclasses
import math
from contextlib import closing

import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces

from trpo import trainer as iteration
from trpo.config import (
    AdvantageConfig,
    Config,
    CriticConfig,
    EnvConfig,
    NormalizeConfig,
    PolicyConfig,
    RunConfig,
    TrustRegionConfig,
)
from trpo.numerics.moments import moments
from trpo.run import evaluated
from trpo.trainer import Trainer
from trpo.update.trust_region import trust_region_step

GAMMA = 0.5
RAW = NormalizeConfig(observations=False, rewards=False)  # the critic's values are in the environment's units


def config_for(id, *, steps=256, num_envs=4, backend="sync", normalize=RAW, **kwargs):
    return Config(
        env=EnvConfig(id=id, num_envs=num_envs, backend=backend, kwargs=kwargs),
        policy=PolicyConfig(hidden_sizes=(16,)),
        critic=CriticConfig(hidden_sizes=(16,), learning_rate=0.02, epochs=20, minibatch_size=64),
        normalize=normalize,
        advantage=AdvantageConfig(gamma=GAMMA, lam=0.9),
        trust_region=TrustRegionConfig(max_kl=0.05),
        run=RunConfig(steps_per_iteration=steps, evaluation_episodes=10),
    )


def trained(config, iterations):
    """Return a trainer after its iterations, closed."""
    with closing(Trainer(config)) as trainer:
        trainer.warm_up()
        for _ in range(iterations):
            trainer.iterate()
    return trainer


def values(trainer, states):
    with torch.no_grad():
        return trainer.agent.critic(trainer.agent.normalize(states)).numpy()


def modes(trainer, states):
    return trainer.agent.actor()(states, None).squeeze(-1).tolist()


SIGNS = torch.tensor([[-1.0], [1.0]])  # the states of the one-step probes


# Values: what the critic must come to, whatever the policy does


@pytest.mark.parametrize(("id", "expected"), [("Constant-v0", [1, 1]), ("Observed-v0", [-1, 1])])
def test_one_step_values_are_the_rewards(id, expected):
    np.testing.assert_allclose(values(trained(config_for(id), iterations=4), SIGNS), expected, atol=0.05)


def test_a_delayed_reward_is_discounted_once():
    trainer = trained(config_for("Delayed-v0"), iterations=6)
    np.testing.assert_allclose(values(trainer, torch.eye(2)), [GAMMA, 1.0], atol=0.05)


# A reward of 1 for ever is worth 1 + γ + γ² + … = 2; three steps before a real end 1.75, two 1.5, one 1.
ENDLESS = {"truncated": [2.0, 2.0, 2.0], "terminated": [1.75, 1.5, 1.0]}


@pytest.mark.parametrize("ending", ENDLESS)
@pytest.mark.parametrize("backend", ["sync", "async", "vector"])
def test_a_time_limit_does_not_lower_the_value_and_an_end_does(ending, backend):
    trainer = trained(config_for("Endless-v0", ending=ending, backend=backend), iterations=10)
    np.testing.assert_allclose(values(trainer, torch.eye(3)), ENDLESS[ending], atol=0.08)


def test_scaled_rewards_scale_the_values():
    """Returns G_t = 1, 1.5, 1.75 in each episode: the critic's units are their standard deviation."""
    config = config_for("Endless-v0", ending="terminated", normalize=NormalizeConfig(observations=False))
    expected = np.array(ENDLESS["terminated"]) / np.std([1.0, 1.5, 1.75])
    np.testing.assert_allclose(values(trained(config, iterations=15), torch.eye(3)), expected, rtol=0.05)


# Actions: what the policy must come to


@pytest.mark.parametrize(("id", "expected"), [("Chosen-v0", [1, 1]), ("Matched-v0", [0, 1])])
@pytest.mark.parametrize("normalize", [RAW, NormalizeConfig()], ids=["raw", "normalised"])
def test_the_best_action_is_found_and_reaches_the_most(id, expected, normalize):
    trainer = trained(config_for(id, normalize=normalize), iterations=12)
    assert modes(trainer, SIGNS) == expected
    assert evaluated(trainer)["return_mean"] == 1.0


@pytest.mark.slow
def test_a_continuous_action_is_aimed_at_what_is_seen():
    """The best action is ±1 of a range ±2, so ±0.5 in the policy's units; aiming at nothing would give −1."""
    trainer = trained(config_for("Aimed-v0", steps=512), iterations=40)
    np.testing.assert_allclose(modes(trainer, SIGNS), [-0.5, 0.5], atol=0.1)
    assert evaluated(trainer)["return_mean"] > -0.04


def test_a_chosen_reward_is_worth_what_the_trained_policy_gets():
    trainer = trained(config_for("Chosen-v0"), iterations=20)
    np.testing.assert_allclose(values(trainer, SIGNS), 1.0, atol=0.1)


# Whole iterations on every kind of space


BOX = spaces.Box(-1, 1, (3,), np.float32)
OBSERVATIONS = [
    BOX,
    spaces.Box(-5, 5, (2, 3), np.float64),
    spaces.Box(0, 255, (4,), np.uint8),
    spaces.Box(-np.inf, np.inf, (2,), np.float32),
    spaces.Box(-1, 1, (), np.float32),
    spaces.Discrete(4),
    spaces.Discrete(4, start=3),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary(3),
    spaces.Tuple([spaces.Discrete(2), BOX]),
    spaces.Dict({"speed": BOX, "goal": spaces.Dict({"reached": spaces.Discrete(2)})}),
]
ACTIONS = [
    spaces.Discrete(3),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiDiscrete([2, 3], start=[5, -5]),
    spaces.MultiDiscrete([[2, 3], [4, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Box(-0.4, 0.4, (2,), np.float32),
    spaces.Box(-0.4, 0.4, (2, 2), np.float64),
    spaces.Box(0, np.inf, (2,), np.float32),
    spaces.Box(-np.inf, np.inf, (2,), np.float32),
]
PAIRS = [(space, ACTIONS[0]) for space in OBSERVATIONS] + [(BOX, space) for space in ACTIONS[1:]]


@pytest.mark.parametrize(("observation_space", "action_space"), PAIRS, ids=str)
def test_two_iterations_run_on_every_supported_space(observation_space, action_space):
    """The environment refuses an action that is not in its space."""
    config = config_for(
        "Spaces-v0",
        steps=64,
        normalize=NormalizeConfig(),
        observation_space=observation_space,
        action_space=action_space,
    )
    with closing(Trainer(config)) as trainer:
        trainer.warm_up()
        rows = [trainer.iterate().row for _ in range(2)]
        assert evaluated(trainer)["length_mean"] == 5
    assert [row["env_steps"] for row in rows] == [128, 192]
    assert rows[-1]["rollout/episodes"] > 0
    assert all(math.isfinite(value) for row in rows for value in row.values() if not isinstance(value, str))


# Resets spend rows in the vector backend; nothing may have seen them


@pytest.mark.parametrize("backend", ["sync", "async", "vector"])
def test_statistics_and_counts_see_steps_only(backend):
    with closing(Trainer(config_for("Counting-v0", backend=backend, normalize=NormalizeConfig()))) as trainer:
        trainer.warm_up()
        rows = [trainer.iterate().row for _ in range(3)]
    normalizer, reward_scale = trainer.agent.normalizer, trainer.agent.reward_scale
    assert sum(row["rollout/episodes"] for row in rows) > 5
    assert (trainer.env_steps == 4 * 256) is (backend != "vector")
    assert normalizer.moments.count == reward_scale.moments.count == trainer.env_steps == rows[-1]["env_steps"]
    # `over` is 1 in the rows that resets take, and only there.
    assert normalizer.moments.mean[probes.OVER] == 0
    assert normalizer.moments.mean[probes.CLOCK] > 0


def test_one_hot_observations_have_no_statistics_that_could_move_the_policy():
    config = config_for("Endless-v0", normalize=NormalizeConfig(rewards=False))
    with closing(Trainer(config)) as trainer:
        assert not trainer.warms_up
        row = trainer.iterate().row
    assert "trust_region/normalizer_kl" not in row
    assert trainer.agent.normalizer.scale == pytest.approx(trainer.environments.interface.observations.size**0.5)


def test_logged_returns_are_raw():
    """Endless gives 1 three times; with γ = 0.5 its rewards are scaled by about 3."""
    with closing(Trainer(config_for("Endless-v0", normalize=NormalizeConfig()))) as trainer:
        trainer.warm_up()
        row = trainer.iterate().row
    assert row["rollout/episode_return"] == 3.0
    assert row["rollout/episode_length"] == 3.0


def test_statistics_are_frozen_until_the_policy_step_is_done(monkeypatch):
    """A twin that only collects has the same rollout and still the statistics that it was acted with."""
    config, batches = config_for("Counting-v0", backend="vector", normalize=NormalizeConfig()), []

    def recorded(policy, batch, config, **progress):
        batches.append(batch)
        return trust_region_step(policy, batch, config, **progress)

    monkeypatch.setattr(iteration, "trust_region_step", recorded)
    with closing(Trainer(config)) as trainer, closing(Trainer(config)) as twin:
        trainer.warm_up()
        twin.warm_up()
        rollout = twin.collector.collect(twin.agent)
        row = trainer.iterate().row
    raw = rollout.observations[rollout.valid]
    acted_on = twin.agent.normalize(raw)
    twin.agent.normalizer.update(moments(raw))
    assert torch.equal(batches[0].observations, acted_on)
    assert torch.equal(trainer.agent.normalize(raw), twin.agent.normalize(raw))
    policy = trainer.agent.policy
    moved = policy.distribution.kl(policy(acted_on), policy(trainer.agent.normalize(raw)))
    assert row["trust_region/normalizer_kl"] == pytest.approx(moved.mean().item(), rel=1e-9)
    assert row["trust_region/normalizer_kl"] > 0


def test_a_run_is_its_seed_whatever_the_backend_of_single_environments():
    runs = []
    for seed, backend in ((1, "sync"), (1, "sync"), (1, "async"), (2, "sync")):
        config = dataclasses.replace(config_for("Matched-v0", backend=backend, steps=32), seed=seed)
        with closing(Trainer(config)) as trainer:
            rows = [trainer.iterate().row for _ in range(3)]
        runs.append([(row["fingerprint"], row["critic/loss_after"], row["rollout/episode_return"]) for row in rows])
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0] != runs[3][0]


def test_everything_random_follows_the_seed():
    one, two = (dataclasses.replace(config_for("Drawn-v0"), seed=seed) for seed in (1, 2))
    with closing(Trainer(one)) as first, closing(Trainer(two)) as second:
        assert not torch.equal(first.environments.observations, second.environments.observations)
        assert not torch.equal(first.agent.policy.network[0].weight, second.agent.policy.network[0].weight)
        assert not torch.equal(first.collector.generator.get_state(), second.collector.generator.get_state())
        assert not torch.equal(first.minibatches.get_state(), second.minibatches.get_state())


@pytest.mark.slow
@pytest.mark.parametrize(("std", "expected"), [("state", [0.4, 0.1]), ("shared", [0.4 / math.sqrt(8.5)] * 2)])
def test_sigma_is_what_an_entropy_bonus_makes_worth_its_cost(std, expected):
    """max −½kσ² + β log σ is at σ = √(β/k), β = 0.16, k = 1 and 16; a shared σ answers to the mean of k, 8.5."""
    config = config_for("Curved-v0", steps=2_048, num_envs=32)
    policy = PolicyConfig(hidden_sizes=(16,), std=std, initial_log_std=-1.5, min_log_std=-6.0)
    settings = TrustRegionConfig(max_kl=0.02, entropy=0.16, anneal=0.0, min_multiplier=1.0)
    trainer = trained(dataclasses.replace(config, policy=policy, trust_region=settings), iterations=60)
    with torch.no_grad():
        found = trainer.agent.policy(trainer.agent.normalize(SIGNS))[:, 1].exp()
    np.testing.assert_allclose(found, expected, rtol=0.15)
