import math
from dataclasses import replace

import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, normal, random_batch, random_policy

from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.numerics.params import flatten
from trpo.update.halves import RELATIVE_DAMPINGS, compare_halves
from trpo.update.surrogates import Score

CONFIG = TrustRegionConfig(cg_iterations=200)
ENVIRONMENTS = torch.arange(24) % 5  # even: 0, 2, 4


@pytest.fixture(params=DISTRIBUTIONS)
def policy(request):
    return random_policy(DISTRIBUTIONS[request.param])


@pytest.fixture
def batch(policy):
    return random_batch(policy)._replace(environments=ENVIRONMENTS)


def halves_of(policy, batch, config=CONFIG):
    return compare_halves(policy, batch, Score(policy.distribution, batch), config, flatten(policy))


def dense(policy, batch, relative):
    """Both figures by dense matrices and torch.distributions, the mean of both ways round."""
    theta, parts = flatten(policy).requires_grad_(), []
    for parity in (0, 1):
        half = batch.map(lambda column, parity=parity: column[batch.environments % 2 == parity])
        (g,) = torch.autograd.grad(oracles.surrogate(policy, theta, half), theta)
        parts.append((g, oracles.dense_fisher(policy, theta.detach(), half.observations)))
    std = float(batch.advantages.std(correction=0))
    promised, kept = 0.0, 0.0
    for (g, F), (judge, _) in (parts, parts[::-1]):
        damping = relative * float(g @ F @ g / (g @ g))
        x = torch.linalg.solve(F + damping * torch.eye(len(g), dtype=g.dtype), g)
        s = x * math.sqrt(2 / float(x @ F @ x))  # to a KL of one nat
        promised += float(g @ s) / 2 / std
        kept += float(judge @ s) / 2 / std
    return promised, kept


def test_promised_and_kept_are_those_of_dense_matrices(policy, batch):
    halves = halves_of(policy, batch)
    for relative, promised, kept in zip(halves.relative_dampings, halves.promised, halves.kept, strict=True):
        if relative < 0.1:
            continue  # the Krylov space of rounded products does not end where the exact one does
        assert (promised, kept) == pytest.approx(dense(policy, batch, relative), rel=1e-4, abs=1e-6)
    assert halves.relative_dampings == list(RELATIVE_DAMPINGS)


def test_the_damping_hardly_matters_where_it_is_all_there_is(policy, batch):
    """30 times the curvature along g is a gradient step: by hand, without a solve."""
    theta = flatten(policy)
    halves = halves_of(policy, batch, replace(CONFIG, cg_iterations=1))
    assert halves.promised == pytest.approx([halves.promised[0]] * len(RELATIVE_DAMPINGS))
    assert torch.equal(theta, flatten(policy))


def test_two_equal_halves_keep_all_that_they_promise(policy):
    half = random_batch(policy)
    batch = half.map(lambda column: torch.cat([column, column]))._replace(environments=torch.arange(48) // 24)
    halves = halves_of(policy, batch)
    assert halves.kept == pytest.approx(halves.promised)
    assert halves.cosine == pytest.approx(1.0)


def test_halves_of_opposite_advantages_lose_it():
    policy = random_policy(DiagonalGaussian(2))
    half = random_batch(policy)
    batch = half.map(lambda column: torch.cat([column, column]))._replace(environments=torch.arange(48) // 24)
    halves = halves_of(policy, batch._replace(advantages=torch.cat([half.advantages, -half.advantages])))
    assert halves.cosine == pytest.approx(-1.0)
    assert halves.kept == pytest.approx([-promised for promised in halves.promised])


def test_a_factor_of_the_advantages_changes_nothing(policy, batch):
    one, other = halves_of(policy, batch), halves_of(policy, batch._replace(advantages=7 * batch.advantages))
    assert other.promised == pytest.approx(one.promised)
    assert other.kept == pytest.approx(one.kept)


class Half(Score):
    """The score in another unit: half of its gain, twice its scale."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.scale *= 2

    def gain(self, parameters, piece):
        return super().gain(parameters, piece) / 2


def test_a_promise_is_in_the_unit_of_the_judge(policy, batch):
    other = compare_halves(policy, batch, Half(policy.distribution, batch), CONFIG, flatten(policy))
    assert other.promised == pytest.approx(halves_of(policy, batch).promised)
    assert other.kept == pytest.approx(halves_of(policy, batch).kept)


@pytest.mark.parametrize("environments", [None, torch.zeros(24, dtype=torch.long), torch.full((24,), 3)])
def test_there_are_none_of_fewer_than_two_environments(policy, batch, environments):
    assert halves_of(policy, batch._replace(environments=environments)) is None


def test_there_are_none_without_a_gradient(policy, batch):
    assert halves_of(policy, batch._replace(advantages=torch.zeros(24, dtype=torch.float64))) is None
    one = torch.where(ENVIRONMENTS % 2 == 0, normal(24, seed=1), torch.zeros(24, dtype=torch.float64))
    assert halves_of(policy, batch._replace(advantages=one)) is None
