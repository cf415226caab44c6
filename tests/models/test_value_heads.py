"""Values as means of bins: what is wanted of them, what they can be, and what lies beyond."""

import math

import oracles
import pytest
import torch
from oracles import generator, normal

from trpo.config import ActionValuesConfig, Config, NormalizeConfig, UserError
from trpo.models.action_values import ActionValues, make_action_values
from trpo.models.distributions import Categorical, DiagonalGaussian
from trpo.models.observations import Kind, Leaf
from trpo.models.value_heads import BinnedHead, NumberHead


def head(bins=51):
    return BinnedHead(bins).double()


def targets(low=-3.5, high=13.5):
    return torch.linspace(low, high, 1_001, dtype=torch.float64)


def test_centres_are_the_middles_of_equal_parts_of_the_support():
    assert BinnedHead(10).centres.tolist() == [-4, -2, 0, 2, 4, 6, 8, 10, 12, 14]


def test_what_is_wanted_has_the_targets_mean_and_a_normals_variance():
    values, bins = targets(), head()
    wanted = bins.wanted(values)
    width = 20 / 51
    means = wanted @ bins.centres
    assert float((means - values).abs().max()) < 1.1e-4 * width
    assert float((means - values).abs().max()) > 0.9e-4 * width  # 4π(3/4)² exp(−2π²(3/4)²) = 1.06e-4 of a bin
    variances = (wanted * (bins.centres - means.unsqueeze(1)).square()).sum(1)
    torch.testing.assert_close(variances, torch.full_like(variances, (0.75 * width) ** 2), rtol=1e-3, atol=0)
    torch.testing.assert_close(wanted.sum(1), torch.ones_like(values))


def test_it_is_nearly_the_normals_mass_in_each_bin():
    """As the papers have it: the difference of its distribution function at the edges."""
    values, bins, width = targets(0.0, 3.0), head(), 20 / 51
    edges = torch.cat([bins.centres - width / 2, bins.centres[-1:] + width / 2])
    mass = torch.distributions.Normal(values.unsqueeze(1), 0.75 * width).cdf(edges).diff(dim=1)
    assert float((bins.wanted(values) - mass).abs().max()) < 0.04
    assert float(mass.max()) > 0.4


def test_logits_of_what_is_wanted_are_worth_the_target():
    values, bins = targets(), head()
    outputs = bins.wanted(values).log().clamp(min=-700).view(1, -1, 51)
    torch.testing.assert_close(bins(outputs).flatten(), values, rtol=0, atol=1e-4)


def test_each_action_has_bins_of_its_own():
    bins = head(12)
    outputs = normal(2, 5, 3 * 12, seed=1, dtype=torch.float64)
    values = bins(outputs)
    assert values.shape == (2, 5, 3)
    for action in range(3):
        part = outputs[..., 12 * action : 12 * action + 12]
        torch.testing.assert_close(values[..., action : action + 1], bins(part))


def test_targets_further_out_are_taken_as_the_furthest_that_can_be_told():
    bins = head(20)  # one wide, centres from −4.5 to 14.5, σ 0.75
    values = torch.tensor([-3.01, -2.99, 0.5, 12.99, 13.01, 1e30, -1e30], dtype=torch.float64)
    assert bins.beyond(values).tolist() == [True, False, False, False, True, True, True]
    means = bins.wanted(values) @ bins.centres
    torch.testing.assert_close(means, values.clamp(-3, 13), rtol=0, atol=6e-3)
    assert float((means - values.clamp(-3, 13)).abs().max()) > 4e-3  # as tails are cut off there


def test_a_target_that_is_no_number_makes_none():
    assert head(20).wanted(torch.tensor([math.nan], dtype=torch.float64)).isnan().all()


def test_first_values_are_near_the_middle():
    values = ActionValues(4, 1, hidden_sizes=(32, 32), networks=2, generator=generator(0), bins=51)
    first = values(normal(50, 4, seed=2, dtype=torch.float32))
    assert first.shape == (2, 50, 1)
    assert float((first - 5).abs().max()) < 1.5


@pytest.mark.parametrize("bins", [1, 9])
def test_bins_that_are_too_few_are_one_line(bins):
    config = ActionValuesConfig(bins=bins)
    with pytest.raises(UserError, match=rf"^action_values.bins={bins}: 0 for none, or 10 and more$"):
        oracles.action_values(config, 3, DiagonalGaussian(2))


@pytest.mark.parametrize("distribution", [DiagonalGaussian(2), Categorical((3, 2))], ids=str)
@pytest.mark.parametrize("bins", [0, 10])
def test_every_value_has_its_bins(distribution, bins):
    values = oracles.action_values(ActionValuesConfig(bins=bins), 3, distribution)
    inputs, outputs = (5, 1) if isinstance(distribution, DiagonalGaussian) else (3, 6)
    assert values.sizes == (inputs, 128, 128, outputs * max(bins, 1))
    assert values(normal(7, inputs, seed=1, dtype=torch.float32)).shape == (2, 7, outputs)


def test_bins_need_scaled_rewards():
    config = Config(action_values=ActionValuesConfig(bins=20), normalize=NormalizeConfig(rewards=False))
    with pytest.raises(UserError, match=r"^action_values.bins=20 needs normalize.rewards=true: bins lie from -5 to"):
        make_action_values(config, Leaf(Kind.VECTOR, (3,)), DiagonalGaussian(2))


def test_without_bins_outputs_are_values():
    outputs = normal(2, 5, 3, seed=1)
    assert NumberHead()(outputs) is outputs
    assert not NumberHead().beyond(torch.tensor([1e30, 0.0])).any()
