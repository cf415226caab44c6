"""What is said of environments without spaces, or whose reset is not one: a line each, whatever the actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tiny_runs import refusal

from trpo.commands.train import train
from trpo.config import EnvConfig, UserError
from trpo.sampling.making import check_environment

FORM = "it is called as reset(seed=…, options=…) and returns (observation, info)"


class Sound(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, actions="discrete"):
        self.action_space = spaces.Discrete(2) if actions == "discrete" else spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}


class OldReset(Sound):
    def reset(self):
        return np.zeros(2, np.float32), {}


class NoInfo(Sound):
    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32)


class Raising(Sound):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError("no display\nand more")


class NoActions(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,))


class NoObservations(Sound):
    observation_space = None


class PlainDict(Sound):
    observation_space = {"a": spaces.Discrete(2)}  # noqa: RUF012  the mistake


class PlainTuple(Sound):
    observation_space = (spaces.Discrete(2),)


class Shape(Sound):
    observation_space = np.zeros(2)


class Losing(gymnasium.Wrapper):
    """Takes the space away."""

    def __init__(self, env):
        super().__init__(env)
        self.observation_space = {"a": env.observation_space}


for kind in (OldReset, NoInfo, Raising, NoActions, NoObservations, PlainDict, PlainTuple, Shape):
    gymnasium.register(f"Faulty{kind.__name__}-v0", entry_point=kind, max_episode_steps=9)
gymnasium.register("FaultyNothing-v0", entry_point=Sound, max_episode_steps=9)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("FaultyOldReset-v0", ["TypeError: ", "unexpected keyword argument 'seed'", FORM]),
        ("FaultyNoInfo-v0", ["reset returned ndarray, and not (observation, info)"]),
        ("FaultyRaising-v0", ["its reset fails: RuntimeError: no display"]),
        ("FaultyNoActions-v0", ["its action_space is missing or None", "self.action_space"]),
        ("FaultyNoObservations-v0", ["its observation_space is missing or None", "self.observation_space"]),
        ("FaultyPlainDict-v0", ["its observation_space is a plain dict", "gymnasium.spaces.Dict("]),
        ("FaultyPlainTuple-v0", ["its observation_space is a plain tuple", "gymnasium.spaces.Tuple("]),
        ("FaultyShape-v0", ["its observation_space is numpy.ndarray, which is no gymnasium.spaces.Space"]),
    ],
)
def test_a_fault_is_one_line_that_names_the_environment(id, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(train, f"env.id={id}")
    assert f"env.id={id}: " in line
    assert all(words in line for words in said)
    assert "no display" not in line or "reset(seed=" not in line  # a fault of its own is no fault of form


@pytest.mark.parametrize("id", ["FaultyNoObservations-v0", "FaultyPlainDict-v0"])
def test_continuous_actions_do_not_hide_a_space_that_is_none(id):
    with pytest.raises(UserError, match=f"env.id={id}: its observation_space is "):
        check_environment(EnvConfig(id=id, kwargs={"actions": "continuous"}))


def test_a_wrapper_that_takes_a_space_away_is_seen(monkeypatch):
    import probes

    monkeypatch.setattr(probes, "Losing", Losing, raising=False)
    with pytest.raises(UserError, match="its observation_space is a plain dict"):
        check_environment(EnvConfig(id="FaultyNothing-v0", wrappers=("probes:Losing",)))


def test_nothing_is_left_open(monkeypatch):
    closed = []
    monkeypatch.setattr(gymnasium.Env, "close", lambda env: closed.append(type(env)))
    with pytest.raises(UserError):
        check_environment(EnvConfig(id="FaultyRaising-v0"))
    assert closed == [Raising, Raising]  # the one that was tried, and the one that was asked for
    with pytest.raises(UserError):
        check_environment(EnvConfig(id="FaultyPlainDict-v0"))
    assert closed[2:] == [PlainDict]
