"""The pathwise surrogate: its gradient against the score function's and brute force, its units, its place in a step."""

import math
from types import SimpleNamespace

import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, OBSERVATION_SIZE, normal, random_batch, random_policy, random_policy_of_parts
from torch import distributions as td

from trpo.config import ActionValuesConfig, TrustRegionConfig, UserError
from trpo.models.action_values import ActionValues, joint_actions
from trpo.models.bounds import Clip, Tanh, clipped
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.models.observations import leaves_of, like
from trpo.numerics.params import flatten
from trpo.update.action_values import joint_index
from trpo.update.objective import Objective
from trpo.update.pathwise import Expected, Pathwise
from trpo.update.sources import PathwiseSource
from trpo.update.surrogates import Score, pieces
from trpo.update.trust_region import trust_region_step

WIDE = Clip(torch.tensor([[-1e9], [1e9]], dtype=torch.float64))
DISCRETE = {name: distribution for name, distribution in DISTRIBUTIONS.items() if "gaussian" not in name}


class Bowl:
    """Q(s, a) = −‖a − a*(s)‖² with a*(s) = Ws, where networks would be."""

    def __init__(self, states, actions, factor=1.0):
        self.W = normal(actions, states, seed=3) / math.sqrt(states)
        self.states, self.factor = states, factor

    def features(self, observations):
        return observations

    def mean(self, rows):
        s, a = rows.split([self.states, rows.shape[1] - self.states], dim=1)
        return -self.factor * (a - s @ self.W.T).square().sum(1, keepdim=True)

    def advantages(self, batch):
        """Q(s, a) − V(s), V = −‖μ − a*‖² − Σσ² exactly: the best that the score function can have."""
        mean, log_std = batch.old_parameters.chunk(2, dim=1)
        of_states = self.mean(torch.cat([batch.observations, mean], 1)) - (2 * log_std).exp().sum(1, keepdim=True)
        return (self.mean(torch.cat([batch.observations, batch.actions], 1)) - of_states).flatten()


def values_for(distribution, seed=0):
    config = ActionValuesConfig(hidden_sizes=(7, 6))
    return oracles.action_values(config, OBSERVATION_SIZE, distribution, seed=seed).double()


def gaussian_case(samples, *, seed=1, sigma=0.3, actions=6):
    """A Gaussian policy of six dimensions with σ 0.3, a batch of its own, and advantages that are Q's."""
    policy = random_policy(DiagonalGaussian(actions), seed=2)
    with torch.no_grad():
        policy.rho.fill_(math.log(math.expm1(math.log(sigma) + 3.0)))
    batch = random_batch(policy, samples=samples, seed=seed)
    return policy, batch._replace(advantages=Bowl(OBSERVATION_SIZE, actions).advantages(batch))


def gradients(policy, batch, noise_seed, count=1):
    noise = normal(len(batch.actions), count, batch.actions.shape[1], seed=noise_seed)
    bowl = Bowl(OBSERVATION_SIZE, batch.actions.shape[1])
    through = Objective(policy, batch, Pathwise(bowl, batch, noise, WIDE), micro_batch=100_000).gradient()
    return through, Objective(policy, batch, Score(policy.distribution, batch), micro_batch=100_000).gradient()


@pytest.mark.slow
def test_its_gradient_is_that_of_the_score_function_on_a_million_samples():
    policy, batch = gaussian_case(1_000_000)
    through, score = gradients(policy, batch, noise_seed=11)
    assert float((through - score).norm() / through.norm()) < 0.01


def test_its_gradient_has_a_thirtieth_of_the_variance_of_the_score_functions():
    """In the same 2,048 states, the score function with the best critic there could be."""
    policy, batch = gaussian_case(2_048)
    found = []
    for seed in range(40):
        actions = policy.distribution.sample(batch.old_parameters, normal(2_048, 6, seed=100 + seed))
        again = batch._replace(actions=actions)
        again = again._replace(advantages=Bowl(OBSERVATION_SIZE, 6).advantages(again))
        found.append(gradients(policy, again, noise_seed=1_000 + seed))
    through, score = (torch.stack(columns) for columns in zip(*found, strict=True))
    assert float(through.var(0).sum()) < float(score.var(0).sum()) / 30
    difference = through.mean(0) - score.mean(0)
    error = (score.var(0) / len(score)).sum().sqrt()
    assert difference.norm() < 2 * error


def test_q_times_a_thousand_takes_the_same_step_where_no_multiplier_is_asked_for():
    thetas = []
    for factor in (1.0, 1_000.0):
        policy, batch = gaussian_case(300)
        bowl = Bowl(OBSERVATION_SIZE, 6, factor)
        surrogate = Pathwise(bowl, batch, normal(300, 4, 6, seed=5), WIDE)
        step = trust_region_step(policy, batch, TrustRegionConfig(min_multiplier=0.0), surrogate=surrogate)
        assert step.accepted
        thetas.append(flatten(policy))
    torch.testing.assert_close(*thetas, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", [Clip, Tanh])
@pytest.mark.parametrize("micro_batch", [0, 7])
def test_gain_and_gradient_are_those_of_the_networks_by_hand(micro_batch, kind):
    """Of the mean of two real networks, through clip or tanh, over four draws a state."""
    policy, batch = gaussian_case(40, actions=2)
    limits = torch.tensor([[-1.0, -0.5], [1.0, 0.3]], dtype=torch.float64)
    values, noise = values_for(DiagonalGaussian(2)), normal(40, 4, 2, seed=5)
    objective = Objective(policy, batch, Pathwise(values, batch, noise, kind(limits)), micro_batch=micro_batch)

    def worth(theta):
        mean, log_std = objective.parameters(theta, batch.observations).chunk(2, dim=1)
        total = 0.0
        for k in range(4):
            drawn = mean + log_std.exp() * noise[:, k]
            actions = torch.minimum(torch.maximum(drawn, limits[0]), limits[1])
            if kind is Tanh:  # of the first dimension: the other's bounds are not ±1, its units are its own
                actions = torch.stack([2 / (1 + (-2 * drawn[:, 0]).exp()) - 1, actions[:, 1]], 1)
            total = total + values(torch.cat([batch.observations, actions], 1)).squeeze(2).mean() / 4
        return total

    theta = flatten(policy).requires_grad_()
    before = worth(theta)
    (expected,) = torch.autograd.grad(before, theta)
    torch.testing.assert_close(objective.gradient(), expected, rtol=1e-8, atol=1e-12)
    moved = flatten(policy) + 0.05 * normal(len(theta), seed=6)
    gained = float(worth(moved) - before.detach())
    assert objective.evaluate(moved).improvement == pytest.approx(gained, rel=1e-8)
    assert abs(gained) > 1e-4


def test_at_theta_old_the_gain_of_every_row_is_exactly_zero():
    _, batch = gaussian_case(40, actions=2)
    bounds = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    surrogate = Pathwise(values_for(DiagonalGaussian(2)), batch, normal(40, 4, 2, seed=5), Clip(bounds))
    (piece,) = pieces(batch, surrogate)
    assert not surrogate.gain(batch.old_parameters, piece).any()


def test_an_action_outside_its_bounds_has_no_gradient():
    policy, batch = gaussian_case(40, actions=2)
    outside = torch.tensor([[50.0, 50.0], [60.0, 60.0]], dtype=torch.float64)  # every draw is below
    surrogate = Pathwise(values_for(DiagonalGaussian(2)), batch, normal(40, 4, 2, seed=5), Clip(outside))
    assert not Objective(policy, batch, surrogate).gradient().any()
    actions = torch.tensor([[40.0, 55.0]], dtype=torch.float64)
    assert clipped(actions, outside).tolist() == [[50.0, 55.0]]


def torch_probabilities(distribution, parameters):
    """The probability (N, M) of every joint action, by torch.distributions."""
    joint = joint_actions(distribution).double()
    if isinstance(distribution, Bernoulli):
        each = td.Bernoulli(logits=parameters.unsqueeze(1)).log_prob(joint.unsqueeze(0))
        return each.sum(-1).exp()
    parts = zip(parameters.split(distribution.sizes, dim=1), joint.unbind(1), strict=True)
    return math.prod(td.Categorical(logits=logits).probs[:, a.long()] for logits, a in parts)


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("micro_batch", [0, 5])
def test_the_sum_over_actions_is_that_of_brute_force(name, micro_batch):
    distribution = DISCRETE[name]
    policy = random_policy(distribution)
    batch, values = random_batch(policy), values_for(distribution)
    objective = Objective(policy, batch, Expected(distribution, values, batch), micro_batch=micro_batch)
    q = values(batch.observations).mean(0)

    def worth(theta):
        return (torch_probabilities(distribution, objective.parameters(theta, batch.observations)) * q).sum(1).mean()

    theta = flatten(policy).requires_grad_()
    (expected,) = torch.autograd.grad(worth(theta), theta)
    torch.testing.assert_close(objective.gradient(), expected, rtol=1e-8, atol=1e-12)
    moved = flatten(policy) + 0.1 * normal(len(theta), seed=6)
    gained = float(worth(moved) - worth(flatten(policy)))
    assert objective.evaluate(moved).improvement == pytest.approx(gained, rel=1e-8)
    assert not Expected(distribution, values, batch).gain(batch.old_parameters, objective_piece(objective)).any()


def objective_piece(objective):
    """All rows as one piece, with the surrogate's columns."""
    columns = {name: torch.cat([p.columns[name] for p in objective.pieces]) for name in objective.pieces[0].columns}
    first = objective.pieces[0]
    return first._replace(columns=columns)


@pytest.mark.parametrize("name", DISCRETE)
def test_joint_actions_are_where_a_batch_of_parts_is(name):
    """The device `meta` stands in for a GPU: like one, it mixes with no other."""
    policy, joint = random_policy_of_parts(DISCRETE[name]), joint_actions(DISCRETE[name])
    batch = random_batch(policy).map(lambda column: column.to("meta"))
    batch = batch._replace(observations=like(batch.observations, leaves_of(batch.observations)))  # names no device
    q = torch.empty(len(batch.old_parameters), len(joint), device="meta")
    values = SimpleNamespace(features=lambda observations: observations, mean=lambda _: q)
    surrogate = Expected(DISCRETE[name], values, batch)
    assert surrogate.actions.device.type == "meta"
    assert surrogate.gain(batch.old_parameters, SimpleNamespace(columns=surrogate.columns)).device.type == "meta"


@pytest.mark.parametrize("name", DISCRETE)
def test_every_joint_action_has_a_row_of_its_own(name):
    distribution = DISCRETE[name]
    joint = joint_actions(distribution)
    assert len({tuple(row) for row in joint.tolist()}) == len(joint)
    assert joint_index(joint, joint).tolist() == list(range(len(joint)))
    policy = random_policy(distribution)
    batch = random_batch(policy, samples=50)
    assert torch.equal(joint[joint_index(batch.actions, joint)].double(), batch.actions)


def test_too_many_joint_actions_are_one_line():
    assert len(joint_actions(Categorical((16, 16)))) == 256
    with pytest.raises(UserError, match=r"512 joint actions are too many.*at most 256"):
        joint_actions(Bernoulli(9))


def test_continuous_actions_are_an_input_and_discrete_ones_outputs():
    assert values_for(DiagonalGaussian(2)).sizes == (OBSERVATION_SIZE + 2, 7, 6, 1)
    assert values_for(Categorical((3, 2))).sizes == (OBSERVATION_SIZE, 7, 6, 6)
    assert isinstance(values_for(Bernoulli(3)), ActionValues)


def test_the_first_networks_depend_on_the_seed_and_differ_from_each_other():
    one, same, other = (values_for(DiagonalGaussian(2), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.theta, same.theta)
    assert not torch.equal(one.theta, other.theta)
    first, second = one(normal(5, OBSERVATION_SIZE + 2, seed=1))
    assert (first - second).abs().min() > 1e-4


def test_the_noise_of_an_environment_is_the_same_whichever_rank_steps_it():
    valid = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.8

    def noise(environments):
        config, columns = ActionValuesConfig(noise=3), slice(environments.start, environments.stop)
        settings = {"gamma": 0.9, "seed": 4, "environments": environments, "num_envs": 5}
        source = PathwiseSource(values_for(DiagonalGaussian(2)), config, WIDE, **settings)
        rows = valid[:, columns]
        drawn = source._noise(SimpleNamespace(rewards=rows, actions=torch.zeros(*rows.shape, 2), valid=rows), 6)
        return torch.zeros(*rows.shape, 3, 2).masked_scatter_(rows[:, :, None, None], drawn)

    shares = [noise(range(2)), noise(range(2, 5))]
    assert torch.equal(torch.cat(shares, dim=1), noise(range(5)))


@pytest.mark.parametrize(
    ("bounds", "given", "expected"), [(None, None, 1), (WIDE, None, 0.5), (None, 0, 0), (WIDE, 2, 2)]
)
def test_pessimism_follows_the_kind_of_actions_unless_it_is_given(bounds, given, expected):
    distribution = Categorical((3,)) if bounds is None else DiagonalGaussian(2)
    settings = {"gamma": 0.9, "seed": 4, "environments": range(2), "num_envs": 2}
    source = PathwiseSource(values_for(distribution), ActionValuesConfig(pessimism=given), bounds, **settings)
    assert source._pessimism() == expected
