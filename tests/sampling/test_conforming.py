"""Environments that give other types than they promise: one meaning on every backend, or an error that names it."""

from contextlib import closing

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from trpo.config import EnvConfig, UserError
from trpo.models.observations import leaves_of
from trpo.sampling.conforming import Conforming
from trpo.sampling.environments import Environments
from trpo.sampling.making import make_env

BACKENDS = ["sync", "async"]
BOXES = {
    "bytes": spaces.Box(0, 255, (3,), np.uint8),
    "whole": spaces.Box(-9, 9, (3,), np.int64),
    "narrow": spaces.Box(-9, 9, (3,), np.int8),
    "bits": spaces.MultiBinary(3),
    "floats": spaces.Box(-9, 9, (3,), np.float32),
    "parts": spaces.Dict({"a": spaces.Dict({"b": spaces.Box(0, 255, (3,), np.uint8)}), "c": spaces.Discrete(3)}),
    "two": spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)]),
    "pair": spaces.Tuple([spaces.Box(-9, 9, (1,)), spaces.MultiDiscrete([2, 3, 4])]),
    "one": spaces.Discrete(3),
}
GIVEN = {
    "list": [1, 0, 1],
    "int64": np.array([1, 0, 1]),
    "float64": np.array([1.0, 0.0, 1.0]),
    "halves": np.array([1.0, 0.5, 1.0]),
    "nan": np.array([1.0, np.nan, 1.0]),
    "large": np.array([1, 300, 1]),
    "float": 2.0,
    "half": 1.5,
    "parts": {"a": {"b": np.array([1, 0, 1])}, "c": 2},
    "bad parts": {"a": {"b": np.array([1, -1, 1])}, "c": 2},
    "two": np.array([2, 1]),
    "pair": (np.zeros(1, np.float32), np.array([1.0, 0.0, 1.0])),
    "bad pair": (np.zeros(1, np.float32), np.array([1.0, 0.5, 1.0])),
    "four": np.zeros(4, np.float32),
    "one by three": np.zeros((1, 3), np.float32),
    "nothing": None,
    "words": ["a", "b", "c"],
    "uneven": [[0.0], [0.0, 1.0], 2.0],
    "no b": {"a": {}, "c": 2},
    "no c": {"a": {"b": np.array([1, 0, 1])}},
    "half a pair": (np.zeros(1, np.float32),),
}
RIGHT = {"floats": "float64", "one": "float", "parts": "parts", "pair": "pair"}  # what is right for a space
FORMS = {"plain": lambda value: value, "array": lambda value: np.array([value]), "scalar": np.array}


class Typed(gymnasium.Env):
    """Gives the same observation ever, a reward of 0.25, and ends after three steps.

    Args:
        space: its observations are said to be of.
        given: what they are.
        reward: the form in which it is given.
        ends: the form of terminated and truncated.
        bad: what one of them is instead, by name; or with what it `leaves` the process.
        later: what the observations of steps are, if another.
        whole: a list of what steps return instead.
    """

    action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, space="floats", given="float64", reward="plain", ends="plain", bad=None, later=None, whole=()):
        self.observation_space, self.given = BOXES[space], GIVEN[given]
        self.later, self.whole = later, whole
        self.reward, self.ends, self.bad = FORMS[reward], FORMS[ends], bad or {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.given, {}

    def step(self, action):
        self.steps += 1
        if "leaves" in self.bad:
            raise SystemExit(self.bad["leaves"])
        if self.whole:
            return self.whole[0]
        said = {
            "reward": self.reward(0.25),
            "terminated": self.ends(self.steps >= 3),
            "truncated": self.ends(False),
            **self.bad,
        }
        return (GIVEN[self.later] if self.later else self.given), *said.values(), {}


gymnasium.register("Typed-v0", entry_point=Typed)


def config_of(backend="sync", **kwargs):
    return EnvConfig(id="Typed-v0", backend=backend, num_envs=2, kwargs=kwargs)


def stepped(backend, **kwargs):
    """Three transitions."""
    with closing(Environments(config_of(backend, **kwargs), seed=0)) as environments:
        return [environments.step(torch.zeros(2, 1)) for _ in range(3)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("given", ["list", "int64", "float64"])
@pytest.mark.parametrize("space", ["bytes", "whole", "narrow", "bits", "floats"])
def test_whole_numbers_may_come_in_another_type(space, given, backend):
    expected = torch.tensor([[1.0, 0.0, 1.0]] * 2)
    assert torch.equal(stepped(backend, space=space, given=given)[0].next_observations, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_so_may_those_of_parts(backend):
    parts = leaves_of(stepped(backend, space="parts", given="parts")[0].next_observations)
    assert {name: part[0].tolist() for name, part in parts.items()} == {"a.b": [1, 0, 1], "c": [0, 0, 1]}
    parts = leaves_of(stepped(backend, space="pair", given="pair")[0].next_observations)
    assert parts["1"][0].tolist() == [0, 1, 1, 0, 0, 0, 1, 0, 0]
    parts = leaves_of(stepped(backend, space="two", given="two")[0].next_observations)
    assert {name: part[0].tolist() for name, part in parts.items()} == {"0": [0, 0, 1], "1": [0, 1]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_and_a_single_one(backend):
    assert stepped(backend, space="one", given="float")[0].next_observations.tolist() == [[0, 0, 1]] * 2


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("space", "given", "said"),
    [
        ("whole", "halves", "the observation is float64 with 0.5 in it, which int64"),
        ("whole", "nan", "the observation is float64 with nan in it, which int64"),
        ("narrow", "large", "the observation is int64 with 300 in it, which int8"),
        ("bytes", "large", "the observation is int64 with 300 in it, which uint8"),
        ("one", "half", "the observation is float64 with 1.5 in it, which int64"),
        ("parts", "bad parts", "the a.b is int64 with -1 in it, which uint8"),
        ("pair", "bad pair", "the 1 is float64 with 0.5 in it, which int64"),
    ],
)
def test_a_number_that_would_change_is_an_error_that_names_part_and_types(space, given, said, backend):
    with pytest.raises(ValueError, match=said):
        stepped(backend, space=space, given=given)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("space", "given", "said"),
    [
        ("floats", "four", r"the observation has the shape \(4,\), and \(3,\) in its space"),
        ("floats", "one by three", r"the observation has the shape \(1, 3\), and \(3,\) in its space"),
        ("one", "list", r"the observation has the shape \(3,\), and \(\) in its space"),
        ("floats", "nothing", "the observation is NoneType of object, and not numbers"),
        ("floats", "words", "the observation is list of <U1, and not numbers"),
        ("floats", "uneven", "the observation has rows of several lengths"),
        ("parts", "nothing", "the observation is NoneType, and not a mapping of a, c"),
        ("parts", "no c", "the observation lacks c: its space has a, c"),
        ("parts", "no b", "the a lacks b: its space has b"),
        ("pair", "half a pair", "the observation lacks 1: its space has 0, 1"),
    ],
)
def test_another_shape_or_a_part_too_few_is_an_error_that_names_it(space, given, said, backend):
    with pytest.raises(ValueError, match=said):
        stepped(backend, space=space, given=RIGHT[space], later=given)


@pytest.mark.parametrize(
    ("whole", "said"),
    [
        ((0, 0.0, False, {}), r"step returned tuple of 4, and not \(observation, reward"),
        (None, r"step returned NoneType, and not \(observation"),
        (([0.0] * 3, 0.0, False, False, None), "step returned an info that is NoneType, and not a dict"),
    ],
)
def test_so_is_a_step_of_other_things(whole, said):
    with pytest.raises(ValueError, match=said):
        stepped("sync", whole=[whole])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("code", [None, 0])
def test_an_environment_that_leaves_the_process_has_failed(code, backend):
    """As games do whose window is closed; the exit code would be that of a finished run."""
    with pytest.raises(RuntimeError, match=rf"the environment called sys.exit\({'' if code is None else code}\)"):
        stepped(backend, bad={"leaves": code})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
def test_rewards_and_ends_may_be_arrays_of_one(form, backend):
    transitions = stepped(backend, reward=form, ends=form)
    assert [transition.rewards.tolist() for transition in transitions] == [[0.25] * 2] * 3
    assert [transition.terminated.tolist() for transition in transitions] == [[False] * 2, [False] * 2, [True] * 2]
    assert not any(transition.truncated.any() for transition in transitions)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"reward": None}, "reward is None, and not a single number"),
        ({"reward": "0"}, "reward is '0', and not a single number"),
        ({"reward": np.zeros(2)}, r"reward is an array of shape \(2,\), and not a single number"),
        ({"terminated": np.zeros(2, bool)}, r"terminated is an array of shape \(2,\), and not a single bool"),
        ({"truncated": "no"}, "truncated is 'no', and not a single bool"),
    ],
)
def test_what_is_none_is_named(bad, said):
    with pytest.raises(ValueError, match=said):
        stepped("sync", bad=bad)


def test_an_end_of_none_is_none():
    assert not stepped("sync", bad={"truncated": None})[0].truncated.any()


@pytest.mark.parametrize("space", ["floats", "whole", "parts", "pair", "one"])
def test_what_is_right_passes_as_it_is(space):
    """The very objects: nothing is copied, and no bit can change."""
    env = make_env(config_of(space=space))
    given = BOXES[space].sample()
    env.unwrapped.given = given
    assert env.reset()[0] is given
    env.unwrapped.reward = lambda _: reward
    for reward in (0.25, 1, np.float32(0.1), np.float64(0.1), np.int64(1)):
        observation, got, *ends, _ = env.step(env.action_space.sample())
        assert observation is given
        assert got is reward
        assert all(type(end) is bool for end in ends)


def test_floats_keep_the_type_they_have():
    observation = Conforming(Typed("floats", "float64")).reset()[0]
    assert observation.dtype == np.float64


@pytest.mark.parametrize("given", ["halves", "nan"])
def test_an_evaluation_would_not_see_other_numbers(given):
    with pytest.raises((ValueError, UserError), match="which int64"):
        make_env(config_of(space="whole", given=given)).reset(seed=0)
