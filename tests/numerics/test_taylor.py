import math

import numpy as np
import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, FixedStd, normal, random_batch, random_policy
from torch import Tensor

from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.numerics.params import flatten
from trpo.numerics.taylor import along, fitted_order, taylor_terms
from trpo.update.objective import Objective

FRACTIONS = [float(t) for t in np.geomspace(0.01, 0.1, 9)]
EPSILON = np.finfo(np.float64).eps
ORDERS = {0: 2.0, 1: 2.0, 2: 3.0, 3: 4.0}  # truncation to the order of its error; the KL's first term is zero


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def polynomial(theta: Tensor) -> Tensor:
    """2 + 3u − u² + 4u³ + 5u⁴ of u = θ₁ + 2θ₂, by products and sums alone: whole numbers stay whole, nothing rounds."""
    u = theta[0] + 2 * theta[1]
    return 2 + u * (3 + u * (-1 + u * (4 + u * 5)))


AT_ZERO = [2, 3, -1, 4]
AT_ONE = [13, 33, 41, 24]  # 2+3−1+4+5; 3−2+12+20; (−2+24+60)/2; (24+120)/6


@pytest.mark.parametrize(("theta", "terms"), [(vector(0, 0), AT_ZERO), (vector(3, -1), AT_ONE)])
def test_terms_of_a_polynomial_are_its_coefficients_around_theta(theta, terms):
    found = taylor_terms(polynomial, theta, vector(-1, 1))  # u grows by 1
    assert found == tuple(terms)


def test_terms_of_a_longer_step_grow_by_their_powers():
    found = taylor_terms(polynomial, vector(3, -1), vector(2, -2.5))  # u falls by 3
    assert found == tuple(term * (-3) ** order for order, term in enumerate(AT_ONE))


def test_every_truncation_misses_exactly_the_terms_that_it_leaves_out():
    theta, step = vector(3, -1), vector(-1, 1)
    fractions = [0.0, 0.5, 1.0, -2.0]
    points = along(polynomial, theta, step, taylor_terms(polynomial, theta, step), fractions)
    whole = [*AT_ONE, 5]
    for t, point in zip(fractions, points, strict=True):
        scaled = [term * t**order for order, term in enumerate(whole)]
        assert (point.fraction, point.value) == (t, sum(scaled))
        assert point.predictions == tuple(sum(scaled[: k + 1]) for k in range(4))
        assert point.errors == tuple(sum(scaled[k + 1 :]) for k in range(4))


def test_terms_of_an_exponential_are_its_series():
    terms = taylor_terms(lambda theta: torch.exp(theta.sum()), vector(0.2, 0.1), vector(0.5, 1.0))
    expected = [math.exp(0.3) * 1.5**order / math.factorial(order) for order in range(4)]
    np.testing.assert_allclose(terms, expected, rtol=1e-14)


ENDING = {  # functions whose expansion ends before the third order
    "a line": (lambda theta: 3 * theta[0] - 2 * theta[1], (1, -1, 0, 0)),
    "a parabola": (lambda theta: theta @ theta, (2, 6, 5, 0)),
}


@pytest.mark.parametrize("case", ENDING)
def test_terms_beyond_the_degree_of_a_function_are_zero(case):
    function, terms = ENDING[case]
    assert taylor_terms(function, vector(1, 1), vector(1, 2)) == terms


def test_the_kl_of_a_linear_gaussian_with_fixed_std_has_a_second_order_and_no_other():
    policy = FixedStd(normal(2, oracles.OBSERVATION_SIZE, seed=1), std=0.5)
    batch, step = random_batch(policy), normal(6, seed=7)
    moved = batch.observations @ step.reshape(2, 3).T
    terms = taylor_terms(Objective(policy, batch).kl, flatten(policy), step)
    assert terms == pytest.approx((0, 0, (0.5 * (moved / 0.5).square().sum(-1)).mean().item(), 0), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_replaces_the_second_order_and_nothing_else(dtype):
    matrix = torch.tensor([[2.0, 1.0], [1.0, 6.0]], dtype=dtype)
    theta, step = vector(3, -1).to(dtype), vector(-1, 1).to(dtype)
    found = taylor_terms(polynomial, theta, step, product=lambda v: matrix @ v)
    assert found == (AT_ONE[0], AT_ONE[1], 3, AT_ONE[3])  # ½(2 − 2 + 6)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_product_of_an_update_is_the_second_order_of_its_kl(name):
    policy = random_policy(DISTRIBUTIONS[name])
    batch = random_batch(policy)
    theta, step = flatten(policy), normal(len(flatten(policy)), seed=7)
    objective = Objective(policy, batch)
    own = taylor_terms(objective.kl, theta, step)
    hessian = oracles.dense_kl_hessian(policy, theta, batch.observations, batch.old_parameters)
    assert own[2] == pytest.approx((0.5 * step @ hessian @ step).item(), rel=1e-9)
    np.testing.assert_allclose(
        taylor_terms(objective.kl, theta, step, product=objective.fisher_product), own, rtol=1e-9, atol=1e-14
    )


def test_looking_along_a_ray_leaves_no_trace():
    theta, step = vector(3, -1).requires_grad_(), vector(-1, 1)
    (point,) = along(polynomial, theta, step, AT_ONE, [1.0])
    assert isinstance(point.value, float)
    assert theta.grad is None
    assert theta.tolist() == [3, -1]


@pytest.mark.parametrize("order", [0.5, 1.0, 3.0, 4.2])
@pytest.mark.parametrize("scale", [1e-12, -7.0])
def test_the_fitted_order_of_a_power_is_its_exponent(order, scale):
    assert fitted_order(FRACTIONS, [scale * t**order for t in FRACTIONS]) == pytest.approx(order, rel=1e-12)


def test_the_fitted_order_is_the_slope_of_least_squares():
    errors = np.array(FRACTIONS) ** 3 * np.exp(0.3 * np.random.default_rng(0).normal(size=9))
    slope = np.polyfit(np.log(FRACTIONS), np.log(errors), 1)[0]
    assert fitted_order(FRACTIONS, errors.tolist()) == pytest.approx(slope, rel=1e-12)


def kl_of(distribution, *old):
    """The KL of one state as a function of the new parameters, and the old ones."""
    row = vector(*old).unsqueeze(0)
    return lambda new: distribution.kl(row, new.unsqueeze(0)).sum(), row[0]


def policy_kl(name):
    """The mean KL of a policy network as a function of θ, and θ_old."""
    policy = random_policy(DISTRIBUTIONS[name], hidden_sizes=(8, 8))
    return Objective(policy, random_batch(policy, samples=50)).kl, flatten(policy)


GENERIC = {  # a base point without symmetry
    "gaussian": lambda: kl_of(DiagonalGaussian(2), 0.3, -1.0, -0.4, 0.2),
    "categorical": lambda: kl_of(Categorical((4,)), 0.2, -0.7, 1.1, 0.4),
    "multi_categorical": lambda: kl_of(Categorical((3, 2)), 0.2, -0.7, 1.1, 0.4, -0.5),
    "bernoulli": lambda: kl_of(Bernoulli(3), 0.8, -0.5, 1.3),
    "gaussian policy": lambda: policy_kl("gaussian"),
    "categorical policy": lambda: policy_kl("categorical"),
    "multi_categorical policy": lambda: policy_kl("multi_categorical"),
    "bernoulli policy": lambda: policy_kl("bernoulli"),
}


def errors_along(kl, theta, direction, length):
    """The errors of every truncation (4, fractions) along a step on which ½sᵀHs = ½ length²."""
    step = direction * length / math.sqrt(2 * taylor_terms(kl, theta, direction)[2])
    points = along(kl, theta, step, taylor_terms(kl, theta, step), FRACTIONS)
    return np.array([point.errors for point in points]).T


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", GENERIC)
def test_the_error_of_a_truncation_is_of_the_next_order(case, order):
    kl, theta = GENERIC[case]()
    errors = errors_along(kl, theta, normal(len(theta), seed=1), length=0.5)[order]
    assert len(set(np.sign(errors))) == 1
    assert np.abs(errors).min() > 1e-12  # rounding is at 1e-16
    assert fitted_order(FRACTIONS, errors.tolist()) == pytest.approx(ORDERS[order], abs=0.2 if order == 3 else 0.1)


def test_the_quadratic_form_of_a_gaussian_mean_is_exact():
    kl, theta = kl_of(DiagonalGaussian(2), 0.3, -1.0, -0.4, 0.2)
    step = vector(0.7, -0.2, 0, 0)
    terms = taylor_terms(kl, theta, step)
    expected = (0, 0, 0.5 * (0.7**2 * math.exp(0.8) + 0.2**2 * math.exp(-0.4)), 0)
    assert terms == pytest.approx(
        expected, abs=16 * EPSILON * expected[2]
    )  # two exponentials, squared, and a few products
    for point in along(kl, theta, step, terms, [0.1, 1.0, 2.0]):
        assert abs(point.errors[2]) < 1e-14 * point.value


SYMMETRIC = {  # KL(s) = KL(−s): no odd order
    "fair bits": (Bernoulli(2), vector(0, 0), vector(1, -0.6)),
    "two equal weights exchange": (Categorical((3,)), vector(0, 0, 0), vector(1, -1, 0)),
}


@pytest.mark.parametrize("case", SYMMETRIC)
def test_where_the_kl_is_even_the_quadratic_form_is_of_fourth_order(case):
    distribution, old, direction = SYMMETRIC[case]
    kl, theta = kl_of(distribution, *old)
    terms = taylor_terms(kl, theta, direction)
    assert terms[3] == pytest.approx(
        0, abs=16 * EPSILON * terms[2]
    )  # what cancels is as large as that, and a few ε off
    errors = errors_along(kl, theta, direction, length=1.0)[2]
    assert np.abs(errors).min() > 1e-12
    assert fitted_order(FRACTIONS, errors.tolist()) == pytest.approx(4.0, abs=0.1)


def test_third_orders_are_those_of_the_closed_forms():
    # A bit along its logit: p(1 − p)(1 − 2p)/6. A Gaussian along [m, 1]: ½(e⁻²ᵗ − 1 + 2t) + ½(mt)²e⁻²ᵗ has −2/3 − m².
    kl, theta = kl_of(Bernoulli(1), math.log(0.25 / 0.75))
    assert taylor_terms(kl, theta, vector(1))[3] == pytest.approx(0.25 * 0.75 * 0.5 / 6, rel=1e-13)
    kl, theta = kl_of(DiagonalGaussian(1), 5.0, 0.0)
    assert taylor_terms(kl, theta, vector(1.5, 1))[3] == pytest.approx(-2 / 3 - 1.5**2, rel=1e-13)
