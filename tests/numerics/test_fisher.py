import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, normal, random_policy

from trpo.numerics.fisher import gauss_newton_product, hessian_product
from trpo.numerics.params import flatten

EXACT = {"rtol": 1e-10, "atol": 1e-12}
OBSERVATIONS = normal(7, oracles.OBSERVATION_SIZE, seed=1)


def gauss_newton(policy):
    theta = flatten(policy).requires_grad_()
    y = oracles.at(policy, theta, OBSERVATIONS)
    return gauss_newton_product(y, theta, policy.distribution.metric(y.detach()))


def hessian(policy):
    theta = flatten(policy).requires_grad_()
    y = oracles.at(policy, theta, OBSERVATIONS)
    return hessian_product(policy.distribution.kl(y.detach(), y).mean(), theta)


@pytest.fixture(params=DISTRIBUTIONS)
def policy(request):
    return random_policy(DISTRIBUTIONS[request.param])


@pytest.fixture(params=[gauss_newton, hessian])
def product(request, policy):
    return request.param(policy)


def matrix(product, policy):
    return torch.stack([product(unit) for unit in torch.eye(len(flatten(policy)), dtype=torch.float64)], dim=1)


def test_every_column_is_that_of_the_dense_mean_of_jacobian_metric_jacobian(product, policy):
    F = oracles.dense_fisher(policy, flatten(policy), OBSERVATIONS)
    torch.testing.assert_close(matrix(product, policy), F, **EXACT)


def test_every_column_is_that_of_the_dense_hessian_of_the_mean_kl(product, policy):
    old = policy(OBSERVATIONS).detach()
    H = oracles.dense_kl_hessian(policy, flatten(policy), OBSERVATIONS, old)
    torch.testing.assert_close(matrix(product, policy), H, **EXACT)


def test_matrix_is_symmetric_and_positive_semidefinite(product, policy):
    F = matrix(product, policy)
    torch.testing.assert_close(F, F.T, **EXACT)
    assert torch.linalg.eigvalsh(F)[0] > -1e-12
    assert torch.linalg.eigvalsh(F)[-1] > 1e-3


def test_product_is_linear(product, policy):
    v, w = normal(2, len(flatten(policy)), seed=2)
    torch.testing.assert_close(product(3.0 * v - 0.5 * w), 3.0 * product(v) - 0.5 * product(w), **EXACT)


def test_product_gives_the_same_bits_twice(product, policy):
    v, w = normal(2, len(flatten(policy)), seed=2)
    first = product(v)
    product(w)
    assert torch.equal(product(v), first)


def test_product_leaves_its_vector_alone(product, policy):
    v = normal(len(flatten(policy)), seed=2)
    before = v.clone()
    product(v)
    assert torch.equal(v, before)


@pytest.mark.parametrize("activation", ["relu", "elu", "silu"])
def test_gauss_newton_is_exact_for_every_activation(activation):
    policy = random_policy(DISTRIBUTIONS["gaussian"], hidden_sizes=(4, 3), activation=activation)
    F = oracles.dense_fisher(policy, flatten(policy), OBSERVATIONS)
    torch.testing.assert_close(matrix(gauss_newton(policy), policy), F, **EXACT)


def test_hessian_product_is_the_hessian_away_from_theta_old_too(policy):
    old = (policy(OBSERVATIONS) + 0.3 * normal(7, policy.distribution.parameter_size, seed=3)).detach()
    theta = flatten(policy).requires_grad_()
    mean_kl = policy.distribution.kl(old, oracles.at(policy, theta, OBSERVATIONS)).mean()
    H = oracles.dense_kl_hessian(policy, flatten(policy), OBSERVATIONS, old)
    torch.testing.assert_close(matrix(hessian_product(mean_kl, theta), policy), H, **EXACT)
