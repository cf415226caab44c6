import dataclasses
import pickle

import numpy as np
import pytest
import torch

from trpo.config import Config, CriticConfig, EnvConfig, NormalizeConfig, PolicyConfig, UserError
from trpo.models.agent import make_agent
from trpo.models.censored_gaussian import CensoredGaussian
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.models.gaussian_policies import GaussianPolicy
from trpo.models.networks import LogitPolicy
from trpo.models.normalizer import ObservationNormalizer, OneHotScale, RewardScale
from trpo.models.observations import Kind, Leaf
from trpo.numerics.moments import moments

DISTRIBUTIONS = [DiagonalGaussian(2), Categorical((4,)), Categorical((2, 3)), Bernoulli(3)]
SMALL = Config(
    policy=PolicyConfig(hidden_sizes=(8,)),
    critic=CriticConfig(hidden_sizes=(8,)),
    env=EnvConfig(num_envs=2),
)


def agent_for(distribution, config=SMALL, *, one_hot=False, **changes):
    return make_agent(
        dataclasses.replace(config, **changes),
        observations=Leaf(Kind.ONE_HOT if one_hot else Kind.VECTOR, (3,)),
        distribution=distribution,
    )


def observations(rows=50):
    return 5 + 2 * torch.randn(rows, 3, generator=torch.Generator().manual_seed(3))


def acquainted(distribution):
    """Return an agent whose statistics have seen something and whose policy is not near-uniform."""
    agent = agent_for(distribution)
    agent.normalizer.update(moments(observations()))
    agent.reward_scale.moments.update(moments(torch.rand(10, 1)))
    with torch.no_grad():
        agent.policy.network[-1].weight.mul_(100)
    return agent


def noise(agent, rows, seed):
    return agent.policy.distribution.noise(rows, torch.Generator().manual_seed(seed))


def z_scores(raw):
    """Normalise by NumPy in float64."""
    data = observations().double().numpy()
    return torch.from_numpy((raw.double().numpy() - data.mean(0)) / data.std(0)).float()


def test_a_part_of_the_observation_with_the_name_of_what_a_memory_keeps_is_refused():
    parts = {name: Leaf(Kind.VECTOR, (3,)) for name in ("memory.speed", "memory.policy_state")}
    config = dataclasses.replace(SMALL, policy=PolicyConfig(hidden_sizes=(8,), memory="gru"))
    with pytest.raises(UserError, match=r"a part named memory\.policy_state, which policy\.memory keeps there"):
        make_agent(config, parts, Categorical((4,)))
    make_agent(SMALL, parts, Categorical((4,)))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_without_noise_the_agent_plays_the_mode_at_normalised_observations(distribution):
    agent = acquainted(distribution)
    expected = distribution.mode(agent.policy(z_scores(observations())))
    torch.testing.assert_close(agent.actor()(observations(), None), expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_with_noise_the_agent_samples_by_it_alone(distribution):
    agent = acquainted(distribution)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    first, again = (agent.actor()(observations(), noise(agent, len(observations()), 1)) for _ in range(2))
    other = agent.actor()(observations(), noise(agent, len(observations()), 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]


def test_sampled_actions_have_the_mean_and_deviation_of_the_policy():
    agent = agent_for(DiagonalGaussian(2), policy=PolicyConfig(hidden_sizes=(), initial_log_std=-1.0))
    torch.nn.init.constant_(agent.policy.network[-1].weight, 0.0)
    torch.nn.init.constant_(agent.policy.network[-1].bias, 3.0)
    actions = agent.actor()(torch.zeros(20_000, 3), noise(agent, 20_000, 0))
    # The standard errors are 0.37 / √20000 = 0.0026 and 0.37 / √40000 = 0.0018: five of them.
    np.testing.assert_allclose(actions.mean(0), 3.0, atol=0.013)
    np.testing.assert_allclose(actions.std(0), np.exp(-1.0), atol=0.0092)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_acting_leaves_no_graph_and_no_trace(distribution):
    agent = acquainted(distribution)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    assert not agent.actor()(observations(), noise(agent, len(observations()), 1)).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_restored_agent_is_the_same_agent_bit_for_bit(distribution):
    agent, restored = acquainted(distribution), agent_for(distribution, seed=99)
    restored.load_state_dict(agent.state_dict())
    seen = observations()
    assert torch.equal(restored.actor()(seen, None), agent.actor()(seen, None))
    assert torch.equal(restored.critic(restored.normalize(seen)), agent.critic(agent.normalize(seen)))
    assert torch.equal(restored.reward_scale(torch.ones(4, 2)), agent.reward_scale(torch.ones(4, 2)))


def test_weights_are_drawn_from_the_seed_alone():
    torch.manual_seed(1)
    first = agent_for(DiagonalGaussian(2), seed=7).state_dict()
    torch.manual_seed(2)
    again, other = (agent_for(DiagonalGaussian(2), seed=seed).state_dict() for seed in (7, 8))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    weights = [name for name in first if name.endswith("weight")]
    assert len(weights) == 4
    assert not any(torch.equal(other[name], first[name]) for name in weights)


def test_policy_and_critic_share_nothing():
    agent = agent_for(DiagonalGaussian(2))
    policy, critic = ({p.data_ptr() for p in part.parameters()} for part in (agent.policy, agent.critic))
    assert not policy & critic


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_the_policy_fits_the_distribution(distribution):
    agent = agent_for(distribution)
    assert isinstance(agent.policy, GaussianPolicy if isinstance(distribution, DiagonalGaussian) else LogitPolicy)
    assert agent.policy.distribution == distribution
    assert agent.policy(observations()).shape == (50, distribution.parameter_size)
    assert agent.critic(observations()).shape == (50,)


@pytest.mark.parametrize(("network", "std"), [("", "shared"), ("", "state"), ("own_networks:Plain", "shared")])
@pytest.mark.parametrize("bounds", ["clip", "censor", "tanh"])
def test_a_policy_knows_by_what_its_actions_are_compared(bounds, network, std):
    """One of one's own, too."""
    limits = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    config = dataclasses.replace(SMALL, policy=PolicyConfig(hidden_sizes=(8,), bounds=bounds, network=network, std=std))
    made = make_agent(config, Leaf(Kind.VECTOR, (3,)), DiagonalGaussian(2), limits)
    expected = CensoredGaussian(2, (-1.0, -1.0), (1.0, 1.0)) if bounds == "censor" else DiagonalGaussian(2)
    assert made.policy.distribution == expected


def test_a_gaussian_policy_starts_with_the_configured_deviation():
    agent = agent_for(DiagonalGaussian(2), policy=PolicyConfig(initial_log_std=-0.7, min_log_std=-2.0))
    log_std = agent.policy(observations()).chunk(2, dim=-1)[1]
    torch.testing.assert_close(log_std, torch.full((50, 2), -0.7))


# (normalize.observations, normalize.rewards, one-hot observations) and what the agent then has
STATISTICS = [
    (True, True, False, {ObservationNormalizer, RewardScale}),
    (False, True, False, {RewardScale}),
    (True, False, False, {ObservationNormalizer}),
    (True, True, True, {OneHotScale, RewardScale}),
    (False, True, True, {RewardScale}),
]


@pytest.mark.parametrize(("of_observations", "of_rewards", "one_hot", "expected"), STATISTICS)
def test_an_agent_has_the_statistics_that_are_asked_for(of_observations, of_rewards, one_hot, expected):
    normalize = NormalizeConfig(observations=of_observations, rewards=of_rewards)
    agent = agent_for(Categorical((2,)), one_hot=one_hot, normalize=normalize)
    assert {type(part) for part in (agent.normalizer, agent.reward_scale) if part is not None} == expected


def test_a_one_hot_agent_saves_what_its_observations_are_scaled_by():
    """So that another scale, in another version, cannot pass for the one it learned with."""
    agent = agent_for(Categorical((2,)), one_hot=True)
    assert agent.state_dict()["normalizer.scale"] == pytest.approx(3**0.5)
    torch.testing.assert_close(agent.normalize(torch.eye(3)), 3**0.5 * torch.eye(3))


def test_without_a_normalizer_observations_are_seen_as_they_are():
    agent = agent_for(Categorical((2,)), normalize=NormalizeConfig(observations=False))
    assert torch.equal(agent.normalize(1000 * observations()), 1000 * observations())
