import math
from decimal import Decimal

import oracles
import pytest
import torch
from oracles import DISTRIBUTIONS, generator, normal

from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian

ROWS = 50
ORACLE = {"rtol": 1e-12, "atol": 1e-13}
LN2, LN3 = math.log(2), math.log(3)


@pytest.fixture(params=DISTRIBUTIONS)
def distribution(request):
    return DISTRIBUTIONS[request.param]


@pytest.fixture
def pair(distribution):
    """Two unrelated sets of parameters, as old and new."""
    return normal(2, ROWS, distribution.parameter_size, seed=1)


def drawn(distribution, parameters, seed):
    noise = distribution.noise(len(parameters), generator(seed), parameters.dtype)
    return distribution.sample(parameters, noise)


def actions_for(distribution, parameters):
    return drawn(distribution, parameters, 2)


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


def test_log_prob_kl_and_entropy_are_those_of_torch_distributions(distribution, pair):
    old, new = pair
    actions = actions_for(distribution, old)
    expected = oracles.log_prob(distribution, new, actions)
    torch.testing.assert_close(distribution.log_prob(new, actions), expected, **ORACLE)
    torch.testing.assert_close(distribution.kl(old, new), oracles.kl(distribution, old, new), **ORACLE)
    torch.testing.assert_close(distribution.entropy(new), oracles.entropy(distribution, new), **ORACLE)


@pytest.mark.parametrize(
    ("distribution", "old", "new", "kl", "kl_reverse"),
    [
        # σ from 1 to 2: ln 2 + 1/8 − 1/2, and back −ln 2 + 4/2 − 1/2
        (DiagonalGaussian(1), row(0, 0), row(0, LN2), LN2 - 0.375, 1.5 - LN2),
        # μ from 0 to 3 and σ from 1 to 2: (1 + 9)/8, and back (4 + 9)/2
        (DiagonalGaussian(1), row(0, 0), row(3, LN2), LN2 + 0.75, 6.0 - LN2),
        # (½, ¼, ¼) to (⅓, ⅓, ⅓): ln 3 − (3/2) ln 2, and back −ln 3 + (5/3) ln 2
        (Categorical((3,)), row(LN2, 0, 0), row(0, 0, 0), LN3 - 1.5 * LN2, 5 / 3 * LN2 - LN3),
        # ½ to ¼: ½ ln (4/3), and back ¼ ln ½ + ¾ ln (3/2)
        (Bernoulli(1), row(0), row(-LN3), LN2 - 0.5 * LN3, 0.75 * LN3 - LN2),
    ],
)
def test_kl_by_hand_has_the_old_policy_first(distribution, old, new, kl, kl_reverse):
    assert distribution.kl(old, new).item() == pytest.approx(kl, rel=1e-12)
    assert distribution.kl(new, old).item() == pytest.approx(kl_reverse, rel=1e-12)


@pytest.mark.parametrize(
    ("one", "two", "twice"),
    [
        (DiagonalGaussian(1), DiagonalGaussian(2), lambda y: y.repeat_interleave(2, dim=-1)),  # μ μ log σ log σ
        (Categorical((4,)), Categorical((4, 4)), lambda y: torch.cat([y, y], dim=-1)),
        (Bernoulli(1), Bernoulli(2), lambda y: torch.cat([y, y], dim=-1)),
    ],
)
def test_kl_entropy_and_log_prob_double_when_an_action_dimension_is_duplicated(one, two, twice):
    old, new = normal(2, ROWS, one.parameter_size, seed=1)
    actions = actions_for(one, old)
    torch.testing.assert_close(two.kl(twice(old), twice(new)), 2 * one.kl(old, new), **ORACLE)
    torch.testing.assert_close(two.entropy(twice(old)), 2 * one.entropy(old), **ORACLE)
    both = torch.cat([actions, actions], dim=-1)
    torch.testing.assert_close(two.log_prob(twice(new), both), 2 * one.log_prob(new, actions), **ORACLE)


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_of_a_policy_to_itself_is_zero_with_exactly_zero_gradient(distribution, dtype, scale):
    old = scale * normal(500, distribution.parameter_size, seed=1, dtype=dtype)
    new = old.clone().requires_grad_()
    divergence = distribution.kl(old, new)
    assert torch.equal(divergence, torch.zeros(500, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(divergence.sum(), new)
    assert gradient.abs().max() <= oracles.kl_gradient_rounding(distribution)


@pytest.mark.parametrize("distance", [1e-1, 1e-4, 1e-8])
def test_kl_is_not_negative_beyond_rounding_however_near_the_policies_are(distribution, pair, distance):
    old, direction = pair
    assert distribution.kl(old, old + distance * direction).min() > -oracles.kl_rounding(distribution)


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-5])
def test_gaussian_kl_of_float32_parameters_is_right_to_nine_digits(distance):
    distribution = DiagonalGaussian(1)
    old = normal(ROWS, 2, seed=1, dtype=torch.float32)
    new = old + distance * normal(ROWS, 2, seed=2, dtype=torch.float32)
    for divergence, (mean, log_std), (new_mean, new_log_std) in zip(
        distribution.kl(old, new).tolist(), old.tolist(), new.tolist(), strict=True
    ):
        # log σ'/σ + (σ² + (μ − μ')²) / 2σ'² − ½ in 28 decimal digits, where cancellation does no harm
        d = Decimal(log_std) - Decimal(new_log_std)
        shift = (Decimal(mean) - Decimal(new_mean)) / Decimal(new_log_std).exp()
        textbook = -d + ((2 * d).exp() + shift**2 - 1) / 2
        assert divergence == pytest.approx(float(textbook), rel=1e-9, abs=0.0)


def test_metric_is_the_hessian_of_torchs_kl_at_the_old_parameters(distribution, pair):
    old, u = pair
    hessians = torch.stack(
        [
            torch.autograd.functional.hessian(lambda new, y=y: oracles.kl(distribution, y[None], new[None]).sum(), y)
            for y in old
        ]
    )
    expected = torch.einsum("nde,ne->nd", hessians, u)
    torch.testing.assert_close(distribution.metric(old)(u), expected, rtol=1e-10, atol=1e-12)


def test_metric_is_the_covariance_of_the_score(distribution, pair):
    old, u = pair
    expected = torch.stack([oracles.dense_metric(distribution, y) for y in old])
    product = distribution.metric(old)(u)
    torch.testing.assert_close(product, torch.einsum("nde,ne->nd", expected, u), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 5.0, 15.0])
@pytest.mark.parametrize("sizes", [(2,), (4,), (3, 2)])
def test_metric_of_nearly_certain_choices_is_right_in_float32(sizes, scale):
    """Against p_i Σ_j p_j (u_i − u_j) in float64, where no large numbers are subtracted."""
    distribution = Categorical(sizes)
    y = scale * normal(500, distribution.parameter_size, seed=1, dtype=torch.float32)
    u = 1 + 3 * normal(500, distribution.parameter_size, seed=2, dtype=torch.float32)
    product = distribution.metric(y)(u).double()
    for logits, v, found in zip(
        *(rows.split(sizes, dim=-1) for rows in (y.double(), u.double(), product)), strict=True
    ):
        p, differences = logits.softmax(-1), v.unsqueeze(-1) - v.unsqueeze(-2)
        expected = p * (differences @ p.unsqueeze(-1)).squeeze(-1)
        assert ((found - expected).norm(dim=-1) < 1e-5 * expected.norm(dim=-1)).all()
        assert ((v * found).sum(-1) > 0).all()


@pytest.mark.parametrize("distribution", [Categorical((4,)), Categorical((3, 2)), Bernoulli(3)])
def test_mode_is_the_most_probable_of_all_actions(distribution):
    parameters = normal(ROWS, distribution.parameter_size, seed=1)
    for y, mode in zip(parameters, distribution.mode(parameters), strict=True):
        actions, weights = oracles.actions_and_weights(distribution, y)
        assert torch.equal(mode.double(), actions[weights.argmax()])


def test_mode_of_a_gaussian_is_where_its_density_has_no_slope():
    distribution, parameters = DiagonalGaussian(2), normal(ROWS, 4, seed=1)
    mode = distribution.mode(parameters).requires_grad_()
    (slope,) = torch.autograd.grad(oracles.log_prob(distribution, parameters, mode).sum(), mode)
    assert not slope.any()


@pytest.mark.parametrize("distribution", [Categorical((4,)), Categorical((3, 2)), Bernoulli(3)])
def test_every_joint_action_is_sampled_as_often_as_its_probability(distribution):
    y, draws = normal(distribution.parameter_size, seed=1), 20_000
    samples = drawn(distribution, y.expand(draws, -1), 3).double()
    actions, probabilities = oracles.actions_and_weights(distribution, y)
    frequencies = (samples.unsqueeze(1) == actions).all(-1).double().mean(0)
    assert frequencies.sum().item() == pytest.approx(1.0)
    assert ((frequencies - probabilities).abs() < 4 * (probabilities * (1 - probabilities) / draws).sqrt()).all()


def test_gaussian_samples_have_the_moments_and_independence_of_the_distribution():
    y, draws = row(1.0, -2.0, 0.5, -1.0), 20_000
    samples = drawn(DiagonalGaussian(2), y.expand(draws, -1), 3)
    z = (samples - y[:, :2]) / y[:, 2:].exp()
    four_errors = 4 / math.sqrt(draws)
    assert (z.mean(0).abs() < four_errors).all()
    assert ((z**2).mean(0) - 1).abs().max() < four_errors * math.sqrt(2)  # Var z² = 2
    assert (z**3).mean(0).abs().max() < four_errors * math.sqrt(15)  # Var z³ = 15
    assert (z[:, 0] * z[:, 1]).mean().abs() < four_errors


def test_rows_with_the_same_parameters_are_drawn_independently(distribution):
    y = 0.1 * normal(1, distribution.parameter_size, seed=1).expand(200, -1)
    assert len(drawn(distribution, y, 3).unique(dim=0)) > 1


def test_every_row_is_drawn_from_its_own_parameters(distribution):
    certain = 1e6 * normal(200, distribution.parameter_size, seed=4)
    if isinstance(distribution, DiagonalGaussian):
        certain[:, 2:] = -30.0
    expected = distribution.mode(certain)
    torch.testing.assert_close(drawn(distribution, certain, 3), expected, rtol=1e-9, atol=1e-9)


def test_samples_come_from_the_generator_alone(distribution, pair):
    before = torch.get_rng_state()
    first = drawn(distribution, pair[0], 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn(distribution, pair[0], 5), first)
    assert not torch.equal(drawn(distribution, pair[0], 6), first)
    assert first.shape == (ROWS, distribution.action_size)


def extreme(distribution, dtype):
    """Every mixture of the ends: means ±1e3 and log σ ±10, or logits ±1e3."""
    signs = torch.sign(normal(64, distribution.parameter_size, seed=1, dtype=dtype))
    if isinstance(distribution, DiagonalGaussian):
        return signs * torch.tensor([1e3, 1e3, 10.0, 10.0], dtype=dtype)
    return 1e3 * signs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_parameters_stay_finite_and_so_do_their_gradients(distribution, dtype):
    old = extreme(distribution, dtype)
    new = old.flip(0).requires_grad_()
    actions = actions_for(distribution, old)
    assert distribution.mode(old).isfinite().all()
    assert actions.isfinite().all()
    assert distribution.metric(old)(torch.ones_like(old)).isfinite().all()
    for value in [distribution.log_prob(new, actions), distribution.kl(old, new), distribution.entropy(new)]:
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), new)[0].isfinite().all()


@pytest.mark.parametrize(
    ("distribution", "old", "new", "kl"),
    [
        (DiagonalGaussian(1), row(0, -10), row(0, 10), (math.exp(-40) - 1 + 40) / 2),
        (DiagonalGaussian(1), row(0, 10), row(0, -10), (math.exp(40) - 1 - 40) / 2),
        (DiagonalGaussian(1), row(1e3, 0), row(-1e3, 0), 2e6),  # (2000)² / 2
        (Categorical((3,)), row(1e3, 0, 0), row(0, 1e3, 0), 1e3),  # log 1 − log e⁻¹⁰⁰⁰
        (Categorical((3,)), row(1e3, 0, 0), row(0, 0, 0), LN3),
        (Bernoulli(1), row(1e3), row(-1e3), 1e3),
        (Bernoulli(2), row(-1e3, 1e3), row(0, 1e3), LN2),
    ],
)
def test_extreme_kl_by_hand(distribution, old, new, kl):
    assert distribution.kl(old, new).item() == pytest.approx(kl, rel=1e-12)


def test_kl_is_float64_whatever_the_parameters(distribution):
    y = normal(3, distribution.parameter_size, seed=1, dtype=torch.float32)
    assert distribution.kl(y, y).dtype == torch.float64
    assert distribution.log_prob(y, actions_for(distribution, y)).dtype == torch.float32
