"""What environments tell at the end of an episode, on every backend, in training and in evaluation."""

import contextlib
import json
import logging

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from tiny_runs import TINY, rows

from trpo.batch import info_figures
from trpo.commands.evaluate import evaluate
from trpo.commands.train import train
from trpo.config import EnvConfig
from trpo.sampling.environments import Environments
from trpo.sampling.infos import Infos, told, told_by_all


class Telling(gymnasium.Env):
    """Ends after three steps; succeeds if the last action is positive, and tells how large the last one was."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, word="is_success", ending="terminated"):
        self.word, self.ending = word, ending

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {self.word: False}

    def step(self, action):
        self.steps += 1
        over = self.steps == 3
        info = {self.word: bool(action[0] > 0), "size": np.float32(action[0]), "name": "text", "pair": [1, 2]}
        ends = (over, False) if self.ending == "terminated" else (False, over)
        return np.zeros(1, np.float32), 0.0, *ends, info


class Doubtful(Telling):
    """Tells no size that is finite but in every other episode."""

    episodes = 0

    def __init__(self, size):
        super().__init__()
        self.size = float(size)

    def step(self, action):
        *moved, info = super().step(action)
        self.episodes += self.steps == 3
        return *moved, info | {"size": self.size if self.episodes % 2 else 0.5, "never": self.size}


gymnasium.register("Telling-v0", entry_point=Telling)
gymnasium.register("Doubtful-v0", entry_point=Doubtful)


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize("ending", ["terminated", "truncated"])
@pytest.mark.parametrize("word", ["is_success", "success"])
def test_the_last_info_of_an_episode_and_no_other_is_told(word, ending, backend):
    config = EnvConfig(id="Telling-v0", num_envs=2, backend=backend, kwargs={"word": word, "ending": ending})
    with contextlib.closing(Environments(config, seed=0, infos=Infos(["size"]))) as environments:
        column = environments.infos.keys.index(word)
        for actions in ([0.5, -0.5], [0.5, -0.5]):
            assert np.isnan(environments.step(torch.tensor(actions)[:, None]).infos).all()
        infos = environments.step(torch.tensor([[0.25], [-0.75]])).infos
        assert infos[:, column].tolist() == [1.0, 0.0]
        assert infos[:, environments.infos.keys.index("size")].tolist() == [0.25, -0.75]


def test_a_run_and_its_evaluation_have_the_rate_and_what_was_asked_for(tmp_path, capsys):
    settings = ["env.id=Telling-v0", *TINY, "record.info_keys=[size]", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train(settings) == 0
    last = rows(tmp_path / "run")[-1]
    assert 0 < last["rollout/success_rate"] < 1
    assert -1 <= last["rollout/info_size"] <= 1
    assert last["evaluation/success_rate"] in (0.0, 1.0)  # the mode does the same in each
    assert (last["evaluation/info_size"] > 0) == (last["evaluation/success_rate"] == 1.0)
    capsys.readouterr()
    assert evaluate([str(tmp_path / "run"), "--episodes", "4"]) == 0
    assert f"success rate {last['evaluation/success_rate']:.4g}" in capsys.readouterr().out


def test_a_figure_that_is_never_told_is_named_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "trpo"):
        assert train(["env.id=Telling-v0", *TINY, "record.info_keys=[size,name]", f"hydra.run.dir={tmp_path}"]) == 0
    (line,) = [record.getMessage() for record in caplog.records if "info_keys" in record.getMessage()]
    assert line.endswith("has no number that is called name")


def test_numbers_and_truths_count_whatever_holds_them_and_nothing_else_does():
    info = {"a": True, "b": np.float32(0.5), "c": np.array([2]), "d": "text", "e": [1, 2], "f": None, "g": {"h": 1}}
    assert told(info, [*info, "absent"]) == {"a": 1.0, "b": 0.5, "c": 2.0}


def test_what_is_not_finite_is_not_told():
    info = {"a": np.nan, "b": -np.inf, "c": np.array([np.inf], np.float32), "d": np.float64(2.0)}
    assert told(info, info) == {"d": 2.0}
    info = {"a": np.array([np.nan, 1.0]), "b": np.array([np.inf, -np.inf]), "_b": np.array([True, True])}
    np.testing.assert_equal(told_by_all(info, ("a", "b"), 2), [[np.nan, np.nan], [1.0, np.nan]])


@pytest.mark.parametrize("size", ["nan", "inf"])
def test_a_figure_that_is_not_finite_ends_no_run_and_is_in_no_mean(size, tmp_path, capsys):
    kwargs = (f"+env.kwargs.size='{size}'", "record.info_keys=[size,never]", "run.evaluation_episodes=20")
    assert train(["env.id=Doubtful-v0", *TINY, *kwargs, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    last = rows(tmp_path / "run")[-1]
    assert last["rollout/info_size"] == last["evaluation/info_size"] == 0.5
    assert not [tag for tag in last if tag.endswith("info_never")]
    capsys.readouterr()
    assert evaluate([str(tmp_path / "run"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert figures["info_size"] == 0.5
    assert "info_never" not in figures


def test_gymnasium_marks_who_tells_and_envpool_does_not():
    keys = ("a", "b", "absent")
    info = {"a": np.array([True, False]), "_a": np.array([True, False]), "b": np.array([3.0, 4.0])}
    expected = [[1.0, 3.0, np.nan], [np.nan, 4.0, np.nan]]
    np.testing.assert_equal(told_by_all(info, keys, 2), expected)
    np.testing.assert_equal(told_by_all({"a": np.zeros((2, 3)), "b": ["x", "y"]}, keys, 2), np.full((2, 3), np.nan))


def test_rates_are_means_over_the_episodes_that_tell_them():
    assert info_figures({"is_success": (3.0, 4), "success": (0.0, 4), "x": (5.0, 2), "y": (0.0, 0)}) == {
        "success_rate": 0.75,
        "info_x": 2.5,
    }
    assert info_figures({"is_success": (0.0, 0), "success": (1.0, 2)}) == {"success_rate": 0.5}
