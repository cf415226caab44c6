"""A σ of the state: by hand, and its Fisher matrix by the dense Hessian of the KL."""

import oracles
import pytest
import torch
from oracles import generator, normal, random_batch

from trpo.models.gaussian_policies import GaussianPolicy, StateGaussianPolicy
from trpo.numerics.params import assign, flatten
from trpo.update.objective import Objective

SETTINGS = {"hidden_sizes": (5,), "activation": "tanh", "initial_log_std": -0.7, "min_log_std": -2.5}


def policy_of(dtype=torch.float64, *, moved=0.4):
    policy = StateGaussianPolicy(oracles.OBSERVATION_SIZE, 2, **SETTINGS, generator=generator(0)).to(dtype)
    assign(policy, flatten(policy) + moved * normal(len(flatten(policy)), seed=3, dtype=dtype))
    return policy


def test_at_first_sigma_is_as_asked_for_and_nearly_the_same_everywhere():
    policy = policy_of(moved=0.0)
    log_std = policy(normal(50, oracles.OBSERVATION_SIZE, seed=1)).chunk(2, dim=1)[1]
    torch.testing.assert_close(log_std, torch.full_like(log_std, -0.7), atol=0.02, rtol=0)
    assert log_std.std() > 0


def test_means_and_sigmas_by_hand():
    policy, seen = policy_of(), normal(6, oracles.OBSERVATION_SIZE, seed=1)
    first, _, last = policy.network
    outputs = torch.tanh(seen @ first.weight.T + first.bias) @ last.weight.T + last.bias
    expected = torch.cat([outputs[:, :2], -2.5 + torch.log1p(outputs[:, 2:].exp())], dim=1)
    torch.testing.assert_close(policy(seen), expected)
    assert policy(seen)[:, 2:].min() > -2.5


@pytest.mark.parametrize("fisher", ["gauss_newton", "hessian"])
def test_the_fisher_matrix_is_the_dense_hessian_of_the_kl(fisher):
    policy = policy_of()
    batch = random_batch(policy)
    theta = flatten(policy)

    def kl(theta):
        new = oracles.at(policy, theta, batch.observations)
        return oracles.kl(policy.distribution, batch.old_parameters, new).mean()

    dense = torch.autograd.functional.hessian(kl, theta)
    objective = Objective(policy, batch, fisher=fisher)
    products = torch.stack([objective.fisher_product(v) for v in torch.eye(len(theta), dtype=torch.float64)])
    torch.testing.assert_close(products, dense, rtol=1e-7, atol=1e-9)
    assert (dense.abs().sum(0) > 0).all()


def test_it_acts_as_it_is_updated():
    policy, seen = policy_of(torch.float32), normal(6, oracles.OBSERVATION_SIZE, seed=1, dtype=torch.float32)
    noise = normal(6, 2, seed=2, dtype=torch.float32)
    act, (mean, log_std) = policy.actor(), policy(seen).detach().chunk(2, dim=1)
    torch.testing.assert_close(act(seen, None), mean)
    torch.testing.assert_close(act(seen, noise), mean + log_std.exp() * noise)


@pytest.mark.parametrize("kind", [GaussianPolicy, StateGaussianPolicy])
def test_a_shift_is_added_to_every_log_sigma_and_is_saved_but_not_learned(kind):
    made = [kind(oracles.OBSERVATION_SIZE, 2, **SETTINGS, generator=generator(0)) for _ in range(3)]
    seen = normal(6, oracles.OBSERVATION_SIZE, seed=1, dtype=torch.float32)
    mean, log_std = made[0](seen).chunk(2, dim=1)
    theta = flatten(made[0])
    made[0].shift.fill_(-0.5)
    assert torch.equal(made[0](seen), torch.cat([mean, log_std - 0.5], dim=1))
    assert torch.equal(flatten(made[0]), theta)
    made[1].load_state_dict(made[0].state_dict())
    assert torch.equal(made[1](seen), made[0](seen))
    older = {name: value for name, value in made[0].state_dict().items() if name != "shift"}
    made[2].load_state_dict(older)  # of before there was one
    assert torch.equal(made[2](seen), torch.cat([mean, log_std], dim=1))
