"""Environments that only EnvPool has: a single one does what a pool of them does, and is all that evaluation needs."""

import json
from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from tiny_runs import agent_of, checkpoints, fingerprints, refusal, summary, train_tiny

from trpo.commands.compose import load_config
from trpo.commands.evaluate import evaluate as evaluate_command
from trpo.commands.train import train
from trpo.config import EnvConfig, UserError
from trpo.sampling import pool
from trpo.sampling.environments import Environments
from trpo.sampling.evaluation import evaluate
from trpo.sampling.making import check_environment, make_env
from trpo.sampling.pool import Pool
from trpo.sampling.pool_env import PoolEnv

pytest.importorskip("envpool")

SMALL_FRAMES = {"img_height": 42, "img_width": 42, "stack_num": 1}
CATCH_LENGTH = 9  # steps until the ball has fallen
AHEAD, RIGHT = 2, 1  # MiniGrid's
TO_THE_GOAL = (AHEAD, AHEAD, RIGHT, AHEAD, AHEAD)  # of MiniGrid-Empty-5x5-v0
TINY_CATCH = ("env.id=Catch-v0", "env.backend=envpool")


def config_of(id, num_envs=2, **kwargs):
    return EnvConfig(id=id, backend="envpool", num_envs=num_envs, kwargs=kwargs)


@pytest.fixture
def make():
    made = []

    def function(id, **kwargs):
        made.append(make_env(config_of(id, **kwargs)))
        return made[-1]

    yield function
    for env in made:
        env.close()


def leaves(tree):
    """The arrays of an observation, which may be a tree of them."""
    if not isinstance(tree, dict):
        return [tree]
    return [leaf for name in sorted(tree) for leaf in leaves(tree[name])]


def same(one, other):
    return all(np.array_equal(*pair) for pair in zip(leaves(one), leaves(other), strict=True))


def play(env, actions, seed=0):
    """What steps led to, as far as the episode goes."""
    env.reset(seed=seed)
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


# A single one and many


@pytest.mark.parametrize(
    ("id", "kwargs"),
    [
        ("Catch-v0", {}),
        ("MetaWorld/Reach-v3", {"max_episode_steps": 12}),
        ("Pong-v5", SMALL_FRAMES),
        ("MiniGrid-DoorKey-5x5-v0", {"max_episode_steps": 12}),
        ("FetchReachDense-v4", {"max_episode_steps": 12}),
        ("WalkerWalk-v1", {}),
    ],
)
def test_a_single_one_goes_through_the_transitions_of_each_in_a_pool(id, kwargs, make):
    env, config = make(id, **kwargs), config_of(id, **kwargs)
    assert isinstance(env, PoolEnv)
    env.action_space.seed(0)
    actions = [[env.action_space.sample() for _ in range(2)] for _ in range(20)]
    with closing(Pool(config, env)) as made:
        starts, _ = made.reset(seed=[8, 9])
        batches = [made.step(np.stack(row)) for row in actions]
    for index, seed in enumerate((8, 9)):
        observation, _ = env.reset(seed=seed)
        assert env.observation_space.contains(observation)
        assert same(observation, row_of(starts, index))
        for batch, action in zip(batches, actions, strict=True):
            observation, *numbers, _ = env.step(action[index])
            assert same(observation, row_of(batch[0], index))
            assert numbers == [values[index] for values in batch[1:4]]
            if numbers[1] or numbers[2]:
                break


def row_of(tree, index):
    return {name: row_of(part, index) for name, part in tree.items()} if isinstance(tree, dict) else tree[index]


def test_what_both_libraries_know_stays_gymnasiums(make):
    for id in ("CartPole-v1", "HalfCheetah-v5"):
        assert isinstance(make(id).unwrapped, gymnasium.make(id).unwrapped.__class__)


def test_a_version_that_gymnasium_has_given_up_is_envpools(make):
    env = make("HalfCheetah-v3")
    assert isinstance(env, PoolEnv)
    assert env.spec.max_episode_steps == 1_000


def test_what_others_have_registered_makes_no_difference(make, monkeypatch):
    monkeypatch.setitem(
        gymnasium.registry, "Catch-v0", gymnasium.envs.registration.EnvSpec("Catch-v0", entry_point=CartPoleEnv)
    )
    assert isinstance(make("Catch-v0"), PoolEnv)


def test_types_are_those_of_gymnasiums_interface(make):
    (step,) = play(make("FetchReachDense-v4"), [np.zeros(4, np.float32)])
    assert [type(part) for part in step] == [dict, float, bool, bool, dict]


# Seeds


def test_a_seed_decides_the_episode_and_without_one_every_episode_is_another(make):
    env = make("MetaWorld/Reach-v3")
    starts = [env.reset(seed=seed)[0] for seed in (3, None, None, 3, None, 4)]
    assert same(starts[0], starts[3])
    assert same(starts[1], starts[4])  # drawn from what the seed before left
    distinct = [starts[i].tobytes() for i in (0, 1, 2, 5)]
    assert len(set(distinct)) == 4


# Limits and ends


@pytest.mark.parametrize(
    ("id", "kwargs", "limit"),
    [
        ("MetaWorld/Reach-v3", {}, 500),
        ("MetaWorld/Reach-v3", {"max_episode_steps": 7}, 7),
        ("Pong-v5", {}, 27_000),
        ("Catch-v0", {}, None),
    ],
)
def test_the_time_limit_is_envpools_own_and_none_if_it_has_none(id, kwargs, limit, make):
    assert make(id, **kwargs).spec.max_episode_steps == limit


def test_the_limit_truncates_in_its_very_step(make):
    steps = play(make("MetaWorld/Reach-v3", max_episode_steps=7), np.zeros((20, 4), np.float32))
    assert [(terminated, truncated) for _, _, terminated, truncated, _ in steps] == [(False, False)] * 6 + [
        (False, True)
    ]


@pytest.mark.parametrize(("limit", "terminated", "truncated"), [(8, False, True), (9, True, True), (10, True, False)])
def test_an_end_in_the_step_of_the_limit_is_both(limit, terminated, truncated, make):
    *_, end = play(make("Catch-v0", max_episode_steps=limit), [0] * 20)
    assert end[2:4] == (terminated, truncated)


@pytest.mark.parametrize(
    ("arguments", "limit", "terminated", "truncated"),
    [({}, 100, True, False), ({"max_episode_steps": 6}, 6, True, False), ({"max_episode_steps": 5}, 5, True, True)],
)
def test_minigrid_pays_by_the_true_limit_and_a_goal_in_its_last_step_is_a_termination(
    arguments, limit, terminated, truncated, make
):
    """1 − 0.9 · 5 / limit, for five steps."""
    *_, end = play(make("MiniGrid-Empty-5x5-v0", **arguments), TO_THE_GOAL)
    assert end[1] == pytest.approx(1 - 0.9 * len(TO_THE_GOAL) / limit, abs=1e-6)
    assert end[2:4] == (terminated, truncated)


def test_minigrid_without_a_goal_is_cut_by_its_limit_and_reset_in_the_step_after(make):
    env = make("MiniGrid-Empty-5x5-v0", max_episode_steps=4)
    assert play(env, TO_THE_GOAL)[-1][1:4] == (0.0, False, True)
    with closing(Pool(config_of("MiniGrid-Empty-5x5-v0", max_episode_steps=4), env)) as made:
        made.reset(seed=[1, 2])
        ends = [made.step(np.full(2, RIGHT))[3].all() for _ in range(10)]
    assert np.flatnonzero(ends).tolist() == [3, 8]  # the fourth step, and four after the reset


@pytest.mark.parametrize("id", ["Sokoban-v0", "Jumanji/Sokoban-v0"])
def test_a_count_of_steps_stays_in_its_space_where_the_limit_cuts(id, make):
    """Its space ends with the limit of 120, and one-hot has no place for 121."""
    env = make(id)
    with closing(Pool(config_of(id), env)) as made:
        made.reset(seed=[1, 2])
        steps = [made.step(np.zeros(2, np.int32)) for _ in range(125)]
    assert max(step[0]["step_count"].max() for step in steps) == env.observation_space["step_count"].n - 1 == 120
    assert [index for index, step in enumerate(steps) if step[3].any()] == [119]


# Infos and rewards


def test_the_info_is_that_of_one_environment(make):
    env = make("FetchReachDense-v4")
    _, info = env.reset(seed=0)
    assert set(info) == {"is_success", "distance", "elapsed_step"}
    assert info["is_success"] in (0.0, 1.0)
    _, reward, _, _, info = env.step(np.zeros(4, np.float32))
    assert reward == pytest.approx(-info["distance"])


def test_the_reward_is_the_steps_and_not_the_one_that_atari_has_in_its_info(make):
    env = make("MsPacman-v5", reward_clip=True, **SMALL_FRAMES)
    env.action_space.seed(0)
    steps = play(env, [env.action_space.sample() for _ in range(200)])
    paid = [(reward, info["reward"]) for _, reward, _, _, info in steps if reward]
    assert paid
    assert all(clipped == 1 and own >= 10 for clipped, own in paid)


# Spaces


def test_arguments_go_to_envpool(make):
    assert make("Pong-v5", **SMALL_FRAMES).reset(seed=0)[0].shape == (1, 42, 42)
    assert check_environment(config_of("Pong-v5", **SMALL_FRAMES)).observations.shape == (1, 42, 42)


def test_bounds_that_only_say_what_a_number_can_hold_are_none(make):
    """dm_control's are 2e−308 and 2e308; a real bound stays."""
    bounds = make("WalkerWalk-v1").observation_space["orientations"]
    assert not bounds.is_bounded("below")
    assert not bounds.is_bounded("above")
    assert make("Catch-v0").observation_space.is_bounded()


# Training and evaluation


def test_rollouts_come_from_the_pool_with_its_spaces():
    with closing(Environments(config_of("MetaWorld/Reach-v3"), seed=0)) as environments:
        transition = environments.step(torch.zeros(2, 4))
        assert isinstance(environments.backend.envs, Pool)
        assert transition.next_observations.shape == (2, 39)


def test_a_run_is_evaluated_and_goes_on_as_if_it_had_not_stopped(tmp_path, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_tiny(whole, *TINY_CATCH, "run.total_steps=128") == 0
    assert train_tiny(parts, *TINY_CATCH) == 0
    assert train([f"run.resume={parts}", "run.total_steps=128"]) == 0
    assert summary(parts)["exact"] is True
    assert fingerprints(parts) == fingerprints(whole)
    capsys.readouterr()
    assert evaluate_command([str(whole), "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["length_mean"] == CATCH_LENGTH


def test_episodes_of_an_evaluation_are_the_same_twice(tmp_path):
    run = tmp_path / "run"
    assert train_tiny(run, *TINY_CATCH, "run.evaluation_episodes=0") == 0
    config = load_config(run / "config.yaml")
    agent = agent_of(config, checkpoints(run)[-1])
    first, again = (evaluate(agent, config.env, episodes=range(20), seed=0, stochastic=True) for _ in range(2))
    assert first == again
    assert set(first.returns) <= {-1.0, 1.0}
    assert set(first.lengths) == {CATCH_LENGTH}


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["env.id=Nowhere-v0"], ["`Nowhere` doesn't exist", "EnvPool does not know it either"]),
        (["env.id=CartPole-v77"], ["`v1`", "EnvPool does not know it either"]),
        (["env.id=Go9x9-v1"], ["Go9x9-v1 is played by 2"]),
        (["env.id=Catch-v0", "+env.kwargs.no_such=1"], ["Catch-v0", "no_such"]),
        (["env.id=Pong-v5", "+env.kwargs.img_height=a"], ["Pong-v5", "wrong type"]),
        (["env.id=Catch-v0", "+env.kwargs.num_envs=2"], ["num_envs"]),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_made(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(train, "env.backend=envpool", *arguments)
    assert all(words in line for words in said)


@pytest.mark.parametrize("id", ["Pong-v5", "MiniGrid-DoorKey-5x5-v0", "FetchReach-v4"])
def test_other_backends_tell_that_envpool_has_it(id):
    with pytest.raises(UserError, match=r"; EnvPool has it: env\.backend=envpool$"):
        make_env(EnvConfig(id=id))
    with pytest.raises(UserError) as refused:
        make_env(EnvConfig(id="CartPoll-v1"))
    assert "EnvPool" not in str(refused.value)


def test_a_library_that_an_environment_lacks_is_named(make, monkeypatch):
    class Lacking:
        @staticmethod
        def list_all_envs():
            return ["BigfishEasy-v0"]

        @staticmethod
        def make_spec(id):
            raise ImportError("Procgen requires Qt 5.\nInstall it.")

    monkeypatch.setattr(pool, "import_envpool", lambda: Lacking)
    with pytest.raises(UserError, match=r"EnvPool cannot make BigfishEasy-v0: Procgen requires Qt 5\.$"):
        make("BigfishEasy-v0")


def test_a_film_of_what_only_envpool_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert train_tiny(run, *TINY_CATCH, "run.evaluation_episodes=0") == 0
    line = refusal(evaluate_command, str(run), "--video", str(tmp_path / "films"))
    assert "Catch-v0" in line
    assert "--video" in line
