"""The gradient that is written out against autograd's, and K networks against K networks of torch.nn."""

import pytest
import torch
from oracles import generator, normal
from scipy.stats import norm
from torch import nn

from trpo.models import action_values
from trpo.models.action_values import ActionValues
from trpo.models.value_heads import NumberHead
from trpo.numerics.ensemble import FitGradient, forward, layers_of, parameter_count

SHAPES = {
    "one hidden": (4, 7, 1),
    "two hidden": (4, 7, 6, 1),
    "several outputs": (3, 5, 5, 4),
    "linear": (4, 2),
    "one input": (1, 5, 1),
}
ROWS = 30


def made(sizes, networks=2, dtype=torch.float64, bins=0):
    shape = {"hidden_sizes": sizes[1:-1], "networks": networks, "bins": bins}
    values = ActionValues(sizes[0], sizes[-1], **shape, generator=generator(1))
    values.to(dtype)
    values.theta += 0.3 * normal(len(values.theta), seed=2, dtype=dtype)  # gains and shifts away from 1 and 0
    return values


def data(sizes, rows=ROWS, dtype=torch.float64):
    outputs = torch.randint(sizes[-1], (rows,), generator=generator(3))
    return normal(rows, sizes[0], seed=4, dtype=dtype), outputs, normal(rows, seed=5, dtype=dtype)


def torch_network(values, number):
    """One of the networks, of torch's own modules."""
    modules = []
    for weight, bias, gain, shift in values.layers():
        linear = nn.Linear(*weight.shape[1:]).double()
        linear.weight.data, linear.bias.data = weight[number].T.clone(), bias[number, 0].clone()
        modules.append(linear)
        if gain is not None:
            norm = nn.LayerNorm(weight.shape[2]).double()
            norm.weight.data, norm.bias.data = gain[number, 0].clone(), shift[number, 0].clone()
            modules += [norm, nn.SiLU()]
    return nn.Sequential(*modules)


def loss(values, theta, inputs, outputs, targets):
    """Squared errors, or the cross-entropy of torch with a normal's density at the centres as it is in SciPy."""
    raw = forward(layers_of(theta, values.networks, values.sizes), inputs)
    meant = raw.unflatten(2, (-1, values.head.outputs))[:, torch.arange(len(inputs)), outputs]  # (K, n, J)
    if isinstance(values.head, NumberHead):
        return (meant.squeeze(2) - targets).square().mean(1).sum()
    centres = values.head.centres
    density = torch.tensor(norm.pdf(centres, targets[:, None], 0.75 * (centres[1] - centres[0])))
    probabilities = density / density.sum(1, keepdim=True)
    return sum(nn.functional.cross_entropy(one, probabilities) for one in meant)


def fit_gradient(values):
    return FitGradient(values.theta, values.networks, values.sizes, values.head.error_backward)


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, ROWS])
def test_values_and_their_derivatives_are_the_same_in_one_piece_and_in_several(rows, monkeypatch):
    values = made(SHAPES["several outputs"])
    inputs = normal(rows, 3, seed=4, dtype=torch.float64).requires_grad_()
    whole = values(inputs)
    (slopes,) = torch.autograd.grad(whole.square().sum(), inputs)
    monkeypatch.setattr(action_values, "ROWS_AT_ONCE", 8)
    parts = values(inputs)
    assert parts.shape == (2, rows, 4)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), inputs)[0], slopes, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("networks", [1, 3])
def test_networks_are_those_of_torch(sizes, networks):
    values = made(sizes, networks)
    inputs, _, _ = data(sizes)
    assert len(values.theta) == parameter_count(networks, sizes)
    expected = torch.stack([torch_network(values, number)(inputs) for number in range(networks)])
    torch.testing.assert_close(values(inputs), expected.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(values.mean(inputs), expected.mean(0).detach(), rtol=1e-10, atol=1e-12)


def test_of_two_networks_a_pessimism_of_one_is_the_smallest():
    values, (inputs, _, _) = made(SHAPES["two hidden"], 2), data(SHAPES["two hidden"])
    both = values(inputs)
    torch.testing.assert_close(values.cautious(inputs, 1.0), both.amin(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(values.cautious(inputs, 0.5), (both.amin(0) + both.mean(0)) / 2, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("bins", [0, 20])
def test_the_gradient_is_that_of_autograd(sizes, networks, bins):
    values, (inputs, outputs, targets) = made(sizes, networks, bins=bins), data(sizes)
    error, wanted = fit_gradient(values), values.head.wanted(targets)
    for chosen in (torch.tensor([3, 1, 4, 1, 5]), torch.arange(ROWS), torch.tensor([29])):  # programs of three sizes
        theta = values.theta.detach().clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(values, theta, inputs[chosen], outputs[chosen], targets[chosen]), theta)
        error.differentiate(inputs, outputs, wanted, chosen)
        torch.testing.assert_close(error.gradient, expected, rtol=1e-9, atol=1e-12)
        error.differentiate(inputs, outputs, wanted, chosen)  # again, over what the first time left behind
        torch.testing.assert_close(error.gradient, expected, rtol=1e-9, atol=1e-12)


def test_it_reads_the_parameters_where_they_lie():
    sizes = SHAPES["two hidden"]
    values, (inputs, outputs, targets) = made(sizes), data(sizes)
    error, wanted = fit_gradient(values), values.head.wanted(targets)
    error.differentiate(inputs, outputs, wanted, torch.arange(ROWS))
    before = error.gradient.clone()
    values.theta += 0.1
    error.differentiate(inputs, outputs, wanted, torch.arange(ROWS))
    assert not torch.allclose(before, error.gradient)


def test_layers_are_views_of_the_one_vector():
    values = made(SHAPES["two hidden"])
    values.theta.zero_()
    assert not any(part.any() for layer in values.layers() for part in layer if part is not None)
    values.layers()[1].weight.fill_(1.0)
    assert values.theta.sum() == 2 * 7 * 6


def test_a_gradient_of_the_inputs_goes_through_and_none_into_the_networks():
    values = made(SHAPES["two hidden"])
    inputs = data(SHAPES["two hidden"])[0].requires_grad_()
    values.mean(inputs).sum().backward()
    assert inputs.grad is not None
    assert values.theta.grad is None
