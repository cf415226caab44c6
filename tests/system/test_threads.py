"""Torch has one thread where its work is too small to share, and what it had afterwards."""

import pytest
import torch

from trpo.config import CriticConfig
from trpo.models.networks import Critic
from trpo.numerics.perceptron import Perceptron
from trpo.system.threads import single_thread
from trpo.update.critic import fit_critic, make_optimizer


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_meanwhile_there_is_one_thread_also_if_it_ends_badly():
    seen = []
    with pytest.raises(ZeroDivisionError):
        single_thread()(lambda: seen.append(torch.get_num_threads()) or 1 / 0)()
    assert seen == [1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("minibatch_size", "threads"), [(64, {1}), (2_000, {2})])
def test_small_minibatches_are_fitted_by_one_thread(monkeypatch, minibatch_size, threads):
    seen, differentiate = set(), Perceptron.differentiate

    def watched(*arguments):
        seen.add(torch.get_num_threads())
        differentiate(*arguments)

    monkeypatch.setattr(Perceptron, "differentiate", watched)
    critic = Critic(3, hidden_sizes=(64, 64), activation="tanh", generator=torch.Generator().manual_seed(0))
    config = CriticConfig(epochs=1, minibatch_size=minibatch_size)
    fit_critic(
        critic, make_optimizer(critic, config), torch.randn(2_000, 3), torch.randn(2_000), config, torch.Generator()
    )
    assert seen == threads
    assert torch.get_num_threads() == 2
