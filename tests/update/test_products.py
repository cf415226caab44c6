"""How many Fisher products a policy step makes, and that those it leaves out were not needed."""

import pytest
from oracles import random_batch, random_policy

from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.numerics.conjugate_gradient import dot
from trpo.numerics.params import flatten
from trpo.update.objective import Objective
from trpo.update.trust_region import trust_region_step


@pytest.fixture
def products(monkeypatch):
    """Every vector that was multiplied, in order."""
    vectors, product = [], Objective.fisher_product
    monkeypatch.setattr(Objective, "fisher_product", lambda self, v: vectors.append(v) or product(self, v))
    return vectors


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 6),  # Fg, for the damping, is the first product of the solve, and Fx comes with x
        ({"relative_damping": 0.0, "damping": 0.1}, 6),
        ({"fisher_fraction": 0.5}, 7),  # the solve knows half of the batch, the curvature is that of all
        ({"micro_batch": 7}, 6),
    ],
)
def test_a_step_makes_no_product_twice(products, settings, count):
    policy = random_policy(DiagonalGaussian(2))
    batch = random_batch(policy, samples=40)
    theta = flatten(policy)
    step = trust_region_step(policy, batch, TrustRegionConfig(cg_iterations=6, cg_tolerance=0.0, **settings))
    assert step.cg_iterations == 6
    assert len(products) == count
    curvature = dot(step.step, Objective(policy, batch, theta=theta).fisher_product(step.step))
    assert step.kl_quadratic_full_step == pytest.approx(curvature / 2, rel=1e-9)


def test_the_share_of_the_curvature_is_that_along_the_gradient(products):
    policy = random_policy(DiagonalGaussian(2))
    batch = random_batch(policy, samples=40)
    objective = Objective(policy, batch)
    g = objective.gradient()
    along = dot(g, objective.fisher_product(g)) / dot(g, g)
    step = trust_region_step(policy, batch, TrustRegionConfig(damping=0.2, relative_damping=0.5))
    assert step.damping == pytest.approx(0.2 + 0.5 * along, rel=1e-9)
