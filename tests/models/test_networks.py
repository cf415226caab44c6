import itertools
import math

import pytest
import torch
from oracles import generator, normal

from trpo.models.distributions import Bernoulli, Categorical
from trpo.models.gaussian_policies import GaussianPolicy
from trpo.models.mlp import ACTIVATIONS, mlp, unwrapped
from trpo.models.networks import Critic, LogitPolicy

GAUSSIAN = {"hidden_sizes": (8,), "activation": "tanh", "initial_log_std": -0.5, "min_log_std": -3.0}


def gaussian(seed=0, **changes):
    return GaussianPolicy(3, 2, **(GAUSSIAN | changes), generator=generator(seed))


def logits(distribution, **changes):
    settings = {"hidden_sizes": (8,), "activation": "tanh"} | changes
    return LogitPolicy(3, distribution, **settings, generator=generator(0))


def linears(network):
    return [layer for layer in network if isinstance(layer, torch.nn.Linear)]


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (4, 16, 8, 8, 1)])
def test_layers_are_orthogonal_with_gain_root_two_and_the_last_with_its_own(sizes):
    layers = linears(mlp(sizes, activation="tanh", last_gain=0.3, generator=generator(0)))
    assert [(layer.in_features, layer.out_features) for layer in layers] == list(itertools.pairwise(sizes))
    gains = [math.sqrt(2.0)] * (len(layers) - 1) + [0.3]
    for layer, gain in zip(layers, gains, strict=True):
        singular_values = torch.linalg.svdvals(layer.weight.detach())
        torch.testing.assert_close(singular_values, torch.full_like(singular_values, gain))
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("tanh", torch.tanh),
        ("relu", lambda x: x.clamp(min=0)),
        ("elu", lambda x: torch.where(x > 0, x, x.exp() - 1)),
        ("silu", lambda x: x / (1 + (-x).exp())),
    ],
)
def test_the_activation_stands_between_layers_and_not_behind_the_last(activation, function):
    network = mlp((3, 4, 5, 2), activation=activation, last_gain=1.0, generator=generator(0))
    inputs = normal(6, 3, seed=1, dtype=torch.float32)
    first, second, third = (layer.weight.T for layer in linears(network))
    torch.testing.assert_close(network(inputs), function(function(inputs @ first) @ second) @ third)


def test_every_activation_that_can_be_asked_for_is_tested_above():
    assert set(ACTIVATIONS) == {"tanh", "relu", "elu", "silu"}


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(1)
    first = gaussian(seed=5).state_dict()
    torch.manual_seed(2)
    second = gaussian(seed=5).state_dict()
    other = gaussian(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["network.0.weight"], other["network.0.weight"])


@pytest.mark.parametrize("distribution", [Categorical((4,)), Categorical((3, 2)), Bernoulli(3)])
def test_first_logits_have_the_right_width_and_are_nearly_equal(distribution):
    parameters = logits(distribution)(normal(50, 3, seed=1, dtype=torch.float32))
    assert parameters.shape == (50, distribution.parameter_size)
    assert 0 < parameters.abs().max() < 0.1


def test_first_gaussian_has_nearly_zero_means_and_the_asked_log_std():
    means, log_stds = gaussian()(normal(50, 3, seed=1, dtype=torch.float32)).chunk(2, dim=-1)
    assert means.shape == log_stds.shape == (50, 2)
    assert 0 < means.abs().max() < 0.1
    torch.testing.assert_close(log_stds, torch.full((50, 2), -0.5))


# Default; at the floor; the widest range that the configuration allows.
@pytest.mark.parametrize(("initial", "floor"), [(-0.5, -5.0), (-4.999, -5.0), (5.0, -20.0)])
def test_initial_log_std_is_reached_from_any_floor(initial, floor):
    policy = gaussian(initial_log_std=initial, min_log_std=floor)
    torch.testing.assert_close(policy(torch.zeros(1, 3))[0, 2:], torch.full((2,), initial), rtol=0, atol=1e-5)


def test_log_std_stays_above_its_floor_and_keeps_a_gradient_there():
    policy = gaussian(min_log_std=-3.0)
    with torch.no_grad():
        policy.rho.fill_(-6.0)
    log_std = policy(torch.zeros(1, 3))[0, 2]
    log_std.backward()
    assert -3.0 < log_std < -2.99
    # d softplus(ρ)/dρ = sigmoid(ρ), in the first dimension alone
    torch.testing.assert_close(policy.rho.grad, torch.tensor([1 / (1 + math.exp(6.0)), 0.0]))


def test_log_std_is_the_same_in_every_state():
    log_stds = gaussian()(normal(50, 3, seed=1, dtype=torch.float32))[:, 2:]
    assert torch.equal(log_stds, log_stds[:1].expand(50, -1))


def test_without_hidden_layers_the_mean_is_linear_in_the_observation():
    policy = gaussian(hidden_sizes=()).double()
    s = normal(2, 3, seed=1)
    means = policy(torch.stack([s[0], s[1], 2.0 * s[0] - 3.0 * s[1]]))[:, :2]
    torch.testing.assert_close(means[2], 2.0 * means[0] - 3.0 * means[1])


@pytest.mark.parametrize("make", [gaussian, lambda: logits(Categorical((4,))), lambda: logits(Bernoulli(3))])
def test_rows_do_not_see_each_other(make):
    policy = make().double()
    observations = normal(5, 3, seed=1)
    alone = torch.cat([policy(row.unsqueeze(0)) for row in observations])
    torch.testing.assert_close(policy(observations), alone)


def test_the_critic_gives_one_value_per_row_at_unit_gain():
    critic = Critic(3, hidden_sizes=(8,), activation="tanh", generator=generator(0))
    assert critic(torch.zeros(5, 3)).shape == (5,)
    assert critic(torch.zeros(1, 3)).shape == (1,)
    assert linears(critic.network)[-1].weight.norm().item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 16, 8, 8, 1)])
def test_an_unwrapped_network_computes_what_the_network_does(sizes, activation):
    """To rounding: it writes into places of its own, with another library's tanh."""
    network = mlp(sizes, activation=activation, last_gain=1.0, generator=generator(0))
    forward = unwrapped(network)
    for rows in (1, 7, 1, 16):
        inputs = 3 * normal(rows, 3, seed=rows, dtype=torch.float32)
        torch.testing.assert_close(forward(inputs), network(inputs).detach(), rtol=1e-5, atol=1e-6)


def test_a_policy_with_other_layers_acts_by_calling_them():
    """Its actions need no gradient: they go to the environment as NumPy arrays."""
    policy = gaussian()
    policy.network[1] = torch.nn.Softplus()
    seen = normal(4, 3, seed=1, dtype=torch.float32)
    for noise in (None, policy.distribution.noise(4, generator(1))):
        actions = policy.actor()(seen, noise)
        assert not actions.requires_grad
        y = policy(seen).detach()
        expected = policy.distribution.mode(y) if noise is None else policy.distribution.sample(y, noise)
        torch.testing.assert_close(actions, expected)


@pytest.mark.parametrize("make", [gaussian, lambda: logits(Categorical((3, 2)))], ids=["gaussian", "logits"])
@pytest.mark.parametrize("noisy", [True, False])
def test_an_action_stays_what_it_was_when_the_next_one_is_asked_for(make, noisy):
    policy = make()
    act = policy.actor()
    noise = policy.distribution.noise(4, generator(1)) if noisy else None
    first = act(normal(4, 3, seed=1, dtype=torch.float32), noise)
    kept = first.clone()
    act(-normal(4, 3, seed=2, dtype=torch.float32), noise)
    assert torch.equal(first, kept)
