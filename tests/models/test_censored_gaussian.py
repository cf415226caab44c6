"""Normals clipped to limits against SciPy, quadrature over draws, and the normals that they are drawn from."""

import math

import numpy as np
import pytest
import torch
from oracles import normal
from scipy import stats
from torch.autograd.functional import hessian as hessian_of

from trpo.models.bounds import Censor, Clip, Tanh
from trpo.models.censored_gaussian import WIDEST_BOUND, CensoredGaussian, censored_within, log_below
from trpo.models.distributions import DiagonalGaussian

LIMITS = torch.tensor([[-1.0, -0.5], [1.0, 2.0]], dtype=torch.float64)
CLIPPED = censored_within(LIMITS)
PLAIN = DiagonalGaussian(2)
ONE = CensoredGaussian(1, (-1.0,), (1.0,))
CASES = [
    (0.3, -1.0, 0.4, -0.9),
    (1.4, -0.5, 1.2, -0.8),
    (-3.0, -0.7, -2.9, -0.7),
    (0.0, 1.0, 0.5, 0.7),
]  # μ, log σ, μ', log σ'


def parameters(rows, seed=0):
    return torch.cat([normal(rows, 2, seed=seed), normal(rows, 2, seed=seed + 1) / 2 - 0.5], dim=-1)


def draws(mean, log_std, points=200_001):
    """A grid of draws (n, 1) far into both tails, and the probability of each."""
    u = mean + math.exp(log_std) * torch.linspace(-9, 9, points, dtype=torch.float64)
    density = torch.exp(DiagonalGaussian(1).log_prob(row(mean, log_std), u[:, None]))
    weights = torch.full_like(u, float(u[1] - u[0]))
    weights[[0, -1]] /= 2
    return u[:, None], density * weights


def row(mean, log_std):
    return torch.tensor([[mean, log_std]], dtype=torch.float64)


def test_it_is_the_density_inside_and_the_mass_beyond():
    y, actions = parameters(500), 2 * normal(500, 2, seed=3)
    mean, std = (part.numpy() for part in (y[:, :2], y[:, 2:].exp()))
    low, high, a = *LIMITS.numpy(), actions.numpy()
    inside = stats.norm.logpdf(a, mean, std)
    expected = np.where(
        a < low, stats.norm.logcdf(low, mean, std), np.where(a > high, stats.norm.logsf(high, mean, std), inside)
    )
    assert (a < low).any()
    assert (a > high).any()
    np.testing.assert_allclose(CLIPPED.log_prob(y, actions).numpy(), expected.sum(1), rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_all_probability_is_there(case):
    """The density inside and the two masses add up to one."""
    y, inside = row(*case[:2]), torch.linspace(-1, 1, 100_001, dtype=torch.float64)[1:-1, None]
    ends = ONE.log_prob(y, torch.tensor([[-1.0], [1.0]], dtype=torch.float64)).exp().sum()
    density = ONE.log_prob(y, inside).exp()
    assert float(ends + torch.trapezoid(density, inside[:, 0])) == pytest.approx(1, abs=1e-4)


def test_draws_that_become_one_action_are_as_probable_and_clipped_ones_too():
    y = parameters(5)
    for far in (1.01, 3.0, 1e6):
        beyond = far * LIMITS[1].expand(5, 2)
        assert torch.equal(CLIPPED.log_prob(y, beyond), CLIPPED.log_prob(y, LIMITS[1].expand(5, 2)))
        assert torch.equal(CLIPPED.log_prob(y, CLIPPED.sent(beyond)), CLIPPED.log_prob(y, beyond))


@pytest.mark.parametrize("case", CASES)
def test_the_surrogate_is_the_same_in_expectation_and_varies_less(case):
    """For advantages that depend on what is sent, at any θ: E[ratio · Â], and its variance over draws."""
    old, new = row(*case[:2]), row(*case[2:])
    u, weights = draws(*case[:2])
    advantages = torch.sin(3 * ONE.sent(u)[:, 0]) + 0.5

    def moments(distribution):
        ratio = torch.exp(distribution.log_prob(new, u) - distribution.log_prob(old, u))
        mean = (weights * ratio * advantages).sum()
        return float(mean), float((weights * (ratio * advantages - mean).square()).sum())

    (mean, variance), (mean_of_draws, variance_of_draws) = moments(ONE), moments(DiagonalGaussian(1))
    assert mean == pytest.approx(mean_of_draws, rel=1e-4, abs=1e-6)
    assert variance < variance_of_draws


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_the_same_in_expectation_and_varies_less(case):
    u, weights = draws(*case[:2])
    advantages = torch.cos(2 * ONE.sent(u)[:, 0])

    def moments(distribution):
        y = row(*case[:2]).expand(len(u), 2).clone().requires_grad_()
        (scores,) = torch.autograd.grad(distribution.log_prob(y, u).sum(), y)
        gradient = scores * advantages[:, None]
        mean = (weights[:, None] * gradient).sum(0)
        return mean, (weights[:, None] * (gradient - mean).square()).sum(0)

    (mean, variance), (mean_of_draws, variance_of_draws) = moments(ONE), moments(DiagonalGaussian(1))
    torch.testing.assert_close(mean, mean_of_draws, rtol=1e-3, atol=1e-4)
    assert (variance < variance_of_draws).all()


@pytest.mark.parametrize("case", CASES)
def test_the_kl_is_that_of_what_is_sent_and_less_than_that_of_the_draws(case):
    """By quadrature over draws, both ways round; of the draws it is the normal's."""
    for first, second in ((case[:2], case[2:]), (case[2:], case[:2])):
        old, new = row(*first), row(*second)
        u, weights = draws(*first)
        expected = float((weights * (ONE.log_prob(old, u) - ONE.log_prob(new, u))).sum())
        assert float(ONE.kl(old, new)) == pytest.approx(expected, rel=1e-3)  # the log-prob jumps at a limit
        assert 0 < float(ONE.kl(old, new)) < float(DiagonalGaussian(1).kl(old, new))


def test_the_kl_is_zero_with_its_gradient_at_the_old_policy():
    """To the bit by itself; its gradient is a sum of terms that cancel, so to rounding."""
    y = parameters(200)
    new = y.clone().requires_grad_()
    kl = CLIPPED.kl(y, new)
    assert not kl.any()
    (gradient,) = torch.autograd.grad(kl.sum(), new)
    assert gradient.abs().max() < 1e-13


def test_the_metric_is_the_second_derivative_of_the_kl():
    y = parameters(20)
    hessian = torch.stack(
        [torch.autograd.functional.hessian(lambda new, at=at: CLIPPED.kl(at, new).sum(), at) for at in y]
    )
    product = CLIPPED.metric(y)
    metric = torch.stack([product(unit.expand_as(y)) for unit in torch.eye(4, dtype=torch.float64)], dim=-1)
    torch.testing.assert_close(metric, hessian, rtol=1e-9, atol=1e-10)
    assert (torch.linalg.eigvalsh(metric) > 0).all()
    draws = torch.stack([PLAIN.metric(y)(unit.expand_as(y)) for unit in torch.eye(4, dtype=torch.float64)], dim=-1)
    assert (torch.linalg.eigvalsh(draws - metric) > 0).all()  # what is sent tells less of θ than what is drawn


def test_it_is_drawn_as_the_normal_is():
    y, noise = parameters(20), normal(20, 2, seed=4)
    assert torch.equal(CLIPPED.sample(y, noise), PLAIN.sample(y, noise))
    assert torch.equal(CLIPPED.mode(y), PLAIN.mode(y))
    assert torch.equal(CLIPPED.entropy(y), PLAIN.entropy(y))


def test_wide_limits_are_none():
    """So far out that nothing is beyond: log-probs, KL, its second derivatives and the metric are the normal's."""
    y, other, u, actions = parameters(50), parameters(50, seed=7), normal(50, 4, seed=5), normal(50, 2, seed=3)
    for low, high in (([-60.0, -60.0], [60.0, 60.0]), ([-1e30, -60.0], [60.0, np.inf])):
        clipped = censored_within(torch.tensor([low, high], dtype=torch.float64))
        assert type(clipped) is CensoredGaussian
        torch.testing.assert_close(clipped.log_prob(y, actions), PLAIN.log_prob(y, actions), rtol=0, atol=0)
        torch.testing.assert_close(clipped.kl(y, other), PLAIN.kl(y, other), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(clipped.metric(y)(u), PLAIN.metric(y)(u), rtol=1e-12, atol=1e-12)
        second = hessian_of(lambda new, clipped=clipped: clipped.kl(y[:1], new).sum(), other[:1])
        torch.testing.assert_close(second, hessian_of(lambda new: PLAIN.kl(y[:1], new).sum(), other[:1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_out_it_and_its_gradient_are_finite(dtype):
    """A mean far outside, and draws that reach the other limit, 20 σ and 1,000 σ from it."""
    mean = torch.tensor([[300.0, -5.0, 5.0, 0.1]], dtype=dtype, requires_grad=True)
    y = torch.cat([mean, torch.full_like(mean, -1.2)], dim=-1)
    wide = censored_within(torch.tensor([[-1.0, -1.0, -1.0, -1e30], [1.0, 1.0, 1.0, 1e30]]))
    value = wide.log_prob(y, torch.tensor([[301.0, 301.0, -1.5, 0.2]], dtype=dtype))
    (gradient,) = torch.autograd.grad(value.sum(), mean, retain_graph=True)
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    assert float(gradient[0, 0]) == 0  # all that is drawn there is sent as 1
    assert float(gradient[0, 1]) > 0 > float(gradient[0, 2])
    far = wide.log_prob(y, torch.tensor([[-2.0, 301.0, -301.0, 0.2]], dtype=dtype))
    assert far.isfinite().all()
    assert torch.autograd.grad(far.sum(), mean)[0].isfinite().all()


def test_the_gradient_is_that_of_finite_differences():
    y, actions = parameters(30).requires_grad_(), 2 * normal(30, 2, seed=3)
    assert torch.autograd.gradcheck(lambda y: CLIPPED.log_prob(y, actions), y)


def test_the_logarithm_of_a_tail_is_scipys_and_its_derivatives_are_finite():
    z = torch.cat([torch.linspace(-60, 40, 2_001, dtype=torch.float64), torch.tensor([-1e30, -1e3, 1e30])])
    np.testing.assert_allclose(log_below(z).numpy(), stats.norm.logcdf(z.numpy()), rtol=1e-11, atol=1e-15)
    z.requires_grad_()
    (first,) = torch.autograd.grad(log_below(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    hazard = torch.exp(torch.from_numpy(stats.norm.logpdf(z.detach().numpy()) - stats.norm.logcdf(z.detach().numpy())))
    torch.testing.assert_close(first[:-3], hazard[:-3], rtol=1e-9, atol=1e-15)
    assert second.isfinite().all()


def test_without_a_limit_it_is_the_normal():
    assert type(censored_within(torch.tensor([[-1e30, -np.inf], [1e30, np.inf]]))) is DiagonalGaussian


def test_only_what_is_censored_is_compared_as_it_is_sent():
    limits = torch.tensor([[-1.0, -1e30], [1.0, 0.5]], dtype=torch.float64)
    assert type(Clip(limits).distribution()) is type(Tanh(limits).distribution()) is DiagonalGaussian
    assert Censor(limits).distribution() == CensoredGaussian(2, (-1.0, -WIDEST_BOUND), (1.0, 0.5))
    draws = 3 * normal(20, 2, seed=3)
    for what in ("inside", "sent", "outside"):
        assert torch.equal(getattr(Censor(limits), what)(draws), getattr(Clip(limits), what)(draws))
