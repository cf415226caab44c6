"""The gradient that is written out is the one that autograd finds."""

import itertools

import pytest
import torch
from torch import nn

from trpo.numerics.perceptron import ACTIVATIONS, Perceptron, is_perceptron, joined

SHAPES = [(), (1,), (5,), (7, 3), (4, 4, 4), (2, 9, 1, 6)]


def network_of(hidden_sizes, activation=nn.Tanh, *, inputs=3, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    sizes = (inputs, *hidden_sizes, 1)
    layers = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, dtype=dtype), activation()]
    return nn.Sequential(*layers[:-1])


def problem(samples, *, inputs=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (
        2 * torch.randn(samples, inputs, generator=generator, dtype=dtype),
        3 * torch.randn(samples, generator=generator, dtype=dtype),
    )


def by_autograd(network, inputs, targets):
    """The gradients of the mean squared error, W_1, b_1, W_2 …"""
    loss = nn.functional.mse_loss(network(inputs).squeeze(-1), targets)
    return torch.autograd.grad(loss, list(network.parameters()))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_sizes", SHAPES)
def test_the_gradient_is_autograds(hidden_sizes, activation):
    network, (inputs, targets) = network_of(hidden_sizes, activation), problem(40)
    chosen = torch.tensor([3, 39, 0, 7, 7, 20, 11])
    perceptron = Perceptron(network)
    perceptron.differentiate(joined(inputs, targets), chosen)
    for part, expected in zip(
        perceptron.unflatten(perceptron.gradient), by_autograd(network, inputs[chosen], targets[chosen]), strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_of_networks_that_mix_activations_is_autograds():
    network = nn.Sequential(
        *(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.ELU(), nn.Linear(2, 1))
    ).double()
    assert is_perceptron(network)
    inputs, targets = problem(10)
    perceptron = Perceptron(network)
    perceptron.differentiate(joined(inputs, targets), torch.arange(10))
    for part, expected in zip(
        perceptron.unflatten(perceptron.gradient), by_autograd(network, inputs, targets), strict=True
    ):
        torch.testing.assert_close(part, expected, rtol=1e-12, atol=1e-12)


def test_minibatches_of_different_sizes_follow_each_other_and_leave_nothing_behind():
    network, (inputs, targets) = network_of((6, 5)), problem(20)
    perceptron, samples = Perceptron(network), joined(inputs, targets)
    for chosen in torch.arange(20).tensor_split(3) + torch.arange(20).tensor_split(20):
        perceptron.differentiate(samples, chosen)
        expected = perceptron.flatten(by_autograd(network, inputs[chosen], targets[chosen]))
        torch.testing.assert_close(perceptron.gradient, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_follows_the_vector_of_parameters_and_the_network_is_left_alone():
    network, (inputs, targets) = network_of((6, 5)), problem(20)
    before = [parameter.clone() for parameter in network.parameters()]
    perceptron = Perceptron(network)
    perceptron.differentiate(joined(inputs, targets), torch.arange(20))
    perceptron.theta.mul_(-0.5)
    perceptron.differentiate(joined(inputs, targets), torch.arange(20))
    assert all(torch.equal(parameter, old) for parameter, old in zip(network.parameters(), before, strict=True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(-0.5)
    expected = perceptron.flatten(by_autograd(network, inputs, targets))
    torch.testing.assert_close(perceptron.gradient, expected, rtol=1e-12, atol=1e-12)


def test_no_samples_have_no_gradient():
    """A rank without a row of a small minibatch adds nothing, and sends as much as the others."""
    perceptron = Perceptron(network_of((6, 5)))
    perceptron.gradient.fill_(torch.nan)
    perceptron.differentiate(joined(*problem(20)), torch.empty(0, dtype=torch.int64))
    assert torch.equal(perceptron.gradient, torch.zeros_like(perceptron.theta))


def test_a_vector_has_each_bias_beside_its_weights_and_comes_back_as_it_was():
    network = network_of((2,), inputs=1)
    perceptron = Perceptron(network)
    weight, bias = network[0].weight, network[0].bias
    first = [weight[0, 0], bias[0], weight[1, 0], bias[1]]
    last = [*network[2].weight[0], network[2].bias[0]]
    assert perceptron.theta.tolist() == [entry.item() for entry in first + last]
    for part, parameter in zip(perceptron.unflatten(perceptron.theta), network.parameters(), strict=True):
        assert torch.equal(part, parameter)


def changed(change):
    """A network of three linear layers after some change."""
    network = network_of((6, 5))
    other = change(network)
    return network if other is None else other


class Doubled(nn.Linear):
    """A layer that is no linear layer."""

    def forward(self, inputs):
        return 2 * super().forward(inputs)


OTHERS = {
    "another order": lambda network: nn.Sequential(*network[:2], *network[3:]),
    "another activation": lambda network: nn.Sequential(network[0], nn.Softplus(), *network[2:]),
    "an activation with another setting": lambda network: nn.Sequential(network[0], nn.ELU(0.5), *network[2:]),
    "an activation at the end": lambda network: nn.Sequential(*network, nn.Tanh()),
    "a layer without a bias": lambda network: nn.Sequential(*network[:-1], nn.Linear(5, 1, bias=False)),
    "a layer of somebody's own": lambda network: nn.Sequential(*network[:-1], Doubled(5, 1)),
    "a normalised weight": lambda network: nn.utils.parametrizations.weight_norm(network[2]) and None,
    "a hook": lambda network: network[2].register_forward_hook(lambda *_: None) and None,
    "dropout": lambda network: nn.Sequential(*network[:2], nn.Dropout(), *network[2:]),
    "one layer and no list": lambda network: network[0],
    "nothing": lambda network: nn.Sequential(),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_networks_are_told_apart(change):
    assert is_perceptron(network_of((6, 5)))
    assert not is_perceptron(changed(change))
