import multiprocessing

import gymnasium
import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces

from trpo.config import EnvConfig, UserError
from trpo.models.observations import Kind, Leaf, leaves_of
from trpo.sampling.environments import Environments
from trpo.sampling.making import check_environment, make_env
from trpo.system import seeds

BACKENDS = ["sync", "async", "vector"]


@pytest.fixture
def make():
    """Make environments that are closed after the test."""
    made = []

    def function(id, *, seed=0, num_envs=3, backend="sync", **kwargs):
        made.append(Environments(EnvConfig(id=id, num_envs=num_envs, backend=backend, kwargs=kwargs), seed))
        return made[-1]

    yield function
    for environments in made:
        environments.close()


def actions(*values):
    return torch.tensor(values, dtype=torch.float32).unsqueeze(-1)


def starts(environments, episodes):
    """Return the starts (episodes, B) of an environment of one step."""
    rows = [environments.observations]
    for _ in range(episodes - 1):
        environments.step(torch.zeros(environments.num_envs, 1))
        rows.append(environments.observations)
    return torch.stack(rows).squeeze(-1)


# Seeds


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_an_episode_starts_from_the_seed_of_its_environment_and_number(make, backend):
    drawn = starts(make("Drawn-v0", seed=5, backend=backend), episodes=4)
    single = gymnasium.make("Drawn-v0")
    for episode in range(4):
        for env in range(3):
            seed = seeds.integer(5, seeds.Role.ENVIRONMENTS, env, episode)
            assert drawn[episode, env] == single.reset(seed=seed)[0].item()


def test_neighbouring_seeds_share_no_start(make):
    """With Gymnasium's seed + i, environment 1 of seed 3 would be environment 0 of seed 4."""
    of_seed = {seed: starts(make("Drawn-v0", seed=seed), episodes=10) for seed in (3, 4, 5)}
    assert torch.stack(list(of_seed.values())).unique().numel() == 3 * 10 * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_starts_and_another_seed_others(make, backend):
    first, again, other = (make("CartPole-v1", seed=seed, backend=backend).observations for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.cat([first, other]).unique(dim=0).shape == (6, 4)


def test_starts_do_not_depend_on_how_many_environments_there_are(make):
    few, many = (starts(make("Drawn-v0", num_envs=number), episodes=3) for number in (2, 5))
    assert torch.equal(few, many[:, :2])


@pytest.mark.parametrize("elsewhere", [0.5, probes.TERMINATE])
def test_an_episode_that_ends_elsewhere_does_not_move_the_next_start(make, elsewhere):
    environments = make("Counting-v0", num_envs=2)
    environments.step(actions(0.5, elsewhere))
    assert environments.observations[0].tolist()[1:] == [0, 1, 1, 0.5, 0]
    environments.step(actions(probes.TERMINATE, elsewhere))
    assert environments.observations[0].tolist()[1:] == [1, 0, 2, 0, 0]
    assert environments.observations[0, probes.WHO] == seeds.integer(0, seeds.Role.ENVIRONMENTS, 0, 1) % 2**16


# Steps


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("end", [probes.TERMINATE, probes.TRUNCATE, probes.END_BOTH])
def test_a_transition_ends_in_the_final_observation(make, backend, end):
    environments = make("Counting-v0", num_envs=2, backend=backend)
    transition = environments.step(actions(0.25, end))
    assert transition.next_observations[:, probes.OVER].tolist() == [0, 1]
    assert transition.next_observations[:, probes.POSITION].tolist() == [0.25, end]
    assert transition.rewards.tolist() == [1.25, 1 + end]
    assert transition.terminated.tolist() == [False, end != probes.TRUNCATE]
    assert transition.truncated.tolist() == [False, end != probes.TERMINATE]
    assert transition.valid.all()


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_masked_resets_spend_no_step(make, backend):
    environments = make("Counting-v0", num_envs=2, backend=backend)
    environments.step(actions(0.25, probes.TERMINATE))
    assert environments.observations[:, probes.EPISODE].tolist() == [0, 1]
    assert environments.observations[:, probes.STEP].tolist() == [1, 0]
    assert environments.step(actions(0.25, 0.25)).valid.all()


def test_a_vector_entry_point_spends_one_step_that_is_marked(make):
    environments = make("Counting-v0", num_envs=2, backend="vector")
    environments.step(actions(0.25, probes.TERMINATE))
    reset = environments.step(actions(0.25, probes.TERMINATE))
    assert reset.valid.tolist() == [True, False]
    assert not reset.terminated.any()
    assert environments.observations[:, probes.EPISODE].tolist() == [0, 1]
    assert environments.step(actions(0.25, 0.25)).valid.all()


def test_past_transitions_do_not_follow_the_environments_buffers(make):
    environments = make("Counting-v0")
    first, began = environments.step(actions(0.25, 0.5, 0.25)), environments.observations
    kept = [torch.as_tensor(part).clone() for part in (*first, began)]
    environments.step(actions(0.5, 0.25, probes.TERMINATE))
    for part, copy in zip((*first, began), kept, strict=True):
        torch.testing.assert_close(torch.as_tensor(part), copy, rtol=0, atol=0, equal_nan=True)


def test_cartpoles_own_vector_environment_begins_every_episode_near_the_middle(make):
    """A start has |s| ≤ 0.05, an end |x| > 2.4 or |θ| > 0.2095: the two cannot be mistaken for each other."""
    environments = make("CartPole-v1", backend="vector", num_envs=4)
    fresh, ends = np.ones(4, dtype=bool), 0
    for _ in range(60):
        acted_on = environments.observations
        transition = environments.step(actions(1, 1, 0, 0))
        assert (acted_on[fresh & transition.valid].abs() <= 0.05).all()
        ended = transition.terminated | transition.truncated
        final = transition.next_observations[ended]
        assert ((final[:, 0].abs() > 2.4) | (final[:, 2].abs() > 0.2094)).all()
        fresh, ends = ended | ~transition.valid, ends + int(ended.sum())
    assert ends > 10


# What is not finite


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("signal", "name"), [("observation", r"observation\[2\]"), ("reward", "reward")])
def test_a_signal_that_is_not_finite_is_named_with_its_environment_and_step(make, backend, value, signal, name):
    environments = make("Broken-v0", backend=backend, signal=signal, after=2, value=value)
    environments.step(actions(0, 0, 1))
    environments.step(actions(1, 0, 0))
    with pytest.raises(FloatingPointError, match=rf"^{name} of environment 2 is {value} after its step 3\b"):
        environments.step(actions(0, 1, 1))


def test_a_first_observation_that_is_not_finite_is_named(make):
    with pytest.raises(FloatingPointError, match=r"^observation\[2\] of environment 0 is nan after its step 0\b"):
        make("Broken-v0", signal="observation", after=0)


# Making and closing


def test_closing_leaves_no_processes():
    environments = Environments(EnvConfig(id="Counting-v0", num_envs=2, backend="async"), seed=0)
    assert len(multiprocessing.active_children()) == 2
    environments.step(actions(0.25, 0.25))
    environments.close()
    assert not multiprocessing.active_children()


def test_environments_that_cannot_start_leave_no_processes():
    config = EnvConfig(id="Broken-v0", num_envs=2, backend="async", kwargs={"signal": "observation", "after": 0})
    with pytest.raises(FloatingPointError):
        Environments(config, seed=0)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_id_may_import_its_module(make, backend):
    environments = make("probes:Counting-v0", backend=backend)
    assert environments.step(actions(0.25, 0.25, 0.25)).valid.all()


MISTAKES = [
    (EnvConfig(), "no environment"),
    (EnvConfig(id="Missing-v0"), "Missing"),
    (EnvConfig(id="nomodule:Counting-v0"), "nomodule"),
    (EnvConfig(id="Endless-v0", kwargs={"no_such_argument": 1}), "no_such_argument"),
]


@pytest.mark.parametrize(("config", "words"), MISTAKES)
def test_an_environment_that_cannot_be_made_is_a_users_mistake_in_one_line(config, words):
    with pytest.raises(UserError, match=words) as error:
        make_env(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("id", "words"),
    [("Acrobot-v1", "vector entry point"), ("SameStepCounting-v0", "autoresets")],
)
def test_a_vector_backend_that_cannot_work_is_a_users_mistake(id, words):
    with pytest.raises(UserError, match=words):
        check_environment(EnvConfig(id=id, backend="vector"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_checking_an_environment_gives_the_interface_of_running_it(make, backend):
    running = make("Counting-v0", backend=backend).interface
    checked = check_environment(EnvConfig(id="Counting-v0", backend=backend))
    assert checked[:2] == running[:2] == (Leaf(Kind.VECTOR, (6,)), running.distribution)


class Straying(probes.OneStep):
    """One observation in two lies outside the space that the environment states."""

    def step(self, action):
        return np.full(1, 2 * self.state, dtype=np.float32), 0.0, False, False, {}


gymnasium.register("Straying-v0", Straying)


def test_an_observation_outside_its_space_is_said_once_and_learned_from(caplog):
    environments = Environments(EnvConfig(id="Straying-v0", num_envs=2), seed=0)
    for _ in range(3):
        transition = environments.step(torch.zeros(2, 1))
        environments.watch(transition.next_observations.unsqueeze(0))
    environments.close()
    assert transition.next_observations.abs().tolist() == [[2.0], [2.0]]
    assert caplog.text.count("outside the environment's own space") == 1


def test_the_step_of_the_first_observation_outside_is_named(caplog):
    environments = Environments(EnvConfig(id="CartPole-v1", num_envs=2), seed=0)
    rows = [environments.observations, *(environments.step(torch.zeros(2, 1)).next_observations for _ in range(4))]
    rows[2] = rows[2].clone()
    rows[2][1, 0] = 5.0  # 4.8 is the bound
    environments.watch(torch.stack(rows[:4]))  # what the four steps were decided on
    environments.close()
    assert "an observation at step 2 lies outside" in caplog.text


class Huge(probes.OneStep):
    """Finite observations and rewards, whose sums are not."""

    def step(self, action):
        return np.full(1, 3e38, dtype=np.float32), 3e38, False, False, {}


gymnasium.register("Huge-v0", Huge)


def test_finite_numbers_with_an_infinite_sum_are_finite():
    environments = Environments(EnvConfig(id="Huge-v0", num_envs=2), seed=0)
    transition = environments.step(torch.zeros(2, 1))
    environments.close()
    assert transition.next_observations.isfinite().all()


def test_observations_inside_their_space_are_not_remarked_upon(caplog):
    environments = Environments(EnvConfig(id="CartPole-v1", num_envs=2), seed=0)
    environments.watch(environments.step(torch.zeros(2, 1)).next_observations.unsqueeze(0))
    environments.close()
    assert "outside" not in caplog.text


# Observations composed of several spaces

COMPOSED = [
    spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-2, 2, (2,), np.float32)]),
    spaces.Dict({"b": spaces.MultiBinary(2), "a": spaces.Dict({"c": spaces.Box(0, 9, (1,), np.float64)})}),
    spaces.MultiDiscrete([2, 3]),
    spaces.MultiBinary((2, 2)),
]


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("space", COMPOSED, ids=str)
def test_parts_of_composed_observations_are_those_that_gymnasium_flattens(make, space, backend):
    single = gymnasium.make("Spaces-v0", observation_space=space, action_space=spaces.Discrete(2))
    environments = make(
        "Spaces-v0", num_envs=2, backend=backend, observation_space=space, action_space=spaces.Discrete(2)
    )
    for env in range(2):
        sample = single.reset(seed=seeds.integer(0, seeds.Role.ENVIRONMENTS, env, 0))[0]
        expected = spaces.flatten(space, sample)
        leaves = leaves_of(environments.observations[env])
        np.testing.assert_array_equal(np.concatenate(list(leaves.values())), expected.astype(np.float32))
        assert expected.any()
