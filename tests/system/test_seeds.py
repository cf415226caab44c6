import itertools
import pickle

import numpy as np
import pytest
import torch

from trpo.system import seeds
from trpo.system.seeds import Role


def spawned(seed, *path):
    """The same child by walking down NumPy's own tree of spawned sequences."""
    sequence = np.random.SeedSequence(seed)
    for index in path:
        sequence = sequence.spawn(index + 1)[index]
    return sequence


def test_an_integer_is_the_state_of_the_spawned_child():
    assert seeds.integer(3, Role.ENVIRONMENTS, 1, 5) == spawned(3, 3, 1, 5).generate_state(1)[0]


def test_a_generator_is_seeded_with_63_bits_of_the_spawned_child():
    state = int(spawned(7, Role.MINIBATCHES).generate_state(1, np.uint64)[0])
    expected = torch.rand(4, generator=torch.Generator().manual_seed(state // 2))
    assert torch.equal(torch.rand(4, generator=seeds.generator(7, Role.MINIBATCHES)), expected)


def test_neighbouring_seeds_environments_and_episodes_share_nothing():
    paths = itertools.product(range(5), range(8), range(25))
    integers = [seeds.integer(seed, Role.ENVIRONMENTS, env, episode) for seed, env, episode in paths]
    assert len(set(integers)) == 5 * 8 * 25


def test_every_role_of_every_seed_draws_its_own_numbers():
    firsts = {
        torch.rand(1, generator=seeds.generator(seed, role), dtype=torch.float64).item()
        for seed in range(20)
        for role in Role
    }
    assert len(firsts) == 20 * len(Role)


def test_evaluation_never_starts_where_training_does():
    training = {seeds.integer(0, Role.ENVIRONMENTS, i, k) for i in range(20) for k in range(20)}
    evaluation = {seeds.integer(0, Role.EVALUATION_ENVIRONMENTS, i, k) for i in range(20) for k in range(20)}
    assert not training & evaluation


@pytest.mark.parametrize("role", Role)
def test_the_same_seed_and_role_give_the_same_stream(role):
    first, second = seeds.generator(11, role), seeds.generator(11, role)
    assert torch.equal(torch.randn(5, generator=first), torch.randn(5, generator=second))


def test_integers_fit_what_gymnasium_and_envpool_take():
    integers = [seeds.integer(2**40 + 1, Role.ENVIRONMENTS, i, 0) for i in range(100)]
    assert all(type(number) is int and 0 <= number < 2**32 for number in integers)


def test_roles_keep_their_numbers():
    """They are part of what a seed means: a renumbered role is another run."""
    assert [role.name for role in sorted(Role)][:6] == [
        "NETWORKS",
        "ACTIONS",
        "MINIBATCHES",
        "ENVIRONMENTS",
        "EVALUATION_ENVIRONMENTS",
        "EVALUATION_ACTIONS",
    ]
    assert [int(role) for role in sorted(Role)] == list(range(len(Role)))


def test_making_seeds_touches_no_global_generator():
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    seeds.integer(0, Role.NETWORKS)
    torch.rand(3, generator=seeds.generator(0, Role.ACTIONS))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]
