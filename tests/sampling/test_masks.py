"""Masks in the forms that there are, at the ends of episodes, and beside a vector entry point."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from trpo.config import EnvConfig, UserError
from trpo.models.observations import MASK, leaves_of
from trpo.sampling.environments import Environments
from trpo.sampling.making import check_environment, make_env
from trpo.sampling.masks import checked

TWO = spaces.MultiDiscrete([3, 2])
SQUARE = spaces.MultiDiscrete([[2, 1], [1, 3]])


class Said(gymnasium.Env):
    """Three steps, with a mask in its info.

    Args:
        last: what the info of an end has for a mask: "none", "None", or the usual one.
        later: what the other infos of a step have.
        method: whether it has a method `action_masks` instead.
        first: what the info of a reset has.
        size: of its observations.
    """

    action_space = TWO

    def __init__(self, last="usual", later="usual", first="usual", method=False, size=2, said=True):
        masks = (np.array([1, 0, 1], np.int8), np.array([0, 1], np.int8))
        self.infos = {"usual": {MASK: masks}, "none": {}, "None": {MASK: None}, "bad": {MASK: "abc"}}
        if method or not said:
            self.infos = {key: {} for key in self.infos}
        if method:
            self.action_masks = lambda: masks
        self.last, self.later, self.first, self.observation_space = last, later, first, spaces.Box(-9, 9, (size,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.low, self.infos[self.first]

    def step(self, action):
        self.steps += 1
        ended = self.steps >= 3
        return self.observation_space.low, 1.0, False, ended, self.infos[self.last if ended else self.later]


def vector_of(num_envs, vector_size=2, said=False, **kwargs):
    """Environments of which nobody sees a mask."""
    envs = SyncVectorEnv(
        [lambda: Said(size=vector_size, said=False, **{**kwargs, "method": False})] * num_envs,
        autoreset_mode=AutoresetMode.NEXT_STEP,
    )
    envs.metadata = {**envs.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}
    return envs


def single(vector_size=2, said=False, **kwargs):
    return Said(said=said, **kwargs)


gymnasium.register("Said-v0", entry_point=Said)
gymnasium.register("SaidTogether-v0", entry_point=single, vector_entry_point=vector_of)


def masks_of(steps=3, backend="sync", **kwargs):
    """The masks of the first of two environments after each step."""
    config = EnvConfig(id="Said-v0", backend=backend, num_envs=2, kwargs=kwargs)
    check_environment(config)
    with closing(Environments(config, seed=0)) as environments:
        transitions = [environments.step(torch.tensor([[0, 1], [2, 1]])) for _ in range(steps)]
    return [leaves_of(transition.next_observations)[MASK][0].int().tolist() for transition in transitions]


# Forms


@pytest.mark.parametrize(
    ("mask", "space"),
    [
        ((np.array([1, 0, 1]), np.array([0, 1])), TWO),
        ([np.array([1, 0, 1], np.int8), np.array([False, True])], TWO),
        (([1, 0, 1], [0, 1]), TWO),
        (np.array([1, 0, 1, 0, 1]), TWO),
        ([True, False, True, False, True], TWO),
        ((1, 0, 1, 0, 1), TWO),
        ((1, 0, 1, 0, 1), spaces.Discrete(5)),
    ],
)
def test_a_mask_has_one_of_several_forms(mask, space):
    array = checked(mask, space)
    assert array.tolist() == [1, 0, 1, 0, 1]
    assert array.dtype == np.int8


def test_nested_tuples_are_those_of_dimensions_in_rows():
    ones = ((np.array([1, 0]), np.array([1])), (np.array([1]), np.array([0, 1, 1])))
    assert SQUARE.contains(SQUARE.sample(mask=tuple(tuple(part.astype(np.int8) for part in row) for row in ones)))
    assert checked(ones, SQUARE).tolist() == [1, 0, 1, 1, 0, 1, 1]


def test_an_array_goes_through_without_a_copy():
    mask = np.ones(5, np.int8)
    assert checked(mask, TWO) is mask


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ((np.ones(2), np.ones(3)), r"parts of the shapes \[\(2,\), \(3,\)\], but the dimensions .* \[\(3,\), \(2,\)\]"),
        ((np.ones(3),), "parts of the shapes"),
        ((np.ones(3), None), "parts of the shapes"),
        ([[1, 1, 1], [1, 1]], "not an array of numbers or bools, nor a tuple"),
        (np.ones((3, 2)), "masks over combinations"),
        ([[1, 1], [1, 1], [1, 1]], "masks over combinations"),
        (None, "the mask action_mask is None"),
        ("abc", "the mask action_mask is 'abc'"),
        ({"a": 1}, "the mask action_mask is {'a': 1}"),
        ([256] * 5, "the mask action_mask holds 256: a valid choice is 1, any other 0"),
        (np.array([0, 1, 7, 1, 1], np.int8), "holds 7"),
        ([1, 1, -1, 1, 1], "holds -1"),
        (np.array([0, -np.inf, 0, 0, 0]), "holds -inf"),
        ([1, 0.5, 0, 1, 1], "holds 0.5"),
    ],
)
def test_any_other_is_refused_in_one_line(mask, words):
    with pytest.raises(UserError, match=words) as refused:
        checked(mask, TWO)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("method", [False, True])
def test_the_form_of_gymnasium_is_stepped(method, backend):
    assert masks_of(method=method, backend=backend) == [[1, 0, 1, 0, 1]] * 3


# When none is said


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("last", ["none", "None"])
def test_an_end_may_leave_the_mask_out(last, backend):
    assert masks_of(last=last, backend=backend) == [[1, 0, 1, 0, 1]] * 2 + [[1, 1, 1, 1, 1]]


def test_an_evaluation_may_end_so_too():
    env = make_env(EnvConfig(id="Said-v0", kwargs={"last": "none"}))
    env.reset(seed=0)
    *_, last = [env.step((0, 1)) for _ in range(3)]
    assert last[3]
    assert last[0][MASK].tolist() == [1, 1, 1, 1, 1]
    assert MASK not in last[4]  # the info is the environment's


@pytest.mark.parametrize(
    ("later", "error", "words"),
    [
        ("none", RuntimeError, "gave no action_mask in its info"),
        ("None", UserError, "the mask action_mask is None"),
        ("bad", UserError, "the mask action_mask is 'abc'"),
    ],
)
def test_an_episode_that_goes_on_must_say_it(later, error, words):
    with pytest.raises(error, match=words):
        masks_of(later=later)


@pytest.mark.parametrize("kwargs", [{}, {"later": "none"}], ids=["at once", "at the end"])
def test_one_that_no_reset_said_would_be_heeded_by_nobody(kwargs):
    with pytest.raises(RuntimeError, match="a step gave action_mask in its info, and the first reset none"):
        masks_of(first="none", **kwargs)


def test_where_actions_cannot_be_masked_an_info_of_that_name_is_any_other(monkeypatch):
    monkeypatch.setattr(Said, "action_space", spaces.Box(-1, 1, (1,)))
    with closing(make_env(EnvConfig(id="Said-v0", kwargs={"first": "none"}))) as env:
        env.reset(seed=0)
        assert MASK in env.step(np.zeros(1, np.float32))[-1]


# Vector entry points


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (
            {"method": True},
            "the single environment of SaidTogether-v0 says action_mask, and its vector entry point does",
        ),
        ({"said": True}, "the single environment of SaidTogether-v0 says action_mask, and its vector entry point does"),
        ({"vector_size": 3}, r"the observation space of SaidTogether-v0 is Box.*\(3,\).*in its vector .*\(2,\)"),
    ],
)
def test_a_vector_entry_point_that_differs_from_the_single_environment_is_refused(kwargs, words):
    with pytest.raises(UserError, match=words) as refused:
        check_environment(EnvConfig(id="SaidTogether-v0", backend="vector", kwargs=kwargs))
    assert str(refused.value).startswith("env.backend=vector: ")


def test_one_that_does_not_is_not():
    config = EnvConfig(id="SaidTogether-v0", backend="vector", num_envs=2)
    assert not check_environment(config).masked
