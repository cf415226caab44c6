"""The entropy bonus: gains by torch.distributions, and the optimum that is known in closed form."""

import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, Bandit, normal, random_batch, random_policy

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.numerics.params import assign, flatten
from trpo.update.entropy import WithEntropy, entropy_part, with_entropy
from trpo.update.objective import Objective
from trpo.update.surrogates import Score, pieces
from trpo.update.trust_region import trust_region_step


def case(name):
    policy = random_policy(DISTRIBUTIONS[name])
    batch = random_batch(policy)._replace(advantage_scale=4.0)
    return policy, batch, with_entropy(Score(policy.distribution, batch), policy, batch, 0.5)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_gain_is_that_of_the_surrogate_and_beta_times_the_entropy(name):
    """β is in scaled reward, the surrogate in standard deviations of the advantages."""
    policy, batch, surrogate = case(name)
    theta = flatten(policy) + 0.1 * normal(len(flatten(policy)), seed=5)
    before, after = batch.old_parameters, oracles.at(policy, theta, batch.observations)
    risen = (oracles.entropy(policy.distribution, after) - oracles.entropy(policy.distribution, before)).mean()
    plain = Objective(policy, batch).evaluate(theta).improvement
    gained = Objective(policy, batch, surrogate).evaluate(theta).improvement
    assert gained == pytest.approx(plain + 0.5 / 4.0 * float(risen), rel=1e-9)
    assert abs(float(risen)) > 1e-3
    assign(policy, theta)
    assert entropy_part(surrogate, policy, batch)["entropy_improvement"] == pytest.approx(gained - plain, rel=1e-9)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_nothing_is_gained_at_theta_old(name):
    _, batch, surrogate = case(name)
    (piece,) = pieces(batch, surrogate)
    assert not surrogate.gain(batch.old_parameters, piece).any()


def test_without_a_weight_the_surrogate_is_the_same_object():
    policy, batch, _ = case("gaussian")
    score = Score(policy.distribution, batch)
    assert with_entropy(score, policy, batch, 0.0) is score
    assert entropy_part(score, policy, batch) == {}


class Exact:
    """Σ_a (π_θ − π_old)(a) r(a), of a bandit whose rewards are known."""

    scale = 1.0

    def __init__(self, rewards, old):
        self.rewards, self.columns = rewards, {"old": old}

    def gain(self, parameters, piece):
        change = parameters.softmax(-1) - piece.columns["old"].softmax(-1)
        return change @ self.rewards


def test_steps_end_at_the_softmax_of_rewards_over_beta():
    """max Σ π r + βH(π) is solved by π ∝ exp(r/β), from which no step away improves."""
    rewards, beta = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64), 0.6
    policy = Bandit(torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64))
    seen = torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(30):
        old = policy(seen).detach()
        nothing = torch.zeros(1, dtype=torch.float64)
        batch = Batch(seen, torch.zeros(1, 1), old, nothing, nothing)
        surrogate = WithEntropy(Exact(rewards, old), policy.distribution, batch, beta)
        config = TrustRegionConfig(max_kl=0.05, min_multiplier=1.0, relative_damping=0.0)
        trust_region_step(policy, batch, config, surrogate=surrogate)
    torch.testing.assert_close(policy(seen)[0].softmax(-1), (rewards / beta).softmax(-1), rtol=1e-3, atol=1e-3)
