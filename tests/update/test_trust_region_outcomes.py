"""Every way in which a step can end, reached by a real policy and a real batch, most of them small enough for hand."""

import math

import oracles
import pytest
import torch
from oracles import FixedStd, random_batch, random_policy
from torch import nn

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.distributions import Bernoulli, DiagonalGaussian
from trpo.models.gaussian_policies import GaussianPolicy
from trpo.models.networks import LogitPolicy, Policy
from trpo.numerics.line_search import Verdict
from trpo.numerics.params import flatten
from trpo.update.trust_region import Outcome, trust_region_step

BELONGS_TO_THE_TAKEN_STEP = [
    *("kl", "kl_quadratic", "kl_error", "kl_quadratic_damped", "kl_reverse", "kl_max_state"),
    *("step_norm", "step_fraction", "accepted", "expected_improvement", "improvement"),
]
NO_SEARCH = {"kl_full_step", "kl_quadratic_full_step", "kl_first_order", "kl_zeroth_order", "multiplier"}


def one_state(policy, action, advantage=1.0):
    """A batch of one sample in the state s = 1."""
    observations = torch.ones(1, 1, dtype=next(policy.parameters()).dtype)
    return Batch(
        observations=observations,
        actions=torch.full((1, 1), action, dtype=observations.dtype),
        old_parameters=policy(observations).detach(),
        advantages=torch.full((1,), advantage, dtype=observations.dtype),
        returns=torch.zeros(1),
    )


def standard_normal():
    """μ = θ = 0, σ = 1: F = 1, KL = ½θ², the full step is √(2δ) towards the action."""
    return FixedStd(torch.zeros(1, 1, dtype=torch.float64))


def one_bit(logit):
    """A bit whose logit is weight + bias, both of them θ."""
    policy = LogitPolicy(1, Bernoulli(1), hidden_sizes=(), activation="tanh", generator=oracles.generator(0)).double()
    nn.init.zeros_(policy.network[0].weight)
    nn.init.constant_(policy.network[0].bias, logit)
    return policy


class Arcsine(Policy):
    """μ = arcsin θ and σ = 1: not a number where |θ| > 1. At θ = 0 it looks like a standard normal."""

    def __init__(self):
        super().__init__()
        self.distribution = DiagonalGaussian(1)
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, observations):
        mean = torch.asin(self.theta).expand(len(observations), 1)
        return torch.cat([mean, torch.zeros_like(mean)], dim=-1)


def a_good_batch():
    policy = random_policy(DiagonalGaussian(2))
    return policy, random_batch(policy), {}


def no_advantage():
    policy = random_policy(DiagonalGaussian(2))
    return policy, random_batch(policy)._replace(advantages=torch.zeros(24, dtype=torch.float64)), {}


def one_bad_advantage(value):
    policy = random_policy(DiagonalGaussian(2))
    batch = random_batch(policy)
    batch.advantages[3] = value
    return policy, batch, {}


def a_metric_that_overflows():
    # σ = e⁻⁵⁰: 1/σ² = e¹⁰⁰ = 3e43 does not fit float32; at a = μ the gradient, 0 for μ and −1 for log σ, does
    settings = {"hidden_sizes": (), "activation": "tanh", "initial_log_std": -50.0, "min_log_std": -60.0}
    policy = GaussianPolicy(1, 1, **settings, generator=oracles.generator(0))
    nn.init.zeros_(policy.network[0].weight)
    return policy, one_state(policy, action=0.0), {}


def a_product_that_overflows_outside_the_fraction_that_is_solved():
    # The solve sees the state 1 alone; in the state 10³⁰ the action is the mean, so its gradient is 0, but s² = 10⁶⁰
    policy = FixedStd(torch.zeros(1, 1))
    batch = Batch(
        observations=torch.tensor([[1.0], [1e30]]),
        actions=torch.tensor([[3.0], [0.0]]),
        old_parameters=torch.zeros(2, 2),
        advantages=torch.ones(2),
        returns=torch.zeros(2),
    )
    return policy, batch, {"fisher_fraction": 0.5}


def a_certain_policy(damping):
    # p(1) = e⁻¹⁰⁰⁰ = 0, so F = 0; but the impossible action was seen, and its log-prob has gradient 1
    policy = one_bit(-1000.0)
    return policy, one_state(policy, action=1.0), {"damping": damping}


def old_parameters_of_another_policy():
    # With y = θ² the Hessian is F + 2(q − p_old): about 0.01 + 2(0.50 − 0.95) if p_old is another policy's
    class Square(Policy):
        def __init__(self):
            super().__init__()
            self.distribution = Bernoulli(1)
            self.theta = nn.Parameter(torch.full((1,), 0.1, dtype=torch.float64))

        def forward(self, observations):
            return (self.theta**2).expand(len(observations), 1)

    policy = Square()
    batch = one_state(policy, action=1.0)._replace(old_parameters=torch.full((1, 1), 3.0, dtype=torch.float64))
    return policy, batch, {"fisher": "hessian"}


def candidates_outside_the_domain():
    # δ = 2: θ = 2, then 1.6: arcsin is not a number
    policy = Arcsine()
    return policy, one_state(policy, action=5.0), {"max_kl": 2.0, "max_backtracks": 1}


def a_bit_whose_kl_grows_faster_than_its_quadratic():
    # p < ½ and a step up: the cubic term ½p(1−p)(1−2p)/3 t³ is positive
    policy = one_bit(-2.0)
    return policy, one_state(policy, action=1.0), {"max_backtracks": 0}


def an_action_that_the_step_leaves_behind():
    # a = ½, δ = 2: μ = 2 is ¾ deviations farther from it than 0, log ratio (½² − 1½²)/2 = −1
    policy = standard_normal()
    return policy, one_state(policy, action=0.5), {"max_kl": 2.0, "max_backtracks": 0}


ENDINGS = {
    "a good batch": (a_good_batch, Outcome.ACCEPTED),
    "no advantage": (no_advantage, Outcome.ZERO_GRADIENT),
    "NaN advantage": (lambda: one_bad_advantage(math.nan), Outcome.NON_FINITE_GRADIENT),
    "infinite advantage": (lambda: one_bad_advantage(math.inf), Outcome.NON_FINITE_GRADIENT),
    "negative infinite advantage": (lambda: one_bad_advantage(-math.inf), Outcome.NON_FINITE_GRADIENT),
    "metric overflows": (a_metric_that_overflows, Outcome.NON_FINITE_PRODUCT),
    "product overflows outside the fraction": (
        a_product_that_overflows_outside_the_fraction_that_is_solved,
        Outcome.NON_FINITE_PRODUCT,
    ),
    "certain, undamped": (lambda: a_certain_policy(0.0), Outcome.NON_POSITIVE_CURVATURE),
    "certain, damped": (lambda: a_certain_policy(0.1), Outcome.NON_POSITIVE_CURVATURE),
    "another policy's KL": (old_parameters_of_another_policy, Outcome.NON_POSITIVE_CURVATURE),
    "outside the domain": (candidates_outside_the_domain, Outcome.NON_FINITE_CANDIDATE),
    "KL grows faster": (a_bit_whose_kl_grows_faster_than_its_quadratic, Outcome.KL_TOO_LARGE),
    "action left behind": (an_action_that_the_step_leaves_behind, Outcome.NO_IMPROVEMENT),
}


@pytest.fixture(params=ENDINGS)
def ending(request):
    construct, outcome = ENDINGS[request.param]
    policy, batch, config = construct()
    before = flatten(policy)
    return policy, before, trust_region_step(policy, batch, TrustRegionConfig(**config)), outcome


def test_the_outcome_is_the_one_that_was_constructed(ending):
    _, _, info, outcome = ending
    assert info.outcome is outcome


def test_every_outcome_is_constructed():
    """But for the one of the trainer: no step is tried while action values are fitted first."""
    assert {outcome for _, outcome in ENDINGS.values()} == set(Outcome) - {Outcome.WARMING_UP}


def test_theta_moves_on_acceptance_and_otherwise_keeps_its_bits(ending):
    policy, before, info, outcome = ending
    accepted = outcome is Outcome.ACCEPTED
    assert info.accepted is accepted
    assert torch.equal(flatten(policy), before) is not accepted
    assert flatten(policy).isfinite().all()


def test_figures_of_the_taken_step_are_zero_where_none_was_taken(ending):
    _, _, info, outcome = ending
    figures = info.figures()
    values = [figures[name] for name in BELONGS_TO_THE_TAKEN_STEP]
    assert all(values) if outcome is Outcome.ACCEPTED else not any(values)
    assert ("kl_error_relative" in figures) is ("improvement_ratio" in figures) is (outcome is Outcome.ACCEPTED)


def test_no_figure_is_nan_or_infinite(ending):
    figures = ending[2].figures()
    assert {name: value for name, value in figures.items() if not math.isfinite(value)} == {}


def test_figures_of_the_search_exist_where_there_was_one(ending):
    info, figures = ending[2], ending[2].figures()
    if info.search is None:
        assert NO_SEARCH.isdisjoint(figures)
        assert info.backtracks == 0
    else:
        assert set(figures) >= NO_SEARCH - {"kl_full_step"}
        assert info.backtracks == len(info.search.candidates) - 1
        finite = info.search.candidates[0].verdict is not Verdict.NON_FINITE
        assert ("kl_full_step" in figures) is finite


def test_a_candidate_that_is_not_a_number_is_passed_over_for_the_first_good_one():
    policy = Arcsine()
    config = TrustRegionConfig(max_kl=2.0, backtrack_factor=0.7)
    info = trust_region_step(policy, one_state(policy, action=5.0), config)
    # θ = 2 and 1.4 are outside; at 0.98 the mean is arcsin 0.98 = 1.3705 and the KL ½ · 1.3705² < 2
    verdicts = [candidate.verdict for candidate in info.search.candidates]
    assert verdicts == [Verdict.NON_FINITE, Verdict.NON_FINITE, Verdict.ACCEPTED]
    assert policy.theta.item() == pytest.approx(0.98)
    assert info.kl == pytest.approx(0.5 * math.asin(0.98) ** 2)


def test_a_broken_bound_is_mended_by_one_backtrack():
    policy = one_bit(-2.0)
    info = trust_region_step(policy, one_state(policy, action=1.0), TrustRegionConfig(max_kl=0.01))
    assert info.backtracks == 1
    assert info.kl_full_step > 0.01 >= info.kl > 0.98 * 0.01
    assert info.step_fraction == pytest.approx(0.995 * math.sqrt(0.01 / info.kl_full_step))


def test_one_sample_of_a_standard_normal_by_hand():
    policy = standard_normal()
    info = trust_region_step(
        policy,
        one_state(policy, action=3.0, advantage=2.0),
        TrustRegionConfig(max_kl=0.01, damping=1.0, relative_damping=0.0),
    )
    # g = Âa = 6, F = 1, x = g/(1 + damping) = 3, λ = √(9/0.02) = 21.2, s = x/λ = √0.02, KL = ½s² = δ
    s = math.sqrt(0.02)
    f = info.step_fraction
    assert f == pytest.approx(1.0, abs=0.006)  # 0.995 if rounding puts ½s² above δ
    assert info.gradient_norm == pytest.approx(6.0)
    assert info.multiplier == pytest.approx(math.sqrt(450.0))
    assert policy.weight.item() == pytest.approx(f * s)
    assert info.kl == pytest.approx(f**2 * 0.01)
    assert info.kl_error == pytest.approx(0.0, abs=1e-15)
    assert info.kl_quadratic_damped == pytest.approx(2 * f**2 * 0.01)
    assert info.expected_improvement == pytest.approx(6.0 * f * s)
    assert info.improvement == pytest.approx(2.0 * math.expm1(3.0 * f * s - (f * s) ** 2 / 2))
