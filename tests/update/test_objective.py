import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, normal, random_batch, random_policy, random_policy_of_parts

from trpo.batch import Batch
from trpo.models.distributions import DiagonalGaussian
from trpo.models.normalizer import ObservationNormalizer
from trpo.numerics.moments import moments
from trpo.numerics.params import flatten
from trpo.update.objective import Objective, evenly_spread

SAMPLES = 24
MICRO_BATCHES = [1, 5, 8, 23, 24, 100]  # one row each; with and without a remainder; all; more than all
EXACT = {"rtol": 1e-10, "atol": 1e-12}


MADE = {"": random_policy, "of_parts": random_policy_of_parts}


@pytest.fixture(params=[(make, name) for make in MADE for name in DISTRIBUTIONS], ids=lambda pair: "_".join(pair))
def policy(request):
    make, name = request.param
    return MADE[make](DISTRIBUTIONS[name])


@pytest.fixture
def batch(policy):
    return random_batch(policy, samples=SAMPLES)


@pytest.fixture
def candidate(policy):
    """A θ at some distance from θ_old."""
    theta = flatten(policy)
    return theta + 0.1 * normal(len(theta), seed=5)


def products(objective):
    return torch.stack([objective.fisher_product(v) for v in normal(3, len(objective.theta), seed=4)])


@pytest.mark.parametrize("micro_batch", [0, 7])
def test_gradient_is_that_of_the_surrogate_of_torch_distributions(policy, batch, micro_batch):
    theta = flatten(policy).requires_grad_()
    (expected,) = torch.autograd.grad(oracles.surrogate(policy, theta, batch), theta)
    torch.testing.assert_close(Objective(policy, batch, micro_batch=micro_batch).gradient(), expected, **EXACT)


@pytest.mark.parametrize("micro_batch", [0, 7])
@pytest.mark.parametrize("fisher", ["gauss_newton", "hessian"])
def test_fisher_product_is_the_dense_one(policy, batch, fisher, micro_batch):
    objective = Objective(policy, batch, fisher=fisher, micro_batch=micro_batch)
    F = oracles.dense_fisher(policy, flatten(policy), batch.observations)
    H = oracles.dense_kl_hessian(policy, flatten(policy), batch.observations, batch.old_parameters)
    vectors = normal(3, len(F), seed=4)
    torch.testing.assert_close(products(objective), vectors @ F, **EXACT)
    torch.testing.assert_close(products(objective), vectors @ H, **EXACT)


@pytest.mark.parametrize("micro_batch", [0, 7])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_fisher_product_of_a_policy_of_pictures_is_the_finite_difference_of_the_gradient_of_the_kl(
    name, micro_batch
):
    """Too many parameters for a dense matrix: F v = d/dt ∇KL(π_old ‖ π_θ+tv) at t = 0, and the textbook form."""
    policy = random_policy_of_parts(DISTRIBUTIONS[name], parts={**oracles.PICTURE, **oracles.PARTS})
    batch, theta = random_batch(policy, samples=SAMPLES), flatten(policy)
    v, h = normal(len(theta), seed=4), 1e-6

    def gradient(t):
        at = (theta + t * v).requires_grad_()
        kl = oracles.kl(policy.distribution, batch.old_parameters, oracles.at(policy, at, batch.observations)).mean()
        return torch.autograd.grad(kl, at)[0]

    product = Objective(policy, batch, micro_batch=micro_batch).fisher_product(v)
    torch.testing.assert_close(product, (gradient(h) - gradient(-h)) / (2 * h), rtol=1e-5, atol=1e-7)
    hessian = Objective(policy, batch, fisher="hessian", micro_batch=micro_batch).fisher_product(v)
    torch.testing.assert_close(product, hessian, **EXACT)


@pytest.mark.parametrize("micro_batch", [0, 7])
def test_evaluation_is_that_of_torch_distributions(policy, batch, candidate, micro_batch):
    new = oracles.at(policy, candidate, batch.observations)
    kl = oracles.kl(policy.distribution, batch.old_parameters, new)
    reverse = oracles.kl(policy.distribution, new, batch.old_parameters)
    improvement = oracles.surrogate(policy, candidate, batch) - batch.advantages.mean()
    evaluation = Objective(policy, batch, micro_batch=micro_batch).evaluate(candidate)
    expected = [improvement, kl.mean(), reverse.mean(), kl.max()]
    assert list(evaluation) == pytest.approx([value.item() for value in expected], rel=1e-9)


def test_evaluation_at_theta_old_is_zero_to_the_last_bit(policy, batch):
    assert list(Objective(policy, batch).evaluate(flatten(policy))) == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("micro_batch", MICRO_BATCHES)
@pytest.mark.parametrize("fisher", ["gauss_newton", "hessian"])
def test_micro_batches_of_any_size_equal_the_whole(policy, batch, candidate, fisher, micro_batch):
    whole = Objective(policy, batch, fisher=fisher)
    parts = Objective(policy, batch, fisher=fisher, micro_batch=micro_batch)
    assert max(len(piece.observations) for piece in parts.pieces) <= micro_batch
    torch.testing.assert_close(parts.gradient(), whole.gradient(), **EXACT)
    torch.testing.assert_close(products(parts), products(whole), **EXACT)
    assert list(parts.evaluate(candidate)) == pytest.approx(list(whole.evaluate(candidate)), rel=1e-10)


@pytest.mark.parametrize("micro_batch", [0, 7])
def test_gradient_and_products_may_be_asked_for_in_any_order_and_again(policy, batch, micro_batch):
    first = Objective(policy, batch, micro_batch=micro_batch)
    gradient, product, kl = first.gradient(), products(first), first.kl_and_gradient()
    second = Objective(policy, batch, micro_batch=micro_batch)
    for _ in range(2):
        assert torch.equal(products(second), product)
        assert torch.equal(second.kl_and_gradient()[1], kl[1])
        assert torch.equal(second.gradient(), gradient)


def test_nothing_writes_to_the_policy_or_leaves_gradients_in_it(policy, batch, candidate):
    before = flatten(policy)
    objective = Objective(policy, batch)
    objective.gradient(), products(objective), objective.evaluate(candidate), objective.kl_and_gradient()
    assert torch.equal(flatten(policy), before)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_kl_and_its_gradient_are_zero_to_the_last_bit_at_theta_old(policy, batch):
    """One pass over all rows, as the one that the old parameters come from."""
    value, gradient = Objective(policy, batch).kl_and_gradient()
    assert value == 0.0
    assert gradient.abs().max() <= oracles.kl_gradient_rounding(policy.distribution)


@pytest.mark.parametrize("micro_batch", [1, 5, 7, 23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", MADE)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_in_micro_batches_kl_and_its_gradient_are_zero_up_to_rounding_at_theta_old(name, make, dtype, micro_batch):
    """Passes over other numbers of rows: as if θ had moved by their rounding, in each row to another place."""
    policy, exact = MADE[make](DISTRIBUTIONS[name], dtype=dtype), MADE[make](DISTRIBUTIONS[name])
    batch = random_batch(policy, samples=SAMPLES)
    value, gradient = Objective(policy, batch, micro_batch=micro_batch).kl_and_gradient()
    # ½ΔᵀFΔ and FΔ, with the trace of F for its largest eigenvalue: it bounds the mean of those of the rows
    trace = float(
        oracles.dense_fisher(exact, flatten(exact), oracles.changed(batch.observations, torch.Tensor.double)).trace()
    )
    moved = oracles.rounding(policy)
    assert abs(value) <= 0.5 * trace * moved**2 + oracles.kl_rounding(policy.distribution)
    assert gradient.norm() <= trace * moved


@pytest.mark.parametrize("micro_batch", [0, 7])
def test_kl_and_its_gradient_see_old_parameters_of_another_policy(policy, batch, micro_batch):
    shifted = batch._replace(
        old_parameters=policy(oracles.changed(batch.observations, lambda leaf: leaf + 3e-3)).detach()
    )
    theta = flatten(policy).requires_grad_()
    new = oracles.at(policy, theta, batch.observations)
    kl = oracles.kl(policy.distribution, shifted.old_parameters, new).mean()
    value, gradient = Objective(policy, shifted, micro_batch=micro_batch).kl_and_gradient()
    assert value == pytest.approx(kl.item(), rel=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(kl, theta)[0], rtol=1e-8, atol=1e-12)
    assert gradient.norm() > 1e-5


@pytest.mark.parametrize("policy", [("", name) for name in DISTRIBUTIONS], indirect=True)
@pytest.mark.parametrize("micro_batch", [0, 7])
def test_kl_and_surrogate_of_a_candidate_can_be_differentiated_twice(policy, batch, candidate, micro_batch):
    objective = Objective(policy, batch, micro_batch=micro_batch)
    distribution, s = policy.distribution, batch.observations
    kl = lambda theta: oracles.kl(distribution, batch.old_parameters, oracles.at(policy, theta, s)).mean()  # noqa: E731
    gain = lambda theta: oracles.surrogate(policy, theta, batch) - batch.advantages.mean()  # noqa: E731
    for ours, expected in [(objective.kl, kl), (objective.surrogate_gain, gain)]:
        torch.testing.assert_close(ours(candidate), expected(candidate), **EXACT)
        hessian = torch.autograd.functional.hessian(ours, candidate)
        torch.testing.assert_close(hessian, torch.autograd.functional.hessian(expected, candidate), **EXACT)


def test_statistics_that_moved_between_acting_and_updating_show_in_the_kl():
    policy = random_policy(DiagonalGaussian(2), dtype=torch.float32)
    raw = normal(500, oracles.OBSERVATION_SIZE, seed=1, dtype=torch.float32)
    normalizer = ObservationNormalizer(oracles.OBSERVATION_SIZE)
    normalizer.update(moments(raw))
    batch = random_batch(policy, samples=500)._replace(observations=normalizer(raw))
    with torch.no_grad():
        same = batch._replace(old_parameters=oracles.at(policy, flatten(policy), normalizer(raw)))
        normalizer.shift += 0.01
        moved = batch._replace(old_parameters=policy(normalizer(raw)))
    assert Objective(policy, same).kl_and_gradient()[0] == 0.0
    assert Objective(policy, moved).kl_and_gradient()[0] > 1e-6


def test_float32_policies_get_float64_averages_and_float32_vectors():
    policy = random_policy(DiagonalGaussian(2), dtype=torch.float32)
    batch = random_batch(policy, samples=SAMPLES)
    theta = flatten(policy)
    objective = Objective(policy, batch)
    new = oracles.at(policy, theta + 0.01, batch.observations).double()
    expected = oracles.kl(policy.distribution, batch.old_parameters.double(), new).mean().item()
    assert objective.evaluate(theta + 0.01).kl == pytest.approx(expected, rel=1e-9)
    assert objective.gradient().dtype == objective.fisher_product(theta).dtype == torch.float32


@pytest.mark.parametrize(("fraction", "count"), [(1.0, 10), (0.5, 5), (0.3, 3), (0.01, 1)])  # at least one
def test_a_subsample_is_a_share_of_the_rows_and_always_the_same(fraction, count):
    batch = random_batch(random_policy(DiagonalGaussian(2)), samples=10)
    chosen = evenly_spread(batch, fraction).tolist()
    assert chosen == sorted(set(chosen)) == evenly_spread(batch, fraction).tolist()
    assert len(chosen) == count
    assert set(chosen) <= set(range(10))


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.1])
@pytest.mark.parametrize("envs", [1, 2, 7, 8, 16])
def test_a_subsample_is_of_all_environments_and_of_all_times(envs, fraction):
    """Of rows as a rollout has them, the environments one after the other at each step."""
    steps = 1_000
    column = torch.zeros(steps * envs, 1)
    chosen = evenly_spread(Batch(column, column, column, column, column), fraction)
    of_each = torch.bincount(chosen % envs, minlength=envs)
    assert of_each.max() - of_each.min() <= 1
    of_each_tenth = torch.bincount(chosen // envs // (steps // 10), minlength=10)
    assert of_each_tenth.min() > 0.8 * len(chosen) / 10
