import json
import math

import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, FixedStd, random_batch, random_policy
from torch import nn

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.models.networks import Policy
from trpo.numerics.params import flatten
from trpo.record.figures import draw_profile
from trpo.record.run_directory import write_json
from trpo.update.profile import FRACTIONS, profile_step
from trpo.update.step_info import Outcome
from trpo.update.trust_region import trust_region_step


class Profiled:
    """A step, its profile, and both curves of the ray by another route."""

    def __init__(self, policy, batch, **config):
        self.policy, self.batch, self.config = policy, batch, TrustRegionConfig(**config)
        self.theta_old = flatten(policy)
        self.info = trust_region_step(policy, batch, self.config)
        self.after = {name: parameter.clone() for name, parameter in policy.state_dict().items()}
        self.profile = profile_step(policy, batch, self.info, self.config)

    def kl(self, t):
        new = oracles.at(self.policy, self.theta_old + t * self.info.step, self.batch.observations)
        return oracles.kl(self.policy.distribution, self.batch.old_parameters, new).mean().item()

    def improvement(self, t):
        theta = self.theta_old + t * self.info.step
        return (oracles.surrogate(self.policy, theta, self.batch) - self.batch.advantages.mean()).item()


STEPS = {
    "accepted": {},
    "in micro-batches": {"micro_batch": 25, "fisher": "hessian"},
    "far out of the trust region": {"max_kl": 2.0},
}


def both_ways(distribution):
    """A step that is accepted at once and its opposite, which is rejected: the cubic term has one sign for each."""
    taken = {}
    for sign in (1, -1):
        policy = random_policy(distribution)
        batch = random_batch(policy, samples=60)
        batch = batch._replace(advantages=sign * batch.advantages)
        step = Profiled(policy, batch, max_kl=1e-4, max_backtracks=0)
        taken[step.info.outcome] = step
    return taken[Outcome.ACCEPTED], taken[Outcome.KL_TOO_LARGE]


@pytest.fixture(scope="module", params=DISTRIBUTIONS)
def distribution(request):
    return DISTRIBUTIONS[request.param]


@pytest.fixture(scope="module", params=STEPS)
def profiled(request, distribution):
    policy = random_policy(distribution)
    return Profiled(policy, random_batch(policy, samples=60), **STEPS[request.param])


def test_fractions_go_from_nothing_to_twice_the_full_step(profiled):
    assert profiled.profile.fractions == pytest.approx([k / 10 for k in range(21)])


def test_the_curves_begin_at_zero(profiled):
    """To the bit, or in micro-batches up to the rounding of passes over fewer rows."""
    kl, improvement = profiled.profile.kl[0], profiled.profile.improvement[0]
    if not profiled.config.micro_batch:
        assert kl == improvement == 0
        return
    trace = float(oracles.dense_fisher(profiled.policy, profiled.theta_old, profiled.batch.observations).trace())
    moved = math.sqrt(trace) * oracles.rounding(profiled.policy)  # the root of ΔᵀFΔ, where F is E[∇log π ∇log πᵀ]
    assert abs(kl) <= 0.5 * moved**2 + oracles.kl_rounding(profiled.policy.distribution)
    assert abs(improvement) <= moved * float(profiled.batch.advantages.square().mean().sqrt())  # Cauchy–Schwarz


def test_exact_curves_are_those_of_torch_distributions(profiled):
    for t, kl, improvement in zip(FRACTIONS, profiled.profile.kl, profiled.profile.improvement, strict=True):
        assert kl == pytest.approx(profiled.kl(t), rel=1e-8, abs=1e-14)
        assert improvement == pytest.approx(profiled.improvement(t), rel=1e-8, abs=1e-13)


def test_the_quadratic_curve_is_a_parabola_through_the_bound_at_the_full_step(profiled):
    assert profiled.profile.max_kl == profiled.info.max_kl
    expected = [t**2 * profiled.info.max_kl for t in FRACTIONS]
    assert profiled.profile.kl_quadratic == pytest.approx(expected, rel=1e-9)


def test_the_cubic_curve_adds_the_odd_part_of_the_kl(profiled):
    def odd(h):  # [K(h) − K(−h)] / 2h³ is the cubic coefficient + O(h²), which Richardson's rule removes
        return (profiled.kl(h) - profiled.kl(-h)) / (2 * h**3)

    h = 0.05 * min(1, 0.1 / math.sqrt(profiled.info.max_kl))
    cubic = (4 * odd(h) - odd(2 * h)) / 3
    added = [a - b for a, b in zip(profiled.profile.kl_cubic, profiled.profile.kl_quadratic, strict=True)]
    assert added == pytest.approx([t**3 * cubic for t in FRACTIONS], rel=1e-3, abs=1e-5 * profiled.info.max_kl)


def test_the_linear_curve_is_the_tangent_of_the_surrogate(profiled):
    h = 1e-4
    slope = (profiled.improvement(h) - profiled.improvement(-h)) / (2 * h)
    assert profiled.profile.improvement_linear == pytest.approx([t * slope for t in FRACTIONS], rel=1e-5)


def test_candidates_are_what_the_line_search_tried(profiled):
    tried, info = profiled.profile.candidates, profiled.info
    assert len(tried) == info.backtracks + 1
    assert tried[0]["fraction"] == 1.0
    for candidate in tried:
        assert set(candidate) == {"fraction", "kl", "improvement", "verdict"}
        assert candidate["kl"] == pytest.approx(profiled.kl(candidate["fraction"]), rel=1e-8)
        assert candidate["improvement"] == pytest.approx(profiled.improvement(candidate["fraction"]), rel=1e-8)
    assert [candidate["verdict"] == "accepted" for candidate in tried] == [False] * info.backtracks + [True]
    assert (tried[-1]["fraction"], tried[-1]["kl"]) == (info.step_fraction, info.kl)
    expected = info.step_fraction * profiled.profile.improvement_linear[FRACTIONS.index(1.0)]
    assert expected == pytest.approx(info.expected_improvement, rel=1e-12)


def test_an_accepted_fraction_that_is_on_the_grid_has_the_logged_figures(distribution):
    accepted, _ = both_ways(distribution)
    at_full_step = FRACTIONS.index(1.0)
    assert accepted.info.step_fraction == 1.0
    assert accepted.profile.kl[at_full_step] == pytest.approx(accepted.info.kl, rel=1e-12)
    assert accepted.profile.improvement[at_full_step] == pytest.approx(accepted.info.improvement, rel=1e-12)
    assert accepted.profile.kl_quadratic[at_full_step] == pytest.approx(accepted.info.kl_quadratic, rel=1e-9)
    assert accepted.profile.improvement_linear[at_full_step] == accepted.info.expected_improvement


def test_outcome_residuals_and_curvatures_are_those_of_the_step(profiled):
    info, profile = profiled.info, profiled.profile
    assert profile.outcome == info.outcome.value
    assert len(profile.cg_residuals) == info.cg_iterations + 1
    assert (profile.cg_residuals[0], profile.cg_residuals[-1]) == (1.0, info.cg_residual)
    assert profile.curvatures == sorted(profile.curvatures)
    assert (profile.curvatures[0], profile.curvatures[-1]) == pytest.approx((info.curvature_min, info.curvature_max))


def test_the_policy_is_not_touched(profiled):
    assert all(torch.equal(tensor, profiled.after[name]) for name, tensor in profiled.policy.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in profiled.policy.parameters())
    assert not torch.equal(flatten(profiled.policy), profiled.theta_old)


def test_a_rejected_step_is_profiled_around_the_policy_that_stays(distribution):
    _, rejected = both_ways(distribution)
    profile = rejected.profile
    assert torch.equal(flatten(rejected.policy), rejected.theta_old)
    assert profile.kl == pytest.approx([rejected.kl(t) for t in FRACTIONS], rel=1e-6, abs=1e-14)
    assert [(candidate["fraction"], candidate["verdict"]) for candidate in profile.candidates] == [
        (1.0, "kl_too_large")
    ]
    assert profile.candidates[0]["kl"] == pytest.approx(rejected.kl(1.0), rel=1e-6)


def test_a_step_without_a_ray_has_no_profile(distribution):
    policy = random_policy(distribution)
    batch = random_batch(policy)
    nothing = Profiled(policy, batch._replace(advantages=torch.zeros_like(batch.advantages)))
    assert nothing.info.outcome is Outcome.ZERO_GRADIENT
    assert nothing.profile is None


def test_a_profile_survives_its_file(profiled, tmp_path):
    write_json(tmp_path / "profile.json", profiled.profile._asdict())
    assert json.loads((tmp_path / "profile.json").read_text()) == profiled.profile._asdict()


class OneBold(Policy):
    """log σ = θ·s for one state of many: its KL has the whole bound for itself, and e^√(δN) is too much."""

    def __init__(self):
        super().__init__()
        self.distribution = DiagonalGaussian(1)
        self.theta = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, observations):
        return torch.cat([torch.zeros_like(observations), observations * self.theta], dim=-1)


@pytest.fixture
def overflowing():
    states, zeros = torch.zeros(2_000, 1, dtype=torch.float64), torch.zeros(2_000, dtype=torch.float64)
    states[0] = 1
    advantages = states[:, 0]  # the action was the mean, so a smaller σ is better
    batch = Batch(states, torch.zeros_like(states), torch.zeros(2_000, 2, dtype=torch.float64), advantages, zeros)
    profiled = Profiled(OneBold(), batch, max_kl=100.0, min_multiplier=0.0, max_backtracks=3)
    assert profiled.info.search.candidates[0].verdict.name == "NON_FINITE"
    return profiled


def test_numbers_that_json_does_not_have_are_none(overflowing, tmp_path):
    profile = overflowing.profile
    assert profile.candidates[0]["kl"] is None
    assert profile.kl[-1] is None
    assert profile.kl[0] == 0
    write_json(tmp_path / "profile.json", profile._asdict())
    assert json.loads((tmp_path / "profile.json").read_text()) == profile._asdict()


def test_a_profile_with_candidates_that_are_not_finite_is_drawn(overflowing, tmp_path):
    draw_profile(overflowing.profile._asdict(), "too far").savefig(tmp_path / "profile.png")
    assert (tmp_path / "profile.png").stat().st_size > 10_000


def test_a_policy_whose_kl_has_no_third_order_is_profiled():
    policy = FixedStd(oracles.normal(2, oracles.OBSERVATION_SIZE, seed=1))
    profile = Profiled(policy, random_batch(policy)).profile
    assert profile.kl == pytest.approx(profile.kl_quadratic, rel=1e-12)
    assert profile.kl_cubic == pytest.approx(profile.kl_quadratic, rel=1e-12)
