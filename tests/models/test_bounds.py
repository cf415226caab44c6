"""Clip and tanh against torch.distributions and integrals."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from oracles import normal
from torch.distributions import Normal
from torch.distributions.transforms import TanhTransform

from trpo.models.bounds import BOUNDS, Clip, Tanh
from trpo.sampling.decoding import BoxDecoder, own_units

MIXED = torch.tensor([[-1.0, -1e30, -1.0], [1.0, 0.5, 1e30]])  # only the first has two finite bounds


def test_tanh_squashes_what_has_two_bounds_and_clips_the_rest():
    actions = torch.tensor([[2.0, 0.7, -3.0], [-0.1, 0.2, 40.0]])
    expected = torch.tensor([[np.tanh(2.0), 0.5, -1.0], [np.tanh(-0.1), 0.2, 40.0]], dtype=torch.float32)
    torch.testing.assert_close(Tanh(MIXED).inside(actions), expected)
    assert Clip(MIXED).inside(actions).tolist() == [[1.0, 0.5, -1.0], [pytest.approx(-0.1), pytest.approx(0.2), 40.0]]


def test_outside_is_what_ends_at_a_limit():
    actions = torch.tensor([[2.0, 0.7, -3.0], [-20.0, 0.2, 40.0]])
    assert Clip(MIXED).outside(actions).tolist() == [[True, True, True], [True, False, False]]
    assert Tanh(MIXED).outside(actions).tolist() == [
        [False, True, True],
        [True, False, False],
    ]  # tanh(−20) rounds to −1
    assert not Tanh(MIXED).outside(torch.tensor([[8.0, 0.2, 0.0]])).any()  # tanh(8) is one bit or two below 1


def test_the_slope_is_that_of_torch_and_stays_finite_far_out():
    limits = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    actions = 2 * normal(50, 2, seed=0)
    expected = TanhTransform().log_abs_det_jacobian(actions, actions.tanh()).sum(-1)
    torch.testing.assert_close(Tanh(limits).log_slope(actions), expected)
    naive = torch.log1p(-torch.tanh(actions).square()).sum(-1)
    torch.testing.assert_close(Tanh(limits).log_slope(actions), naive)
    far = Tanh(limits).log_slope(torch.tensor([[300.0, -300.0]]))
    assert float(far) == pytest.approx(4 * (np.log(2) - 300))
    assert not Clip(limits).log_slope(actions).any()
    assert not Tanh(MIXED[:, 1:]).log_slope(actions).any()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.8, 1.0), (-2.0, 0.5)])
def test_entropy_of_drawn_actions_and_slope_add_up_to_that_of_squashed_ones(mean, std):
    """−∫ p log p of a = tanh(u) by quadrature over a."""
    u = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    a, log_p = u.tanh(), Normal(mean, std).log_prob(u) - torch.log1p(-u.tanh().square())
    expected = float(torch.trapezoid(-log_p.exp() * log_p, a))
    drawn = mean + std * normal(400_000, 1, seed=1)
    slope = Tanh(torch.tensor([[-1.0], [1.0]])).log_slope(drawn).mean()
    assert float(Normal(mean, std).entropy() + slope) == pytest.approx(expected, abs=0.01)


def test_what_is_inside_is_decoded_as_it_is():
    """The decoder clips by itself, so that it changes nothing of what is inside; and it is its clip."""
    space = spaces.Box(np.float32([-2.0, 0.0]), np.float32([2.0, np.inf]))
    actions = 3 * normal(500, 2, seed=2, dtype=torch.float32)
    limits, decode = own_units(space), BoxDecoder(space)
    assert torch.equal(decode(Clip(limits).inside(actions)), decode(actions))
    squashed = decode(Tanh(limits).inside(actions))
    torch.testing.assert_close(squashed[:, 0], 2 * actions[:, 0].tanh())
    assert torch.equal(squashed[:, 1], actions[:, 1].clamp(min=0))


def test_bounds_move_with_their_module_and_are_no_part_of_its_state():
    for kind in BOUNDS.values():
        made = kind(MIXED)
        assert not made.state_dict()
        assert made.to(torch.float64).limits.dtype == torch.float64
