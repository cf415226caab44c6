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

CONFIG = TrustRegionConfig(cg_iterations=200)
ENVIRONMENTS = torch.arange(24) % 5  # even: 0, 2, 4


@pytest.fixture(params=DISTRIBUTIONS)
def policy(request):
    return random_policy(DISTRIBUTIONS[request.param])


@pytest.fixture
def batch(policy):
    return random_batch(policy)._replace(environments=ENVIRONMENTS)


def halves_of(policy, batch, config=CONFIG):
    return compare_halves(policy, batch, config, flatten(policy))


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


def test_after_one_product_it_is_a_gradient_step_whatever_the_damping(policy, batch):
    """By hand, without a solve: √2 gᵀg / √(gᵀFg) promised, √2 g_judgeᵀg / √(gᵀFg) kept."""
    theta, parts = flatten(policy).requires_grad_(), []
    halves = halves_of(policy, batch, replace(CONFIG, cg_iterations=1))
    for parity in (0, 1):
        half = batch.map(lambda column, parity=parity: column[batch.environments % 2 == parity])
        (g,) = torch.autograd.grad(oracles.surrogate(policy, theta, half), theta)
        parts.append((g, math.sqrt(2 / float(g @ oracles.dense_fisher(policy, theta.detach(), half.observations) @ g))))
    std = float(batch.advantages.std(correction=0))
    promised = sum(float(g @ g) * length for g, length in parts) / 2 / std
    kept = sum(float(parts[0][0] @ parts[1][0]) * length for _, length in parts) / 2 / std
    assert halves.promised == pytest.approx([promised] * len(RELATIVE_DAMPINGS), rel=1e-6)
    assert halves.kept == pytest.approx([kept] * len(RELATIVE_DAMPINGS), rel=1e-6)


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


@pytest.mark.parametrize("environments", [None, torch.zeros(24, dtype=torch.long), torch.full((24,), 3)])
def test_there_are_none_of_fewer_than_two_environments(policy, batch, environments):
    assert halves_of(policy, batch._replace(environments=environments)) is None


def test_there_are_none_without_a_gradient(policy, batch):
    assert halves_of(policy, batch._replace(advantages=torch.zeros(24, dtype=torch.float64))) is None
    one = torch.where(ENVIRONMENTS % 2 == 0, normal(24, seed=1), torch.zeros(24, dtype=torch.float64))
    assert halves_of(policy, batch._replace(advantages=one)) is None
