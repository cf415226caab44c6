"""The step is the natural gradient: known in closed form for a bandit, and the same however a policy is written."""

import math

import oracles
import pytest
import torch
from oracles import Bandit, normal, random_batch, random_policy
from torch import nn

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.models.networks import Policy
from trpo.numerics.params import flatten
from trpo.update.trust_region import trust_region_step

EXACT = {"damping": 0.0, "relative_damping": 0.0, "cg_iterations": 100, "cg_tolerance": 1e-11}


def bandit_batch(policy, actions, advantages):
    ones = torch.ones(len(actions), 1, dtype=torch.float64)
    return Batch(ones, actions.unsqueeze(-1), policy(ones).detach(), advantages, ones[:, 0])


def test_natural_gradient_of_a_bandit_is_the_advantage_of_each_arm():
    # Pulled as often as their probabilities 0.2, 0.3, 0.5 say, with advantages −2, 3, −1: Σ pÂ = 0. Then g = p∘Â, and
    # F = diag(p) − ppᵀ sends Â to p∘Â: Â, up to the constant that softmax ignores, solves Fx = g. xᵀFx = Σ pÂ² = 4.
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    policy = Bandit(p.log())
    actions = torch.tensor([0] * 2 + [1] * 3 + [2] * 5)
    arm_advantages = torch.tensor([-2.0, 3.0, -1.0], dtype=torch.float64)
    before = flatten(policy)
    batch = bandit_batch(policy, actions, arm_advantages[actions])
    info = trust_region_step(policy, batch, TrustRegionConfig(max_kl=1e-3, **EXACT))
    expected = (arm_advantages - arm_advantages.mean()) * math.sqrt(2 * 1e-3 / 4)
    torch.testing.assert_close((flatten(policy) - before) / info.step_fraction, expected, rtol=1e-9, atol=1e-12)
    assert info.multiplier == pytest.approx(math.sqrt(4 / (2 * 1e-3)))


@pytest.mark.parametrize("arms", [2, 5, 10])
def test_step_on_any_bandit_is_the_closed_form_on_the_simplex(arms):
    # Σg = 0 always, so x = g/p solves (diag(p) − ppᵀ)x = g, and xᵀFx = Σ g²/p
    policy = Bandit(normal(arms, seed=1))
    p = torch.softmax(flatten(policy), dim=0)
    actions = torch.randint(arms, (50,), generator=oracles.generator(2))
    advantages = normal(50, seed=3)
    one_hot = nn.functional.one_hot(actions, arms).double()
    g = (advantages.unsqueeze(-1) * (one_hot - p)).mean(0)
    expected = (g / p - (g / p).mean()) * math.sqrt(2e-4 / (g**2 / p).sum())
    before = flatten(policy)
    config = TrustRegionConfig(max_kl=1e-4, damping=1e-10, relative_damping=0.0, cg_iterations=arms, cg_tolerance=1e-12)
    info = trust_region_step(policy, bandit_batch(policy, actions, advantages), config)
    torch.testing.assert_close((flatten(policy) - before) / info.step_fraction, expected, rtol=1e-5, atol=1e-8)


class Rewritten(Policy):
    """The same policy with other letters: θ = change(φ)."""

    def __init__(self, policy, change, phi):
        super().__init__()
        self.distribution = policy.distribution
        self.phi = nn.Parameter(phi.clone())
        self.inner = [policy]  # a list hides its parameters: φ is all there is to optimise
        self.change = change

    def forward(self, observations):
        return oracles.at(self.inner[0], self.change(self.phi), observations)


def change_of_parameters(policy, batch, **config):
    """The change of the distribution parameters (N, D) per fraction of the full step."""
    info = trust_region_step(policy, batch, TrustRegionConfig(**config))
    with torch.no_grad():
        return (policy(batch.observations) - batch.old_parameters) / info.step_fraction


@pytest.fixture
def policy():
    return random_policy(DiagonalGaussian(2), hidden_sizes=())


@pytest.fixture
def batch(policy):
    return random_batch(policy, samples=100)


def mixed(policy):
    """The policy with θ = Aφ."""
    theta = flatten(policy)
    A = torch.eye(len(theta), dtype=theta.dtype) + 0.3 * normal(len(theta), len(theta), seed=9)
    return Rewritten(policy, lambda phi: A @ phi, torch.linalg.solve(A, theta))


def bent(policy):
    """The policy with θ = sinh φ, elementwise."""
    return Rewritten(policy, torch.sinh, torch.asinh(flatten(policy)))


def test_a_linear_change_of_letters_changes_no_step(policy, batch):
    other = change_of_parameters(mixed(policy), batch, max_kl=1e-2, **EXACT)
    own = change_of_parameters(policy, batch, max_kl=1e-2, **EXACT)
    torch.testing.assert_close(other, own, rtol=1e-6, atol=1e-8)


def test_damping_is_what_depends_on_the_letters(policy, batch):
    damped = {"max_kl": 1e-2, **EXACT, "damping": 1.0}
    other = change_of_parameters(mixed(policy), batch, **damped)
    own = change_of_parameters(policy, batch, **damped)
    assert (other - own).norm() > 0.05 * own.norm()


def test_damping_by_a_share_of_the_curvature_does_not_depend_on_the_unit_of_the_letters(policy, batch):
    theta = flatten(policy)
    in_thousandths = Rewritten(policy, lambda phi: phi / 1000, 1000 * theta)
    for damped, same in [({"relative_damping": 0.1}, True), ({"damping": 1.0}, False)]:
        settings = {"max_kl": 1e-2, **EXACT, **damped}
        other, own = (change_of_parameters(each, batch, **settings) for each in (in_thousandths, policy))
        assert torch.allclose(other, own, rtol=1e-6, atol=1e-8) is same


def test_a_curved_change_of_letters_changes_the_step_in_second_order_alone(policy, batch):
    theta = flatten(policy)
    differences = []
    for max_kl in [1e-4, 1e-6]:  # steps √100 = 10 times shorter: differences 100 times smaller
        other = change_of_parameters(bent(policy), batch, max_kl=max_kl, **EXACT)
        fresh = Rewritten(policy, lambda phi: phi, theta)
        own = change_of_parameters(fresh, batch, max_kl=max_kl, **EXACT)
        differences.append((other - own).norm().item())
        assert differences[-1] < 0.1 * own.norm()
    assert differences[0] / differences[1] == pytest.approx(100.0, rel=0.1)
