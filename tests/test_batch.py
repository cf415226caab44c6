import dataclasses

import numpy as np
import pytest
import torch
from oracles import random_batch, random_policy

from trpo.batch import Rollout, make_batch, next_values, standardize
from trpo.config import Config, CriticConfig, EnvConfig, NormalizeConfig, PolicyConfig
from trpo.models.agent import make_agent
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.models.observations import Kind, Leaf
from trpo.numerics.moments import moments
from trpo.numerics.params import flatten, forward_at
from trpo.update.objective import Objective

STEPS, ENVS, SIZE = 40, 3, 4
DISTRIBUTIONS = [DiagonalGaussian(2), Categorical((5,)), Categorical((2, 3)), Bernoulli(3)]
CONFIG = Config(
    env=EnvConfig(num_envs=ENVS),
    policy=PolicyConfig(hidden_sizes=(16,)),
    critic=CriticConfig(hidden_sizes=(16,)),
    normalize=NormalizeConfig(rewards=False),
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def agent_for(distribution, *, rewards=False, linear_critic=False):
    config = dataclasses.replace(CONFIG, normalize=NormalizeConfig(rewards=rewards))
    if linear_critic:
        config = dataclasses.replace(config, critic=CriticConfig(hidden_sizes=()))
    agent = make_agent(config, observations=Leaf(Kind.VECTOR, (SIZE,)), distribution=distribution)
    agent.normalizer.update(moments(2 + 3 * torch.randn(100, SIZE, generator=generator(0))))
    with torch.no_grad():
        agent.policy.network[-1].weight.mul_(100)
    return agent


def rollout_of(agent, *, resets=True):
    """Random steps with all kinds of ends, and garbage in the reset rows that follow them."""
    chance = torch.rand(STEPS, ENVS, generator=generator(1))
    terminated, truncated = chance < 0.15, (chance > 0.1) & (chance < 0.25)
    valid = torch.ones(STEPS, ENVS, dtype=torch.bool)
    for t in range(1, STEPS if resets else 0):
        valid[t] = ~(terminated[t - 1] | truncated[t - 1])
        terminated[t] &= valid[t]
        truncated[t] &= valid[t]
    observations = 2 + 3 * torch.randn(STEPS, ENVS, SIZE, generator=generator(2))
    observations[~valid] = 1e4
    rewards = torch.randn(STEPS, ENVS, generator=generator(3))
    rewards[~valid] = -1e4
    noise = agent.policy.distribution.noise(STEPS * ENVS, generator(4))
    return Rollout(
        observations=observations,
        actions=agent.actor()(observations.flatten(0, 1), noise).view(STEPS, ENVS, -1),
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        last_observations=torch.randn(ENVS, SIZE, generator=generator(5)),
        final_observations=5 + torch.randn(int(truncated.sum()), SIZE, generator=generator(6)),
        episode_returns=[],
        episode_lengths=[],
    )


def batch_of(agent, rollout, *, gamma=0.9, lam=0.8, normalize=False):
    return make_batch(agent, rollout, gamma=gamma, lam=lam, normalize=normalize)


def advantages_by_hand(agent, rollout, *, gamma, lam):
    """The O(T²) definition, one observation at a time through the critic, in the row-major order of valid rows."""
    finals = iter(rollout.final_observations)
    final_of = {tuple(index): next(finals) for index in rollout.truncated.nonzero().tolist()}

    def value(observation):
        return float(agent.critic(agent.normalize(observation.unsqueeze(0))))

    def td_error(t, env):
        successor = 0.0
        if not rollout.terminated[t, env]:
            following = rollout.observations[t + 1, env] if t + 1 < STEPS else rollout.last_observations[env]
            successor = gamma * value(final_of.get((t, env), following))
        return float(rollout.rewards[t, env]) + successor - value(rollout.observations[t, env])

    advantages, values = [], []
    for start, env in rollout.valid.nonzero().tolist():
        total, weight = 0.0, 1.0
        for t in range(start, STEPS):
            total, weight = total + weight * td_error(t, env), weight * gamma * lam
            if rollout.terminated[t, env] or rollout.truncated[t, env]:
                break
        advantages.append(total)
        values.append(value(rollout.observations[start, env]))
    return torch.tensor(advantages), torch.tensor(values)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_old_parameters_are_bit_for_bit_those_of_the_updates_own_pass(distribution):
    agent = agent_for(distribution)
    batch = batch_of(agent, rollout_of(agent))
    objective = Objective(agent.policy, batch)
    assert torch.equal(batch.old_parameters, objective.parameters(objective.theta, batch.observations))
    torch.testing.assert_close(batch.old_parameters, agent.policy(batch.observations))  # other places in memory


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_batch_of_a_few_rows_has_the_old_parameters_of_the_updates_pass_too(steps):
    """Few rows are where BLAS minds how the weights are aligned, and those after log σ are not."""
    agent = agent_for(DiagonalGaussian(1))
    rollout = rollout_of(agent, resets=False)
    rows = {name: getattr(rollout, name)[:steps, :1] for name in rollout._fields[:6]}
    ends = int(rows["truncated"].sum())
    few = rollout._replace(
        **rows, last_observations=rollout.last_observations[:1], final_observations=rollout.final_observations[:ends]
    )
    assert Objective(agent.policy, batch_of(agent, few)).kl_and_gradient()[0] == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_at_the_old_policy_the_ratio_is_1_and_the_kl_is_0_exactly(distribution):
    agent = agent_for(distribution)
    batch = batch_of(agent, rollout_of(agent))
    new = forward_at(agent.policy, flatten(agent.policy), batch.observations)
    log_ratio = distribution.log_prob(new, batch.actions) - distribution.log_prob(batch.old_parameters, batch.actions)
    assert torch.exp(log_ratio).eq(1).all()
    assert distribution.kl(batch.old_parameters, new).eq(0).all()
    evaluation = Objective(agent.policy, batch).evaluate(flatten(agent.policy))
    assert (evaluation.kl, evaluation.kl_reverse, evaluation.kl_max_state, evaluation.improvement) == (0, 0, 0, 0)


def test_advantages_and_returns_follow_their_definition():
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent)
    batch = batch_of(agent, rollout, gamma=0.9, lam=0.8)
    with torch.no_grad():
        advantages, values = advantages_by_hand(agent, rollout, gamma=0.9, lam=0.8)
    torch.testing.assert_close(batch.advantages, advantages, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(batch.returns, advantages + values, rtol=1e-4, atol=1e-4)


def test_rows_that_are_not_valid_never_reach_the_batch():
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent)
    garbage = rollout._replace(
        observations=torch.where(rollout.valid.unsqueeze(-1), rollout.observations, -7e3),
        actions=torch.where(rollout.valid.unsqueeze(-1), rollout.actions, 7e3),
        rewards=torch.where(rollout.valid, rollout.rewards, 7e5),
    )
    assert rollout.size < STEPS * ENVS
    first, second = (batch_of(agent, r, normalize=True) for r in (rollout, garbage))
    assert all(torch.equal(column, second.columns[name]) for name, column in first.columns.items())
    assert all(len(column) == rollout.size for column in first.columns.values())


def test_every_row_knows_its_environment_among_those_of_all_ranks():
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent)._replace(first_environment=10)
    numbers = torch.arange(ENVS).expand(STEPS, ENVS) + 10
    batch = batch_of(agent, rollout, normalize=True)
    assert torch.equal(batch.environments, numbers[rollout.valid])
    assert len(set(batch.environments.tolist())) == ENVS


def test_the_rows_of_a_batch_stay_together():
    """Observation, action and old parameters of a row are of one step: action i was taken in observation i.

    To the bit: a difference, a product and a clamp round alike in a row of its own.
    """
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent)
    batch = batch_of(agent, rollout)
    for row, (t, env) in enumerate(rollout.valid.nonzero().tolist()):
        seen = agent.normalize(rollout.observations[t, env].unsqueeze(0))[0]
        assert torch.equal(batch.observations[row], seen)
        assert torch.equal(batch.actions[row], rollout.actions[t, env])


def test_a_batch_carries_no_graph():
    agent = agent_for(Categorical((5,)))
    assert not any(column.requires_grad for column in batch_of(agent, rollout_of(agent)).columns.values())


def test_the_value_after_a_truncation_is_that_of_the_final_observation():
    """V(s) = 10·s₀ + s₁: final observations are marked by s₀ = 1, s₁ numbers them."""
    agent = agent_for(Categorical((2,)), linear_critic=True)
    agent.normalizer = None
    with torch.no_grad():
        agent.critic.network[0].weight.copy_(torch.tensor([[10.0, 1.0, 0.0, 0.0]]))
    observations = torch.zeros(3, 2, SIZE)
    observations[..., 1] = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    finals, last = torch.zeros(3, SIZE), torch.zeros(2, SIZE)
    finals[:, 0], finals[:, 1] = 1.0, torch.tensor([1.0, 2.0, 3.0])
    last[:, 1] = torch.tensor([0.7, 0.8])
    truncated = torch.tensor([[False, True], [True, False], [False, True]])
    rollout = Rollout(
        observations=observations,
        actions=torch.zeros(3, 2, 1),
        rewards=torch.zeros(3, 2),
        terminated=torch.zeros(3, 2, dtype=torch.bool),
        truncated=truncated,
        valid=torch.ones(3, 2, dtype=torch.bool),
        last_observations=last,
        final_observations=finals,
        episode_returns=[],
        episode_lengths=[],
    )
    with torch.no_grad():
        following = next_values(agent, rollout, agent.critic(observations.flatten(0, 1)).view(3, 2))
    # rows:          t = 0            t = 1            t = 2
    expected = [[0.3, 10 + 1.0], [10 + 2.0, 0.6], [0.7, 10 + 3.0]]
    torch.testing.assert_close(following, torch.tensor(expected))


def test_normalised_advantages_have_zero_mean_and_unit_deviation_and_keep_their_order():
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent)
    raw, normalized = (batch_of(agent, rollout, normalize=flag) for flag in (False, True))
    a = raw.advantages.double().numpy()
    np.testing.assert_allclose(normalized.advantages, (a - a.mean()) / a.std(), atol=1e-5)
    assert torch.equal(normalized.returns, raw.returns)
    assert raw.advantage_scale == 1.0
    assert normalized.advantage_scale == pytest.approx(a.std(), rel=1e-6)


def test_a_batch_maps_its_columns_and_keeps_its_scale():
    batch = random_batch(random_policy(DiagonalGaussian(2)))._replace(advantage_scale=3.0)
    part = batch.map(lambda column: column[2:5])
    assert part.advantage_scale == 3.0
    assert part.columns.keys() == batch.columns.keys()
    assert all(torch.equal(column, batch.columns[name][2:5]) for name, column in part.columns.items())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shift", [0.0, -50.0])
def test_standardising_knows_no_units(scale, shift):
    advantages = torch.randn(1000, generator=generator(0)) + shift
    expected = (advantages.double() - advantages.double().mean()) / advantages.double().std(correction=0)
    standardized, divisor = standardize(advantages * scale)
    torch.testing.assert_close(standardized.double(), expected, rtol=1e-4, atol=1e-4)
    assert divisor == pytest.approx(scale * float(advantages.double().std(correction=0)), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e20, 1e-20])
@pytest.mark.parametrize("count", [1, 2, 1000])
def test_equal_advantages_become_zeros(value, count):
    standardized, divisor = standardize(torch.full((count,), value))
    assert torch.equal(standardized, torch.zeros(count))
    assert divisor == 1.0


def test_reward_scaling_divides_the_rewards_and_nothing_else():
    agent = agent_for(DiagonalGaussian(2), rewards=True)
    rollout = rollout_of(agent)
    unscaled = batch_of(agent_for(DiagonalGaussian(2)), rollout._replace(rewards=rollout.rewards / 4))
    agent.reward_scale.moments.variance.fill_(16.0)
    before = rollout.rewards.clone()
    scaled = batch_of(agent, rollout)
    for name in ("advantages", "returns"):
        torch.testing.assert_close(getattr(scaled, name), getattr(unscaled, name), rtol=0, atol=1e-5)
    for name in ("observations", "actions", "old_parameters"):
        assert torch.equal(getattr(scaled, name), getattr(unscaled, name))
    assert torch.equal(rollout.rewards, before)


def test_what_is_not_finite_is_said_of_the_environment_by_its_number_among_those_of_all_ranks():
    agent = agent_for(DiagonalGaussian(2))
    rollout = rollout_of(agent, resets=False)._replace(first_environment=7)
    rollout.observations[4, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the critic's value of environment 9 is nan at step 4 "):
        batch_of(agent, rollout)


def test_rollout_figures_are_means_over_the_episodes_that_ended():
    rollout = rollout_of(agent_for(DiagonalGaussian(2)))
    ended = rollout._replace(episode_returns=[1.0, -4.0, 6.0], episode_lengths=[2, 3, 10])
    assert ended.figures() == {"episode_return": 1.0, "episode_length": 5.0, "episodes": 3}
    assert rollout.figures() == {"episodes": 0}
