import numpy as np
import pytest
import torch

from trpo.models.normalizer import ObservationNormalizer, OneHotScale, RewardScale, RunningMoments
from trpo.numerics.advantages import discounted_returns
from trpo.numerics.moments import moments

ROWS = 60


def rows(size=3, *, loc=0.0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (loc + scale * torch.randn(ROWS, size, generator=generator, dtype=torch.float64)).to(dtype)


# The same rows in any portions have the same moments.
SPLITS = [[60], [1] * 60, [1, 59], [59, 1], [20, 20, 20], [7, 0, 53]]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: f"{len(split)} batches from {split[0]}")
@pytest.mark.parametrize("loc", [0.0, 1e6])
def test_moments_are_those_of_all_rows_however_they_come(split, loc):
    data = rows(loc=loc)
    statistics = RunningMoments(3)
    for part in data.split(split):
        statistics.update(moments(part))
    assert statistics.count == ROWS
    np.testing.assert_allclose(statistics.mean, data.numpy().mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(statistics.variance, data.numpy().var(0), rtol=1e-8)


def test_float32_rows_are_taken_in_without_losing_digits():
    data = rows(loc=1000.0, dtype=torch.float32)
    statistics = RunningMoments(3)
    for part in data.split(10):
        statistics.update(moments(part))
    np.testing.assert_allclose(statistics.variance, data.double().numpy().var(0), rtol=1e-9)


def test_observations_come_out_with_zero_mean_and_unit_variance():
    data = rows(loc=5.0, scale=3.0, dtype=torch.float32)
    normalizer = ObservationNormalizer(3)
    normalizer.update(moments(data))
    normalized = normalizer(data).double().numpy()
    np.testing.assert_allclose(normalized.mean(0), 0.0, atol=1e-6)
    np.testing.assert_allclose(normalized.std(0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1.0, 1e6, 1e20])
def test_any_scale_is_normalised(scale):
    normalizer = ObservationNormalizer(3)
    normalizer.update(moments(rows(scale=scale, dtype=torch.float32)))
    expected = (rows() - rows().mean(0)) / rows().std(0, correction=0)
    torch.testing.assert_close(normalizer(rows(scale=scale, dtype=torch.float32)).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -3e5, 1e30])
def test_a_constant_dimension_is_shifted_to_zero_and_not_blown_up(value):
    normalizer = ObservationNormalizer(1)
    for _ in range(7):
        normalizer.update(moments(torch.full((11, 1), value)))
    assert normalizer(torch.full((1, 1), value)).item() == pytest.approx(0.0, abs=1e-3)
    if abs(value) < 1:  # where it can be told in float32, one unit away from the constant is one unit
        assert normalizer(torch.full((1, 1), value + 1)).item() == pytest.approx(1.0, abs=1e-6)


def test_normalised_observations_are_clipped_on_both_sides():
    normalizer = ObservationNormalizer(1, clip=2.0)
    normalizer.update(moments(torch.tensor([[-1.0], [1.0]])))
    seen = normalizer(torch.tensor([[-5.0], [-1.5], [0.5], [2.5]]))
    assert seen.squeeze(-1).tolist() == [-2.0, -1.5, 0.5, 2.0]


def test_a_fresh_normalizer_only_clips():
    seen = ObservationNormalizer(1)(torch.tensor([[-3.0], [0.0], [11.0]]))
    assert seen.squeeze(-1).tolist() == [-3.0, 0.0, 10.0]


def test_statistics_move_in_update_alone():
    normalizer = ObservationNormalizer(3)
    normalizer.update(moments(rows(dtype=torch.float32)))
    before = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.train()
    for _ in range(3):
        normalizer(rows(loc=9.0, dtype=torch.float32))
    assert all(torch.equal(value, before[name]) for name, value in normalizer.state_dict().items())


def test_nothing_of_the_normalizer_is_a_parameter():
    """It must be outside θ: the trust region does not cover it."""
    assert not list(ObservationNormalizer(3).parameters())
    assert not list(RewardScale().parameters())


def test_a_restored_normalizer_gives_the_same_outputs_now_and_after_more_rows():
    normalizer, restored = ObservationNormalizer(3), ObservationNormalizer(3)
    data = rows(loc=4.0, scale=7.0, dtype=torch.float32)
    normalizer.update(moments(data[:30]))
    restored.load_state_dict(normalizer.state_dict())
    assert torch.equal(restored(data), normalizer(data))
    normalizer.update(moments(data[30:]))
    restored.update(moments(data[30:]))
    assert torch.equal(restored(data), normalizer(data))


STEPS, ENVS, GAMMA = 24, 3, 0.9


@pytest.fixture
def rewards():
    """Rewards, episode ends, and rows that are not valid; these hold garbage."""
    generator = torch.Generator().manual_seed(5)
    values = 3 + 2 * torch.randn(STEPS, ENVS, generator=generator)
    ended = torch.rand(STEPS, ENVS, generator=generator) < 0.2
    valid = torch.ones(STEPS, ENVS, dtype=torch.bool)
    valid[1:] = ~ended[:-1]  # as next-step autoreset does it
    ended &= valid
    assert ended.any()
    values[~valid] = 1e6
    return values, ended, valid


def take_in(scale, values, ended, valid, start=None, gamma=GAMMA):
    """Update the scale as the trainer does; return what the next rewards are discounted onto."""
    start = torch.zeros(ENVS, dtype=torch.float64) if start is None else start
    sums, last = discounted_returns(values, ended, valid, start, gamma=gamma)
    scale.moments.update(moments(sums.unsqueeze(-1)))
    return last


def naive_discounted_returns(values, ended, valid):
    """Return every G_t = r_t + γ G_{t−1}, one environment after the other, in plain Python."""
    seen = []
    for env in range(values.shape[1]):
        running = 0.0
        for t in range(len(values)):
            if valid[t, env]:
                running = GAMMA * running + float(values[t, env])
                seen.append(running)
            if ended[t, env]:
                running = 0.0
    return np.array(seen)


@pytest.mark.parametrize("size", [1, 2, 16, 500])
def test_one_hot_observations_come_out_with_a_mean_square_of_one(size):
    """Over states that are seen equally often, as of normalised observations in every dimension."""
    scaled = OneHotScale(size)(torch.eye(size)).double()
    torch.testing.assert_close((scaled**2).mean(0), torch.ones(size, dtype=torch.float64))
    assert torch.equal(scaled != 0, torch.eye(size, dtype=torch.bool))


@pytest.mark.parametrize("split", [[24], [1] * 24, [5, 11, 8]], ids=str)
def test_reward_scale_divides_by_the_deviation_of_the_discounted_return(rewards, split):
    scale, running = RewardScale(), torch.zeros(ENVS, dtype=torch.float64)
    for parts in zip(*(part.split(split) for part in rewards), strict=True):
        running = take_in(scale, *parts, running)
    seen = naive_discounted_returns(*rewards)
    assert scale.moments.count == len(seen)
    expected = torch.tensor([[1.0, -2.0], [0.0, 3.5]]) / seen.std()
    torch.testing.assert_close(scale(torch.tensor([[1.0, -2.0], [0.0, 3.5]])), expected.float(), rtol=1e-6, atol=0)


def test_reward_scale_never_shifts(rewards):
    scale = RewardScale()
    take_in(scale, *rewards)
    assert scale(torch.zeros(2, ENVS)).eq(0).all()
    assert scale(torch.ones(2, ENVS)).gt(0).all()


def test_equal_returns_leave_rewards_as_they_are():
    """γ = 0 and a constant reward: every G is 0.3, and there is nothing to divide by."""
    scale = RewardScale()
    never, always = torch.zeros(6, 2, dtype=torch.bool), torch.ones(6, 2, dtype=torch.bool)
    take_in(scale, torch.full((6, 2), 0.3), never, always, torch.zeros(2, dtype=torch.float64), gamma=0.0)
    assert torch.equal(scale(torch.full((1, 2), 0.3)), torch.full((1, 2), 0.3))


def test_a_fresh_reward_scale_leaves_rewards_as_they_are():
    assert RewardScale()(torch.tensor([[0.25, -8.0]])).tolist() == [[0.25, -8.0]]


def test_a_restored_reward_scale_is_the_same_now_and_after_more_rewards(rewards):
    first, second = ([part[:10] for part in rewards], [part[10:] for part in rewards])
    scale, restored = RewardScale(), RewardScale()
    running = take_in(scale, *first)
    restored.load_state_dict(scale.state_dict())
    for copy in (scale, restored):
        take_in(copy, *second, running)
    assert torch.equal(restored(rewards[0]), scale(rewards[0]))


def test_a_rollout_of_nothing_but_resets_changes_no_statistics(rewards):
    scale = RewardScale()
    take_in(scale, *rewards)
    before = scale(torch.ones(1, ENVS))
    nothing = torch.zeros(1, ENVS, dtype=torch.bool)
    take_in(scale, torch.full((1, ENVS), 7.0), nothing, nothing)
    assert torch.equal(scale(torch.ones(1, ENVS)), before)


def test_a_snapshot_is_the_normaliser_as_it_is_bit_for_bit():
    """The same operations on the same shapes, of another library; what is clipped and what is no number as well."""
    normalizer = ObservationNormalizer(3)
    normalizer.update(moments(rows(loc=5.0, scale=3.0)))
    seen = rows(loc=5.0, scale=9.0, dtype=torch.float32)
    seen[0, 1], seen[1, 1], seen[2, 1] = torch.nan, 1e30, -1e30
    snapshot = normalizer.snapshot()
    assert torch.equal(snapshot(seen).nan_to_num(7.0), normalizer(seen).nan_to_num(7.0))
    assert snapshot(seen).abs()[1:].max() == 10.0
    assert torch.equal(OneHotScale(4).snapshot()(torch.eye(4)), OneHotScale(4)(torch.eye(4)))
