import math

import numpy as np
import pytest
import torch

from trpo.config import CriticConfig
from trpo.models.networks import Critic
from trpo.update.critic import fit_critic, make_optimizer

ROWS = 200


def linear_critic(size=3, *, seed=0):
    return Critic(size, hidden_sizes=(), activation="tanh", generator=torch.Generator().manual_seed(seed))


def deep_critic(seed=0):
    return Critic(3, hidden_sizes=(16,), activation="tanh", generator=torch.Generator().manual_seed(seed))


def set_linear(critic, weight, bias):
    with torch.no_grad():
        critic.network[0].weight.copy_(torch.tensor([weight]))
        critic.network[0].bias.fill_(bias)


@pytest.fixture
def data():
    """Observations and targets 2s₀ − s₁ + 0.5s₂ + 3."""
    observations = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    return observations, observations @ torch.tensor([2.0, -1.0, 0.5]) + 3.0


def fit(critic, data, *, order=0, **settings):
    config = CriticConfig(**settings)
    return fit_critic(critic, make_optimizer(critic, config), *data, config, torch.Generator().manual_seed(order))


def parameters(critic):
    return torch.cat([parameter.detach().flatten() for parameter in critic.parameters()]).clone()


def test_a_linear_target_is_recovered(data):
    critic = linear_critic()
    info = fit(critic, data, learning_rate=0.05, epochs=80, minibatch_size=50)
    np.testing.assert_allclose(parameters(critic), [2.0, -1.0, 0.5, 3.0], atol=1e-2)
    assert info.explained_variance_after > 0.999


def test_a_noisy_target_is_fitted_as_least_squares_would(data):
    observations, targets = data
    targets = targets + torch.randn(ROWS, generator=torch.Generator().manual_seed(2))
    critic = linear_critic()
    fit(critic, (observations, targets), learning_rate=0.05, epochs=300, minibatch_size=ROWS)
    design = np.column_stack([observations.numpy(), np.ones(ROWS)])
    expected = np.linalg.lstsq(design, targets.numpy(), rcond=None)[0]
    np.testing.assert_allclose(parameters(critic), expected, atol=1e-3)


# Explained variance 1 − Var[G − V] / Var[G] of V = aG + b: 1 − (1 − a)², whatever b.
PREDICTIONS = [
    ("perfect", 1.0, 0.0, 1.0),
    ("perfect but for a constant", 1.0, 5.0, 1.0),
    ("constant", 0.0, 7.0, 0.0),
    ("half the size", 0.5, 0.0, 0.75),
    ("the wrong sign", -1.0, 0.0, -3.0),
]


@pytest.mark.parametrize(("a", "b", "expected"), [case[1:] for case in PREDICTIONS], ids=[c[0] for c in PREDICTIONS])
def test_explained_variance_of_known_predictions(data, a, b, expected):
    critic = linear_critic()
    set_linear(critic, [2.0 * a, -1.0 * a, 0.5 * a], 3.0 * a + b)
    info = fit(critic, data, learning_rate=1e-12, epochs=1)
    assert info.explained_variance_before == pytest.approx(expected, abs=1e-6)
    assert info.loss_before == pytest.approx(np.mean(((1 - a) * data[1].numpy() - b) ** 2), rel=1e-5, abs=1e-10)


def test_explained_variance_does_not_exist_where_all_returns_are_the_same():
    info = fit(linear_critic(), (torch.randn(10, 3), torch.full((10,), 4.0)), epochs=1)
    assert info.explained_variance_before is None
    assert set(info.figures()) == {"loss_before", "loss_after"}


@pytest.mark.parametrize("reward", [0.3, -0.01, 3.3])
def test_returns_that_differ_by_rounding_are_all_the_same(reward):
    """With γ = 0, say: Â = r − V, and r − V + V is r up to a rounding of V or r."""
    critic, observations = deep_critic(), torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = critic(observations)
    returns = (reward - values) + values
    assert len(returns.unique()) > 1
    assert fit(critic, (observations, returns), epochs=1).explained_variance_before is None
    spread = returns + 1e-4 * observations[:, 0]
    assert fit(critic, (observations, spread), epochs=1).explained_variance_before is not None


def test_figures_after_the_fit_are_those_of_the_fitted_critic(data):
    critic = deep_critic()
    info = fit(critic, data)
    with torch.no_grad():
        errors = (data[1] - critic(data[0])).double().numpy()
    assert info.loss_after == pytest.approx(np.mean(errors**2), rel=1e-6)
    assert info.explained_variance_after == pytest.approx(1 - errors.var() / data[1].double().numpy().var(), rel=1e-6)
    assert info.loss_after < info.loss_before


def test_a_fit_is_plain_adam_over_shuffled_minibatches(data):
    """100 + 100 rows, two epochs: four steps of Adam on the mean squared error of each part of each order."""
    critic, expected = deep_critic(), deep_critic()
    fit(critic, data, order=9, learning_rate=0.01, epochs=2, minibatch_size=150)
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.01, eps=1e-5)
    generator = torch.Generator().manual_seed(9)
    for _ in range(2):
        order = torch.randperm(ROWS, generator=generator)
        for rows in (order[:100], order[100:]):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(expected(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    torch.testing.assert_close(parameters(critic), parameters(expected), rtol=0, atol=1e-6)


def test_the_same_generator_gives_the_same_fit_bit_for_bit(data):
    first, again, other = deep_critic(), deep_critic(), deep_critic()
    before = torch.get_rng_state()
    infos = [fit(critic, data, order=order) for critic, order in ((first, 4), (again, 4), (other, 5))]
    assert torch.equal(parameters(first), parameters(again))
    assert infos[0] == infos[1]
    assert not torch.equal(parameters(first), parameters(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_optimisers_state_outlives_a_fit(data):
    config = CriticConfig(epochs=1, minibatch_size=ROWS)
    critic = deep_critic()
    optimizer = make_optimizer(critic, config)
    for _ in range(3):
        fit_critic(critic, optimizer, *data, config, torch.Generator().manual_seed(0))
    assert {int(state["step"]) for state in optimizer.state.values()} == {3}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("minibatch_size", [ROWS, 10])
def test_a_target_that_is_not_finite_stops_before_any_parameter_changes(data, value, minibatch_size):
    observations, targets = data[0], data[1].clone()
    targets[123] = value
    critic = deep_critic()
    before = parameters(critic)
    with pytest.raises(FloatingPointError, match="critic"):
        fit(critic, (observations, targets), minibatch_size=minibatch_size)
    assert torch.equal(parameters(critic), before)


def test_finite_parameters_that_give_no_finite_loss_are_named(data):
    """One step of such a length, and products of three layers overflow."""
    critic = Critic(3, hidden_sizes=(64, 64), activation="relu", generator=torch.Generator().manual_seed(0))
    with pytest.raises(FloatingPointError, match=r"loss after the fit is (nan|inf)"):
        fit(critic, data, learning_rate=1e14, epochs=1, minibatch_size=ROWS)
