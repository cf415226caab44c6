"""The figures of an accepted step, each recomputed by another route."""

import math

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DISTRIBUTIONS, normal, random_batch, random_policy

from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.models.normalizer import ObservationNormalizer
from trpo.numerics.conjugate_gradient import Stop
from trpo.numerics.params import flatten
from trpo.update.objective import Objective, evenly_spread
from trpo.update.trust_region import Outcome, solve, trust_region_step

SAMPLES = 60
CONVERGED = {"cg_iterations": 200, "cg_tolerance": 1e-12}
UNDAMPED = {"damping": 0.0, "relative_damping": 0.0}
MAX_KL = 0.01


class Taken:
    """A step that was accepted, with all that is needed to recompute its figures."""

    def __init__(self, policy, batch, config):
        self.policy, self.batch, self.config = policy, batch, config
        self.theta_old = flatten(policy)
        self.info = trust_region_step(policy, batch, config)
        assert self.info.outcome is Outcome.ACCEPTED
        self.step = flatten(policy) - self.theta_old  # fs
        self.distribution = policy.distribution
        with torch.no_grad():
            self.new_parameters = policy(batch.observations)

    def fisher(self):
        return oracles.dense_fisher(self.policy, self.theta_old, self.batch.observations)

    def gradient(self):
        theta = self.theta_old.clone().requires_grad_()
        return torch.autograd.grad(oracles.surrogate(self.policy, theta, self.batch), theta)[0]


def take(distribution, **config):
    policy = random_policy(distribution)
    settings = {"max_kl": MAX_KL, "damping": 0.1, "relative_damping": 0.0, "min_multiplier": 0.0} | config
    return Taken(policy, random_batch(policy, samples=SAMPLES), TrustRegionConfig(**settings))


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request):
    return DISTRIBUTIONS[request.param]


@pytest.fixture(
    params=[{}, {"max_kl": 0.3, "relative_damping": 0.5}, {"damping": 1e-3, "fisher": "hessian", "micro_batch": 7}]
)
def taken(request, distribution):
    return take(distribution, **request.param)


def test_divergences_and_improvement_are_those_of_torch_distributions(taken):
    old, new, info = taken.batch.old_parameters, taken.new_parameters, taken.info
    forward = oracles.kl(taken.distribution, old, new)
    assert info.kl == pytest.approx(forward.mean().item(), rel=1e-9)
    assert info.kl_max_state == pytest.approx(forward.max().item(), rel=1e-9)
    assert info.kl_reverse == pytest.approx(oracles.kl(taken.distribution, new, old).mean().item(), rel=1e-9)
    assert 0 < info.kl <= info.max_kl == taken.config.max_kl
    gain = oracles.surrogate(taken.policy, flatten(taken.policy), taken.batch) - taken.batch.advantages.mean()
    assert info.improvement == pytest.approx(gain.item(), rel=1e-9)
    assert info.improvement > 0


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_bound_of_zero_is_the_one_for_the_kind_of_actions(name):
    info = take(DISTRIBUTIONS[name], max_kl=0.0).info
    assert info.max_kl == (0.04 if isinstance(DISTRIBUTIONS[name], DiagonalGaussian) else 0.01)
    assert 0.9 * info.max_kl < info.kl <= info.max_kl


def test_predicted_divergences_are_those_of_the_dense_fisher_matrix(taken):
    quadratic = (0.5 * taken.step @ taken.fisher() @ taken.step).item()
    info = taken.info
    damped = quadratic + (0.5 * info.damping * taken.step @ taken.step).item()
    assert info.kl_quadratic == pytest.approx(quadratic, rel=1e-9)
    assert info.kl_quadratic_damped == pytest.approx(damped, rel=1e-9)
    assert info.kl_quadratic_full_step == pytest.approx(info.max_kl, rel=1e-12)
    assert info.kl_error == pytest.approx(info.kl - quadratic, rel=1e-6)
    assert info.kl_error_relative == pytest.approx((info.kl - quadratic) / info.kl, rel=1e-6)


def test_expected_improvement_is_the_slope_of_the_surrogate_along_the_step(taken):
    epsilon = 1e-4
    ahead, behind = (
        oracles.surrogate(taken.policy, taken.theta_old + t * taken.step, taken.batch) for t in (epsilon, -epsilon)
    )
    slope = ((ahead - behind) / (2 * epsilon)).item()
    assert taken.info.expected_improvement == pytest.approx(slope, rel=1e-5)
    assert taken.info.improvement_ratio == pytest.approx(taken.info.improvement / slope, rel=1e-5)


def test_the_step_is_the_reported_fraction_of_the_full_one(taken):
    info = taken.info
    assert info.step_norm == pytest.approx(taken.step.norm().item(), rel=1e-9)
    full = taken.theta_old + taken.step / info.step_fraction
    new = oracles.at(taken.policy, full, taken.batch.observations)
    kl = oracles.kl(taken.distribution, taken.batch.old_parameters, new).mean().item()
    assert info.kl_full_step == pytest.approx(kl, rel=1e-8)
    assert (info.step_fraction == 1.0) is (info.backtracks == 0) is (kl <= info.max_kl)


@pytest.mark.parametrize("relative_damping", [0.0, 0.03])
def test_solve_gives_the_solution_of_the_damped_dense_system(distribution, relative_damping):
    policy = random_policy(distribution)
    batch = random_batch(policy, samples=SAMPLES)
    config = TrustRegionConfig(damping=0.05, relative_damping=relative_damping, **CONVERGED)
    objective = Objective(policy, batch)
    g = objective.gradient()
    F = oracles.dense_fisher(policy, flatten(policy), batch.observations)
    solution, damping = solve(policy, batch, objective, g, config)
    assert damping == pytest.approx(0.05 + relative_damping * (g @ F @ g / (g @ g)).item(), rel=1e-9)
    dense = torch.linalg.solve(F + damping * torch.eye(len(F), dtype=F.dtype), g)
    torch.testing.assert_close(solution.x, dense, rtol=1e-8, atol=1e-10)


def test_solver_figures_are_those_of_the_dense_system(distribution):
    taken = take(distribution, damping=0.05, cg_iterations=4, cg_tolerance=0.0)
    F, g, solution = taken.fisher(), taken.gradient(), taken.info.solution
    residual = (g - F @ solution.x - 0.05 * solution.x).norm() / g.norm()
    eigenvalues = torch.linalg.eigvalsh(F)
    assert taken.info.gradient_norm == pytest.approx(g.norm().item(), rel=1e-9)
    assert taken.info.cg_residual == pytest.approx(residual.item(), rel=1e-9)
    assert taken.info.cg_iterations == 4
    assert 0 < taken.info.curvature_min < taken.info.curvature_max < eigenvalues[-1]
    assert taken.info.curvature_max > 0.8 * eigenvalues[-1]


def test_multiplier_is_the_lagrange_multiplier_of_the_undamped_dense_problem():
    taken = take(DiagonalGaussian(2), **UNDAMPED, **CONVERGED)
    F, g = taken.fisher(), taken.gradient()
    natural = torch.linalg.solve(F, g)
    assert taken.info.solution.stop is Stop.CONVERGED
    assert taken.info.multiplier == pytest.approx(math.sqrt(g @ natural / (2 * MAX_KL)), rel=1e-6)
    # At the optimum of the quadratic problem ∇L = λ ∇(½sᵀFs): the whole point of a multiplier.
    full_step = taken.step / taken.info.step_fraction
    torch.testing.assert_close(g, taken.info.multiplier * F @ full_step, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("damping", [0.0, 0.1, 10.0])
def test_the_full_step_predicts_the_whole_bound_whatever_the_damping(distribution, damping):
    taken = take(distribution, damping=damping)
    full_step = taken.step / taken.info.step_fraction
    assert (0.5 * full_step @ taken.fisher() @ full_step).item() == pytest.approx(MAX_KL, rel=1e-9)


def test_a_nat_that_buys_too_little_is_not_spent():
    """The optimum of gᵀs − λ_min ½sᵀFs, which lies inside the bound, in closed form."""
    free = take(DiagonalGaussian(2), **UNDAMPED, **CONVERGED).info
    least = 3 * free.multiplier
    taken = take(DiagonalGaussian(2), **UNDAMPED, min_multiplier=least, **CONVERGED)
    F, g = taken.fisher(), taken.gradient()
    torch.testing.assert_close(taken.step, torch.linalg.solve(F, g) / least, rtol=1e-5, atol=1e-8)
    assert taken.info.multiplier == pytest.approx(least)
    assert taken.info.kl_quadratic_full_step == pytest.approx(MAX_KL / 9, rel=1e-6)
    assert taken.info.kl_quadratic == pytest.approx((0.5 * taken.step @ F @ taken.step).item(), rel=1e-9)
    assert taken.info.kl == pytest.approx(MAX_KL / 9, rel=0.2)


def test_a_floor_under_the_multiplier_that_is_not_reached_changes_no_bit(distribution):
    free = take(distribution)
    assert torch.equal(take(distribution, min_multiplier=0.99 * free.info.multiplier).step, free.step)
    assert not torch.equal(take(distribution, min_multiplier=1.01 * free.info.multiplier).step, free.step)


@pytest.mark.parametrize("scale", [1e-3, 20.0])
def test_the_floor_is_in_the_units_that_the_advantages_had_before_they_were_scaled(scale):
    """So the step does not depend on whether they were."""
    config = TrustRegionConfig(max_kl=1e-3, **UNDAMPED, min_multiplier=50.0, **CONVERGED)
    policy, other = random_policy(DiagonalGaussian(2)), random_policy(DiagonalGaussian(2))
    batch = random_batch(policy, samples=SAMPLES)
    scaled = batch._replace(advantages=batch.advantages / scale, advantage_scale=scale)
    info, scaled_info = trust_region_step(policy, batch, config), trust_region_step(other, scaled, config)
    assert info.kl_quadratic_full_step < 1e-3  # the floor is what decides
    torch.testing.assert_close(scaled_info.step, info.step, rtol=1e-9, atol=1e-12)
    assert scaled_info.multiplier == pytest.approx(info.multiplier / scale)


def test_a_fisher_fraction_serves_the_solve_alone(distribution):
    whole = random_policy(distribution)
    batch = random_batch(whole, samples=SAMPLES)
    F = oracles.dense_fisher(whole, flatten(whole), batch.observations)
    F_part = oracles.dense_fisher(whole, flatten(whole), batch.observations[evenly_spread(batch, 0.25)])
    config = {"max_kl": MAX_KL, "damping": 0.1, "relative_damping": 0.0, "fisher_fraction": 0.25}
    taken = Taken(whole, batch, TrustRegionConfig(**config, **CONVERGED))
    x = torch.linalg.solve(F_part + 0.1 * torch.eye(len(F), dtype=F.dtype), taken.gradient())
    torch.testing.assert_close(taken.info.solution.x, x, rtol=1e-8, atol=1e-10)
    assert taken.info.kl_quadratic == pytest.approx((0.5 * taken.step @ F @ taken.step).item(), rel=1e-9)
    assert taken.info.kl_quadratic_full_step == pytest.approx(MAX_KL, rel=1e-12)


def test_every_form_of_the_product_takes_the_same_step(distribution):
    forms = [{}, {"fisher": "hessian"}, {"micro_batch": 7}, {"micro_batch": 1, "fisher": "hessian"}]
    first, *others = (take(distribution, **form).step for form in forms)
    for step in others:
        torch.testing.assert_close(step, first, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zeroth_and_first_order_terms_vanish(distribution, dtype):
    """To the bit, as the update's pass over the batch is the one that its old parameters come from."""
    policy = random_policy(distribution, dtype=dtype)
    info = trust_region_step(policy, random_batch(policy, samples=500), TrustRegionConfig())
    assert info.kl_zeroth_order == 0
    assert abs(info.kl_first_order) <= oracles.kl_gradient_rounding(distribution)


def test_zeroth_and_first_order_terms_see_statistics_that_moved_since_the_actions(distribution):
    policy = random_policy(distribution)
    raw = normal(500, oracles.OBSERVATION_SIZE, seed=1)
    acted, moved = ObservationNormalizer(oracles.OBSERVATION_SIZE), ObservationNormalizer(oracles.OBSERVATION_SIZE)
    moved.shift += 1e-3
    batch = random_batch(policy, samples=500)._replace(
        observations=moved(raw), old_parameters=policy(acted(raw)).detach()
    )
    theta = flatten(policy).requires_grad_()
    kl = oracles.kl(policy.distribution, batch.old_parameters, oracles.at(policy, theta, batch.observations)).mean()
    (kl_gradient,) = torch.autograd.grad(kl, theta)
    info = trust_region_step(policy, batch, TrustRegionConfig())
    full_step = (flatten(policy) - theta.detach()) / info.step_fraction
    assert abs(info.kl_first_order) > 1e-6
    assert info.kl_first_order == pytest.approx((kl_gradient @ full_step).item(), rel=1e-6)
    assert info.kl_zeroth_order > 1e-8
    assert info.kl_zeroth_order == pytest.approx(kl.item(), rel=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(DISTRIBUTIONS)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    samples=st.integers(1, 40),
    seed=st.integers(0, 10_000),
    advantage_scale=st.sampled_from([1e-6, 1.0, 1e6]),
    max_kl=st.sampled_from([1e-5, 1e-2, 1.0]),
    damping=st.sampled_from([0.0, 1e-4, 0.1]),
    relative_damping=st.sampled_from([0.0, 0.01, 10.0]),
    max_backtracks=st.integers(0, 3),
)
def test_either_the_bound_holds_or_no_bit_of_theta_has_moved(
    name, dtype, samples, seed, advantage_scale, max_kl, damping, relative_damping, max_backtracks
):
    policy = random_policy(DISTRIBUTIONS[name], seed=seed, dtype=dtype)
    batch = random_batch(policy, samples=samples, seed=seed)
    batch = batch._replace(advantages=advantage_scale * batch.advantages)
    before = flatten(policy)
    config = TrustRegionConfig(
        max_kl=max_kl, damping=damping, relative_damping=relative_damping, max_backtracks=max_backtracks
    )
    info = trust_region_step(policy, batch, config)
    assert all(math.isfinite(value) for value in info.figures().values())
    assert info.accepted is (info.outcome is Outcome.ACCEPTED)
    if not info.accepted:
        assert torch.equal(flatten(policy), before)
        return
    new = oracles.at(policy, flatten(policy), batch.observations)  # the pass of the line search, to the bit
    kl = oracles.kl(policy.distribution, batch.old_parameters.double(), new.double()).mean().item()
    assert kl <= max_kl * (1 + 1e-9)
    assert flatten(policy).isfinite().all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_without_a_line_search_the_step_is_the_natural_gradient_of_length_delta(name):
    """By the dense Fisher matrix, whatever the exact KL is; every figure of the taken step is there."""
    policy = random_policy(DISTRIBUTIONS[name])
    batch = random_batch(policy)
    theta = flatten(policy)
    objective = Objective(policy, batch)
    gradient = objective.gradient()
    config = TrustRegionConfig(
        line_search=False,
        max_kl=2.0,
        damping=0.1,
        relative_damping=0.0,
        min_multiplier=0.0,
        cg_iterations=200,
        cg_tolerance=1e-12,
    )
    fisher = torch.stack([objective.fisher_product(v) for v in torch.eye(len(theta), dtype=torch.float64)])
    natural = torch.linalg.solve(fisher + 0.1 * torch.eye(len(theta), dtype=torch.float64), gradient)
    info = trust_region_step(policy, batch, config)
    step = natural * math.sqrt(2 * 2.0 / float(natural @ fisher @ natural))
    torch.testing.assert_close(flatten(policy) - theta, step, rtol=1e-6, atol=1e-9)
    assert (info.accepted, info.step_fraction, info.backtracks) == (True, 1.0, 0)
    assert info.kl_quadratic == pytest.approx(2.0)
    assert info.kl == info.kl_full_step
    assert abs(info.kl - 2.0) > 1e-3
