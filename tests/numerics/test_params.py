import pytest
import torch
from torch import nn

from trpo.numerics.params import assign, flatten, forward_at, unflatten


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 4, bias=False)).double()


def test_theta_lists_the_parameters_in_the_order_of_their_names(module):
    names = ["0.weight", "0.bias", "2.weight"]
    by_hand = [number for name in names for number in module.get_parameter(name).flatten().tolist()]
    assert flatten(module).tolist() == by_hand


def test_theta_is_a_detached_copy(module):
    theta = flatten(module)
    assert not theta.requires_grad
    before = module[0].weight.clone()
    theta.zero_()
    assert torch.equal(module[0].weight, before)


def test_a_copy_even_of_a_single_parameter():
    module = nn.Linear(3, 1, bias=False)
    before = module.weight.clone()
    flatten(module).zero_()
    assert torch.equal(module.weight, before)


def test_unflatten_gives_back_every_name_shape_and_number(module):
    pieces = unflatten(flatten(module), module)
    assert list(pieces) == [name for name, _ in module.named_parameters()]
    for name, parameter in module.named_parameters():
        assert torch.equal(pieces[name], parameter)


def test_assign_writes_what_flatten_reads(module):
    theta = torch.arange(16, dtype=torch.float64)  # 3·2 + 2 + 2·4
    assign(module, theta)
    assert torch.equal(flatten(module), theta)
    assert module[0].bias.tolist() == [6.0, 7.0]
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_assign_keeps_the_parameters_own_storage(module):
    pointers = [parameter.data_ptr() for parameter in module.parameters()]
    assign(module, torch.zeros(16, dtype=torch.float64))
    assert [parameter.data_ptr() for parameter in module.parameters()] == pointers


@pytest.mark.parametrize("shape", [(15,), (17,), (0,), (1, 16)])
@pytest.mark.parametrize("function", [unflatten, lambda theta, module: assign(module, theta)])
def test_a_theta_of_another_shape_is_refused_and_nothing_is_written(module, function, shape):
    before = flatten(module)
    with pytest.raises(ValueError, match=r"theta must have shape \(16,\)"):
        function(torch.zeros(shape, dtype=torch.float64), module)
    assert torch.equal(flatten(module), before)


def test_a_pass_at_another_theta_is_that_of_a_module_that_holds_it_and_writes_nothing(module):
    inputs, before = torch.eye(3, dtype=torch.float64), flatten(module)
    found = forward_at(module, before + 1, inputs)
    assert torch.equal(flatten(module), before)
    assign(module, before + 1)
    torch.testing.assert_close(found, module(inputs))


def test_gradients_flow_through_unflatten_to_their_own_place(module):
    theta = flatten(module).requires_grad_()
    pieces = unflatten(theta, module)
    loss = 2.0 * pieces["0.bias"].sum() + 5.0 * pieces["2.weight"][3, 1]
    (gradient,) = torch.autograd.grad(loss, theta)
    expected = torch.zeros(16, dtype=torch.float64)
    expected[6:8] = 2.0  # after the six weights of the first layer
    expected[-1] = 5.0
    assert torch.equal(gradient, expected)
