"""EnvPool against Gymnasium: the same spaces, limits, ends and transitions, from seeds of its own."""

import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from tiny_runs import refusal

from trpo.commands.compose import tasks
from trpo.commands.train import train
from trpo.config import Config, EnvConfig, UserError
from trpo.models.agent import make_agent
from trpo.sampling import pool
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.sampling.making import check_environment, make_env
from trpo.sampling.pool import MOST_STEPS, Pool
from trpo.sampling.pool_env import only_in_envpool
from trpo.system import seeds

pytest.importorskip("envpool")
MODEL = (
    Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
)  # EnvPool reads its own only
INSTALL = "pip install 'trpo[envpool]'"


def config_of(id, num_envs=3, restart_every=0, **kwargs):
    return EnvConfig(id=id, backend="envpool", num_envs=num_envs, restart_every=restart_every, kwargs=kwargs)


@pytest.fixture
def make():
    made = []

    def function(id, *, seed=0, **settings):
        made.append(Environments(config_of(id, **settings), seed))
        return made[-1]

    yield function
    for environments in made:
        environments.close()


def same_actions(environments, value):
    return torch.full((environments.num_envs, 1), float(value))


# What the agent sees


# Shipped tasks that one of the two libraries does not have.
ONLY_ENVPOOL = {"Pong-v5", "FetchReachDense-v4", "Jumanji/Snake-v1", "MiniGrid-DoorKey-5x5-v0"}
ONLY_GYMNASIUM = {"ALE/Pong-v5", "Taxi-v4"}


@pytest.mark.parametrize("id", sorted({*tasks().values()} - ONLY_ENVPOOL - ONLY_GYMNASIUM))
def test_every_shipped_task_that_both_know_has_gymnasiums_spaces_and_time_limit(id):
    config = config_of(id)
    with closing(make_env(config)) as env, closing(Pool(config, env)) as made:
        assert made.limit == env.spec.max_episode_steps
        assert made.single_observation_space == env.observation_space
        assert made.single_action_space == env.action_space
        observations, _ = made.reset(seed=[1, 2, 3])
        stepped = made.step(np.stack([env.action_space.sample()] * 3))
    assert observations.shape == stepped[0].shape == (3, *env.observation_space.shape)
    assert [part.dtype for part in stepped[1:4]] == [np.float32, bool, bool]


def test_the_other_tasks_belong_to_one_of_the_two():
    for id in ONLY_ENVPOOL:
        assert only_in_envpool(id)
    for id in ONLY_GYMNASIUM:
        with pytest.raises(UserError, match=f"EnvPool does not know {id}"):
            check_environment(config_of(id))


@pytest.mark.parametrize("id", ["CartPole-v1", "HalfCheetah-v5"])
def test_rollouts_have_the_shapes_and_types_of_every_other_backend(id, make):
    rollouts = []
    for environments in (make(id), Environments(EnvConfig(id=id, num_envs=3), seed=0)):
        interface = environments.interface
        agent = make_agent(
            Config(env=EnvConfig(num_envs=3)),
            observations=interface.observations,
            distribution=interface.distribution,
        )
        with closing(environments):
            collector = Collector(environments, steps=7, generator=torch.Generator().manual_seed(0))
            rollouts.append(collector.collect(agent))
    for name, here, there in zip(rollouts[0]._fields[:7], *(rollout[:7] for rollout in rollouts), strict=True):
        assert (here.shape, here.dtype) == (there.shape, there.dtype), name


# Ends


@pytest.mark.parametrize(
    ("id", "limit", "kwargs"), [("Reacher-v5", 50, {}), ("HalfCheetah-v5", 7, {"max_episode_steps": 7})]
)
def test_a_time_limit_truncates_in_gymnasiums_step_and_the_two_steps_after_it_belong_to_no_episode(
    id, limit, kwargs, make
):
    environments = make(id, **kwargs)
    actions = torch.zeros(3, environments.interface.distribution.action_size)
    seen = [environments.step(actions) for _ in range(2 * limit + 4)]
    truncated = [index + 1 for index, transition in enumerate(seen) if transition.truncated.any()]
    assert truncated == [limit, 2 * limit + 2]
    assert all(transition.truncated.all() for transition in seen if transition.truncated.any())
    invalid = [index + 1 for index, transition in enumerate(seen) if not transition.valid.all()]
    assert invalid == [limit + 1, limit + 2, 2 * limit + 3, 2 * limit + 4]
    assert not any(transition.terminated.any() for transition in seen)


def push(environments, steps):
    """The transitions of pushing CartPole to the right."""
    return [environments.step(torch.ones(environments.num_envs, 1)) for _ in range(steps)]


def test_an_end_in_the_very_step_of_the_time_limit_is_both_a_termination_and_a_truncation(make):
    """EnvPool itself says truncated, and the value of a fallen pole would be bootstrapped."""
    fallen = [transition.terminated.item() for transition in push(make("CartPole-v1", num_envs=1), 30)]
    length = fallen.index(True) + 1
    for limit, terminated, truncated in ((length - 1, False, True), (length, True, True), (length + 1, True, False)):
        *before, end = push(make("CartPole-v1", num_envs=1, max_episode_steps=limit), min(limit, length))
        assert not any(transition.ended.any() for transition in before)
        assert (end.terminated.item(), end.truncated.item(), end.valid.item()) == (terminated, truncated, True)


def test_one_step_goes_into_the_reset_after_a_termination(make):
    """A start has |s| ≤ 0.05, an end |θ| > 0.2095."""
    environments = make("CartPole-v1", num_envs=4)
    reset, ends = np.zeros(4, dtype=bool), 0
    for transition in push(environments, 60):
        assert (transition.valid == ~reset).all()
        assert (transition.next_observations[torch.from_numpy(reset)].abs() <= 0.05).all()
        assert (transition.next_observations[torch.from_numpy(transition.ended)][:, 2].abs() > 0.2094).all()
        reset, ends = transition.terminated, ends + transition.terminated.sum()
    assert ends > 15


def test_an_environment_without_a_time_limit_gets_none():
    config = config_of("CliffWalking-v1")
    with closing(make_env(config)) as env, closing(Pool(config, env)) as made:
        assert made.limit == MOST_STEPS
        made.reset(seed=[1, 2, 3])
        for _ in range(5):
            assert not np.logical_or(*made.step(np.zeros(3, dtype=int))[2:4]).any()


# Transitions


def set_mujoco(env, observation):
    """Put Gymnasium's environment where an observation without x says; x decides no other number."""
    positions = np.concatenate([[0.0], observation[: env.model.nq - 1]])
    env.set_state(positions, observation[env.model.nq - 1 :])


def set_cart(env, observation):
    env.state = observation.astype(np.float64)


SET = {
    "HalfCheetah-v5": set_mujoco,
    "Hopper-v5": set_mujoco,
    "Walker2d-v5": set_mujoco,
    "CartPole-v1": set_cart,
}


@pytest.mark.filterwarnings("ignore:.*already returned terminated")
@pytest.mark.parametrize("id", SET)
def test_a_step_leads_where_gymnasiums_leads_from_the_same_state(id):
    config, compared = config_of(id), 0
    with closing(make_env(config)) as env, closing(Pool(config, env)) as made:
        env.action_space.seed(0)
        before, _ = made.reset(seed=[1, 2, 3])
        reset = np.zeros(3, dtype=bool)
        for _ in range(40):
            actions = np.stack([env.action_space.sample() for _ in range(3)])
            after, rewards, terminated, truncated, _ = made.step(actions)
            known = (np.abs(before) < 10).all(axis=1)  # Hopper's and Walker2d's observations clip velocities there
            for i in np.flatnonzero(known & ~reset):
                env.reset(seed=0)
                SET[id](env.unwrapped, before[i])
                expected, reward, ended, *_ = env.step(actions[i])
                np.testing.assert_allclose(after[i], expected, rtol=1e-5, atol=1e-6)
                assert rewards[i] == pytest.approx(reward, rel=1e-5, abs=1e-6)
                assert terminated[i] == ended
                compared += 1
            before, reset = after, terminated | truncated
    assert compared > 20


@pytest.mark.parametrize("id", ["HalfCheetah-v5", "Hopper-v5", "CartPole-v1", "Pendulum-v1"])
def test_episodes_start_where_gymnasiums_do(id):
    """Means and standard deviations over 600 starts; 5 standard errors."""
    config, number = config_of(id), 600
    with closing(make_env(config)) as env, closing(Pool(config, env)) as made:
        here, _ = made.reset(seed=list(range(number)))
        there = np.stack([env.reset(seed=i)[0] for i in range(number)])
    error = np.maximum(there.std(0), 1e-9) * 5 * np.sqrt(2 / number)
    assert (np.abs(here.mean(0) - there.mean(0)) < error).all()
    assert (np.abs(here.std(0) - there.std(0)) < error).all()


# Seeds


def test_an_environment_starts_from_the_seed_of_its_index_and_of_the_restart(make):
    few, many = make("CartPole-v1", num_envs=2, seed=3), make("CartPole-v1", num_envs=5, seed=3)
    assert torch.equal(few.observations, many.observations[:2])
    starts = torch.cat([make("CartPole-v1", num_envs=5, seed=seed).observations for seed in (3, 4, 5)])
    assert starts.unique(dim=0).shape == (15, 4)  # with seed + i there would be 7
    paths = [seeds.integer(3, seeds.Role.ENVIRONMENTS, i, 0) for i in range(5)]
    with closing(make_env(config_of("CartPole-v1"))) as env, closing(Pool(config_of("CartPole-v1"), env)) as made:
        for order in (slice(None), slice(None, None, -1)):  # each has its own seed, wherever it stands
            assert (made.reset(seed=paths[order])[0] == many.observations.numpy()[order]).all()


def test_restarts_come_every_so_many_steps_truncate_what_is_open_and_begin_from_other_seeds(make):
    environments = make("HalfCheetah-v5", restart_every=30)
    starts = [environments.observations]
    for step in range(1, 31):
        transition = environments.step(torch.zeros(3, 6))
        assert transition.truncated.all() == transition.interrupted.all() == (step % 10 == 0)
        if step % 10 == 0:
            starts.append(environments.observations)
    assert torch.cat(starts).unique(dim=0).shape == (12, 17)


def test_the_number_of_threads_does_not_matter(make, monkeypatch):
    actions = 2 * torch.rand(60, 3, 3, generator=torch.Generator().manual_seed(0)) - 1
    seen = []
    for number in (1, 3):
        monkeypatch.setattr(pool, "cores", lambda number=number: list(range(number)))
        environments = make("Hopper-v5")
        seen.append(torch.stack([environments.step(row).next_observations for row in actions]))
    assert torch.equal(*seen)


# Mistakes


def test_without_envpool_there_is_one_line_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.chdir(tmp_path)
    assert INSTALL in refusal(train, "task=cartpole", "env.backend=envpool")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["env.id=probes:Counting-v0"], ["EnvPool does not know probes:Counting-v0", "env.backend=sync"]),
        (["env.id=Blackjack-v1"], ["observation space of EnvPool's", "not Tuple"]),
        (["env.id=Pendulum-v1", "+env.kwargs.g=1.0"], ["Pendulum-v1", "'g'"]),
        (["env.id=HalfCheetah-v5", "+env.kwargs.num_threads=2"], ["num_threads"]),
        (["env.id=HalfCheetah-v5", f"+env.kwargs.xml_file='{MODEL}'"], ["HalfCheetah-v5", "half_cheetah.xml"]),
        (["env.id=HalfCheetah-v5", "+env.kwargs.reset_noise_scale='a'"], ["HalfCheetah-v5", "wrong type"]),
        (["env.id=CartPole-v1", "env.timeout=1"], ["env.timeout", "envpool"]),
    ],
)
def test_what_envpool_cannot_do_is_one_line_and_nothing_is_made(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(train, "env.backend=envpool", *arguments)
    assert all(words in line for words in said)


def test_arguments_that_both_libraries_know_are_passed_to_both(make):
    environments = make("HalfCheetah-v5", exclude_current_positions_from_observation=False)
    assert environments.observations.shape == (3, 18)
    config = config_of("HalfCheetah-v5", exclude_current_positions_from_observation=False)
    assert check_environment(config).observations.size == 18


def test_only_the_shape_of_observations_must_agree():
    box = gymnasium.spaces.Box
    pool.check_space("observation", box(-1, 1, (2,)), box(-2, 5, (2,)))
    with pytest.raises(UserError, match="observation space"):
        pool.check_space("observation", box(-1, 1, (2,)), box(-1, 1, (3,)))


def test_observations_of_several_parts_agree_part_by_part_in_all_but_the_type_of_their_numbers():
    discrete, box = gymnasium.spaces.Discrete, gymnasium.spaces.Box
    here = {"turn": discrete(3), "place": box(-1, 1, (2,), np.float32)}
    there = {"turn": discrete(3, dtype=np.int32), "place": box(-9, 9, (2,), np.float64)}
    pool.check_space("observation", gymnasium.spaces.Dict(here), gymnasium.spaces.Dict(there))
    for other in (
        {"turn": discrete(4)},
        {"turn": discrete(3, start=1)},
        {"place": box(-1, 1, (3,))},
        {"more": box(0, 1)},
    ):
        with pytest.raises(UserError, match="observation space"):
            pool.check_space("observation", gymnasium.spaces.Dict(here), gymnasium.spaces.Dict(there | other))
    with pytest.raises(UserError, match="observation space"):
        pool.check_space("observation", gymnasium.spaces.Dict(here), there["place"])


def test_action_spaces_that_differ_are_refused():
    box = gymnasium.spaces.Box
    pool.check_space("action", box(-1, 1, (2,), np.float32), box(-1, 1, (2,), np.float64))
    for other in (box(-2, 2, (2,)), box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)):
        with pytest.raises(UserError, match="action space"):
            pool.check_space("action", box(-1, 1, (2,)), other)


@pytest.mark.parametrize(
    ("threads", "own", "can"),
    [
        (2, [0, 1], True),
        (1, [3], True),
        (2, [4, 5], True),
        (2, [0, 1, 2], False),
        (2, [0, 2], False),
        (1, [0, 1], False),
    ],
)
def test_threads_are_pinned_where_each_has_a_core_and_the_cores_follow_each_other(threads, own, can):
    assert pool.can_pin(threads, own) is can
