import math

import numpy as np
import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, FixedStd, normal, random_batch, random_policy

from trpo.models.distributions import Bernoulli
from trpo.models.networks import LogitPolicy
from trpo.numerics.params import flatten
from trpo.update.objective import Objective

DISTANCES = np.geomspace(1e-3, 1e-2, 9)  # KL from 1e-6 to 1e-4, errors above 1e-11: rounding is at 1e-16


def errors(policy, batch, direction):
    """KL − quadratic at every distance, in units in which ½dᵀFd = 1."""
    objective = Objective(policy, batch)
    direction = direction / torch.sqrt(0.5 * direction @ objective.fisher_product(direction))
    theta = flatten(policy)
    kls = [objective.evaluate(theta + float(t) * direction).kl for t in DISTANCES]
    return np.array(kls) - DISTANCES**2


def slope(errors):
    return np.polyfit(np.log(DISTANCES), np.log(np.abs(errors)), 1)[0]


@pytest.fixture(params=DISTRIBUTIONS)
def policy(request):
    return random_policy(DISTRIBUTIONS[request.param], hidden_sizes=(8, 8))


def test_error_of_the_quadratic_model_is_of_third_order(policy):
    batch = random_batch(policy, samples=50)
    found = errors(policy, batch, normal(len(flatten(policy)), seed=7))
    assert len(set(np.sign(found))) == 1
    assert np.abs(found).min() > 1e-13
    assert slope(found) == pytest.approx(3.0, abs=0.1)


def test_where_both_directions_look_alike_the_error_is_of_fourth_order():
    distribution = DISTRIBUTIONS["bernoulli"]
    settings = {"hidden_sizes": (), "activation": "tanh", "generator": oracles.generator(0)}
    policy = LogitPolicy(oracles.OBSERVATION_SIZE, distribution, **settings).double()
    torch.nn.init.zeros_(policy.network[0].weight)  # every bit is fair in every state: KL(d) = KL(−d)
    found = errors(policy, random_batch(policy, samples=50), normal(len(flatten(policy)), seed=7))
    assert slope(found) == pytest.approx(4.0, abs=0.1)


def test_kl_of_a_linear_gaussian_with_fixed_std_is_its_quadratic_model():
    policy = FixedStd(normal(2, oracles.OBSERVATION_SIZE, seed=1), std=0.3)
    found = errors(policy, random_batch(policy, samples=50), normal(6, seed=7))
    assert np.abs(found / DISTANCES**2).max() < 1e-12


def test_kl_of_one_bit_has_the_cubic_term_of_its_closed_form():
    # Along the logit: KL = ½p(1−p)t² + p(1−p)(1−2p)t³/6 + …; with p = ¼ in units of ½p(1−p)t² = 1
    p = 0.25
    policy = LogitPolicy(1, Bernoulli(1), hidden_sizes=(), activation="tanh", generator=oracles.generator(0)).double()
    torch.nn.init.zeros_(policy.network[0].weight)
    torch.nn.init.constant_(policy.network[0].bias, math.log(p / (1 - p)))
    batch = random_batch(policy, samples=4, observation_size=1)
    unit = math.sqrt(2 / (p * (1 - p)))
    cubic = p * (1 - p) * (1 - 2 * p) / 6 * unit**3
    found = errors(policy, batch, torch.tensor([0.0, 1.0], dtype=torch.float64))
    np.testing.assert_allclose(found / DISTANCES**3, cubic, rtol=0.02)
