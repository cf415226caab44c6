"""Two routes to the same steps, and which of them is taken."""

import copy
import math

import pytest
import torch
from torch import nn

from trpo.config import CriticConfig
from trpo.models.mlp import ACTIVATIONS
from trpo.models.networks import Critic
from trpo.models.observations import tree
from trpo.update import critic as critic_fit
from trpo.update.critic import fit_critic, make_optimizer
from trpo.update.descent import can_be_lean, descend_by_autograd, descend_lean, minibatches

CONFIG = CriticConfig(epochs=3, minibatch_size=16, learning_rate=0.01)


def make_critic(hidden_sizes=(8, 6), activation="tanh", kind=Critic):
    generator = torch.Generator().manual_seed(0)
    return kind(3, hidden_sizes=hidden_sizes, activation=activation, generator=generator).double()


@pytest.fixture
def data():
    """75 rows: minibatches of 15."""
    generator = torch.Generator().manual_seed(1)
    observations = torch.randn(75, 3, generator=generator, dtype=torch.float64)
    return observations, observations.prod(1) + torch.randn(75, generator=generator, dtype=torch.float64)


def descended(descend, critic, data, *, fits=2, config=CONFIG):
    """The critic's parameters and its optimiser's state after some fits."""
    optimizer, generator = make_optimizer(critic, config), torch.Generator().manual_seed(2)
    for _ in range(fits):
        descend(critic, optimizer, *data, config, generator)
    return [*critic.state_dict().values(), *(each for state in optimizer.state.values() for each in state.values())]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden_sizes", [(), (8,), (8, 6), (5, 7, 3)])
def test_both_routes_take_the_same_steps_and_leave_the_same_state(data, hidden_sizes, activation):
    critics = [make_critic(hidden_sizes, activation) for _ in range(2)]
    lean = descended(descend_lean, critics[0], data)
    assert_same(lean, descended(descend_by_autograd, critics[1], data))
    assert not torch.equal(lean[0], make_critic(hidden_sizes, activation).state_dict()["network.0.weight"])


def test_the_lean_steps_are_those_of_plain_torch(data):
    """Adam as torch documents it, one tensor at a time, on the gradients of its own loss."""
    critic, expected = make_critic(), make_critic()
    lean = descended(descend_lean, critic, data, fits=1)
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.01, eps=1e-5, foreach=False)
    for chosen in minibatches(data[1], CONFIG, torch.Generator().manual_seed(2)):
        optimizer.zero_grad()
        nn.functional.mse_loss(expected(data[0][chosen]), data[1][chosen]).backward()
        optimizer.step()
    states = [each for state in optimizer.state.values() for each in state.values()]
    assert_same(lean, [*expected.state_dict().values(), *states])


@pytest.mark.parametrize("routes", [(descend_lean, descend_by_autograd), (descend_by_autograd, descend_lean)])
def test_one_route_goes_on_where_the_other_stopped(data, routes):
    """So checkpoints of either are those of both."""
    both, one = make_critic(), make_critic()
    optimizer, generator = make_optimizer(both, CONFIG), torch.Generator().manual_seed(2)
    for descend in routes:
        descend(both, optimizer, *data, CONFIG, generator)
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = make_optimizer(both, CONFIG)
        optimizer.load_state_dict(saved)
    states = [each for state in optimizer.state.values() for each in state.values()]
    assert_same([*both.state_dict().values(), *states], descended(descend_by_autograd, one, data))


class Squared(Critic):
    """Somebody's own."""

    def forward(self, observations):
        return super().forward(observations).square()


def taken(monkeypatch, critic, optimizer, data):
    """The name of the route that a fit takes."""
    names = []
    for name in ("descend_lean", "descend_by_autograd"):
        monkeypatch.setattr(critic_fit, name, lambda *_, name=name: names.append(name))
    fit_critic(critic, optimizer, *data, CONFIG, torch.Generator())
    return names


def test_our_critic_takes_the_lean_route(monkeypatch, data):
    critic = make_critic()
    assert taken(monkeypatch, critic, make_optimizer(critic, CONFIG), data) == ["descend_lean"]


def frozen(critic):
    critic.network[0].weight.requires_grad_(False)
    return make_optimizer(critic, CONFIG)


def replaced(critic):
    critic.network[1] = nn.Softplus()
    return make_optimizer(critic, CONFIG)


def followed(critic):
    critic.register_forward_hook(lambda *_: None)
    return make_optimizer(critic, CONFIG)


def two_groups(critic):
    first, *rest = critic.parameters()
    return torch.optim.Adam([{"params": [first], "lr": 0.1}, {"params": rest}], fused=True)


OTHERS = {
    "a critic of somebody's own": (Squared, lambda critic: make_optimizer(critic, CONFIG)),
    "a layer of another kind": (Critic, replaced),
    "a frozen layer": (Critic, frozen),
    "a hook": (Critic, followed),
    "plain gradient descent": (Critic, lambda critic: torch.optim.SGD(critic.parameters(), lr=0.01)),
    "decoupled weight decay": (Critic, lambda critic: torch.optim.AdamW(critic.parameters(), fused=True)),
    "weight decay": (Critic, lambda critic: torch.optim.Adam(critic.parameters(), weight_decay=0.1, fused=True)),
    "AMSGrad": (Critic, lambda critic: torch.optim.Adam(critic.parameters(), amsgrad=True, fused=True)),
    "two groups": (Critic, two_groups),
    "a part of the critic": (Critic, lambda critic: torch.optim.Adam(list(critic.parameters())[2:], fused=True)),
}


@pytest.mark.parametrize(("kind", "make"), OTHERS.values(), ids=OTHERS)
def test_what_is_not_ours_takes_the_route_of_autograd(monkeypatch, data, kind, make):
    critic = make_critic(kind=kind)
    optimizer = make(critic)
    assert not can_be_lean(critic, optimizer)
    assert taken(monkeypatch, critic, optimizer, data) == ["descend_by_autograd"]


@pytest.mark.parametrize("kind", [Critic, Squared])
def test_a_fit_that_diverges_is_an_error_and_no_parameter_is_lost_in_it(kind, data):
    """A learning rate that no float survives: the loss before the fit is finite."""
    critic = make_critic(kind=kind)
    config = CriticConfig(epochs=3, minibatch_size=16, learning_rate=1e200)
    with pytest.raises(FloatingPointError, match=r"the critic's .* is (nan|inf): its targets reach"):
        fit_critic(critic, make_optimizer(critic, config), *data, config, torch.Generator())
    assert all(torch.isfinite(parameter).all() for parameter in critic.parameters())


def test_the_lean_route_writes_nothing_of_a_fit_that_diverged(data):
    critic, before = make_critic(), make_critic()
    config = CriticConfig(epochs=3, minibatch_size=16, learning_rate=1e200)
    optimizer = make_optimizer(critic, config)
    with pytest.raises(FloatingPointError):
        fit_critic(critic, optimizer, *data, config, torch.Generator())
    assert all(map(torch.equal, critic.state_dict().values(), before.state_dict().values()))
    assert all(not state["step"] and not state["exp_avg"].any() for state in optimizer.state.values())


@pytest.mark.parametrize(("samples", "size", "sizes"), [(75, 16, {15}), (10, 4, {3, 4}), (5, 64, {5}), (3, 1, {1})])
def test_an_epoch_passes_once_over_all_samples_in_even_parts(samples, size, sizes):
    config = CriticConfig(epochs=2, minibatch_size=size)
    found = list(minibatches(torch.zeros(samples), config, torch.Generator().manual_seed(0)))
    assert {len(part) for part in found} == sizes
    assert len(found) == 2 * math.ceil(samples / size)
    epochs = torch.cat(found).view(2, samples)
    assert all(sorted(epoch.tolist()) == list(range(samples)) for epoch in epochs)
    assert samples < 5 or not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("parts", [False, True])
def test_minibatches_are_where_the_samples_are(parts):
    """The device `meta` stands in for a GPU: it holds no numbers, and is not where indices are drawn."""
    samples = torch.empty(7, 2, device="meta")
    seen = tree({"one": samples, "other": samples}, (7,)) if parts else samples
    assert {chosen.device.type for chosen in minibatches(seen, CONFIG, torch.Generator())} == {"meta"}
