import numpy as np
import pytest

from trpo.numerics.ratio import ratio_of_sums


def test_by_hand():
    """a = (1, 5), b = (1, 2): r = 2, residuals (−1, 1), error √(2/1 · 2)/3."""
    assert ratio_of_sums([1.0, 5.0], [1.0, 2.0]) == pytest.approx((2.0, 2 / 3))


def test_the_error_is_the_spread_of_repeated_experiments():
    generator = np.random.default_rng(0)
    weights = generator.uniform(0.5, 2.0, size=(4_000, 60))
    gains = 0.3 * weights + weights * generator.normal(size=weights.shape)
    results = [ratio_of_sums(a, b) for a, b in zip(gains, weights, strict=True)]
    spread = np.std([ratio for ratio, _ in results])
    assert np.mean([error for _, error in results]) == pytest.approx(spread, rel=0.05)


def test_with_equal_denominators_it_is_the_standard_error_of_the_mean():
    values = [0.1, 0.4, -0.3, 0.9]
    ratio, error = ratio_of_sums(values, [2.0] * 4)
    assert ratio == pytest.approx(np.mean(values) / 2)
    assert error == pytest.approx(np.std(values, ddof=1) / np.sqrt(4) / 2)


def test_one_pair_has_no_error_and_none_or_nothing_spent_has_no_ratio():
    assert ratio_of_sums([3.0], [2.0]) == (1.5, None)
    assert ratio_of_sums([], []) is None
    assert ratio_of_sums([1.0, 1.0], [0.0, 0.0]) is None
