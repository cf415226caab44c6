"""`env.wrappers`: by name, in order, around every single environment, and every mistake in them is one line."""

import dataclasses
import sys
from contextlib import closing

import gymnasium
import probes
import pytest
import torch
import yaml
from tiny_runs import fingerprints, refusal, summary, train_tiny

from trpo.commands.train import train
from trpo.config import EnvConfig, UserError
from trpo.sampling.environments import Environments
from trpo.sampling.making import check_environment, make_env
from trpo.sampling.wrapping import parsed

SCALED, RAISED = {"wrapper": "probes:Scaled", "factor": 3}, "probes:Raised"
STACK = "{wrapper: gymnasium.wrappers:FrameStackObservation, stack_size: 4}"  # as it is typed


def config_of(*wrappers, id="Counting-v0", **settings):
    return EnvConfig(id=id, num_envs=2, wrappers=wrappers, **settings)


def said(*wrappers, id="Counting-v0"):
    with pytest.raises(UserError) as refused:
        make_env(config_of(*wrappers, id=id))
    assert "\n" not in str(refused.value)
    return str(refused.value)


# What they do


@pytest.mark.parametrize("backend", ["sync", "async"])
@pytest.mark.parametrize(
    ("wrappers", "reward"), [((SCALED, RAISED), 1.25 * 3 + 1), ((RAISED, SCALED), (1.25 + 1) * 3), ((), 1.25)]
)
def test_the_first_is_the_innermost(wrappers, reward, backend):
    with closing(Environments(config_of(*wrappers, backend=backend), seed=0)) as environments:
        assert environments.step(torch.full((2, 1), 0.25)).rewards.tolist() == [reward] * 2


@pytest.mark.parametrize(
    "entry",
    [
        {"wrapper": "probes:Scaled", "factor": 3},
        {"wrapper": "probes.Scaled", "factor": 3},
        {"probes:Scaled": {"factor": 3}},
        {"probes.Scaled": {"factor": 3}},
    ],
)
def test_an_entry_has_one_of_several_forms(entry):
    assert make_env(config_of(entry)).get_wrapper_attr("factor") == 3


@pytest.mark.parametrize(
    "entry", ["probes:Scaled", "probes.Scaled", {"probes.Scaled": None}, {"wrapper": "probes:Scaled"}]
)
def test_arguments_may_be_left_out(entry):
    assert make_env(config_of(entry)).get_wrapper_attr("factor") == 2


def test_lists_become_tuples():
    """Gymnasium's `ResizeObservation` insists."""
    assert parsed({"wrapper": "probes:Sized", "shape": [3, [2]]}) == ("probes:Sized", {"shape": (3, (2,))})


def test_spaces_are_those_of_the_outermost():
    stacked = config_of({"wrapper": "gymnasium.wrappers:FrameStackObservation", "stack_size": 4})
    assert check_environment(stacked).observations.shape == (4, 6)
    discretised = config_of({"wrapper": "gymnasium.wrappers:DiscretizeAction", "bins": 5})
    assert check_environment(discretised).distribution.sizes == (5,)


def test_evaluation_has_the_same(tmp_path):
    """An episode of Constant is worth 1."""
    run = tmp_path / "run"
    assert train_tiny(run, "env.id=Constant-v0", "env.wrappers=[{wrapper: probes:Scaled, factor: 7}]") == 0
    assert summary(run)["final_evaluation"]["return_mean"] == 7.0


# Through the command line and back


@pytest.mark.slow
def test_a_run_keeps_them_when_it_goes_on(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    typed = f"env.wrappers=[gymnasium.wrappers.TimeAwareObservation,{STACK}]"
    assert train_tiny(whole, typed, "run.total_steps=128") == 0
    assert train_tiny(parts, typed) == 0
    stored = yaml.safe_load((parts / "config.yaml").read_text())["env"]["wrappers"]
    assert stored == [
        "gymnasium.wrappers.TimeAwareObservation",
        {"wrapper": "gymnasium.wrappers:FrameStackObservation", "stack_size": 4},
    ]
    other = typed.replace("4", "5")
    assert "env.wrappers decides the numbers" in refusal(train, f"run.resume={parts}", "run.total_steps=128", other)
    assert train([f"run.resume={parts}", "run.total_steps=128", typed]) == 0
    assert summary(parts)["exact"] is True
    assert fingerprints(parts) == fingerprints(whole)


def test_a_sweep_over_them_has_a_directory_for_each(tmp_path):
    sweep = tmp_path / "sweep"
    swept = [f"env.wrappers=[{STACK}],[probes.Scaled]", f"hydra.sweep.dir={sweep}", "run.evaluation_episodes=0"]
    assert train_tiny(tmp_path / "unused", *swept, flags=["-m"]) == 0
    assert len(list(sweep.glob("*/summary.json"))) == 2


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "my_wrappers.py").write_text("from probes import Scaled\nclass Mine(Scaled):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert type(make_env(config_of("my_wrappers:Mine")).env).__name__ == "Mine"
    monkeypatch.delitem(sys.modules, "my_wrappers")


# Mistakes


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("no_such_module:Scaled", "there is no module no_such_module, neither installed nor in the working directory"),
        ("probes.deeper:Scaled", "there is no module probes.deeper"),
        ("probes:NoSuch", "probes has no NoSuch"),
        ("probes:Counting", "Counting is no gymnasium.Wrapper"),
        ("probes:next_step", "next_step is no gymnasium.Wrapper"),
        ({"wrapper": "probes:Scaled", "fctor": 3}, "fctor"),
        ("Scaled", "module:Class"),
        (":Scaled", "module:Class"),
        (7, "module:Class"),
        ({"wrapper": 7}, "module:Class"),
        ({"probes:Scaled": 7}, "module:Class"),
        ({"probes:Scaled": {}, "probes:Raised": {}}, "module:Class"),
        ({}, "module:Class"),
    ],
)
def test_a_mistake_is_named_with_its_entry(entry, words):
    line = said(RAISED, entry)
    assert line.startswith(f"env.wrappers[1], {entry}: ")
    assert words in line


def test_what_a_wrapper_itself_refuses_is_one_line():
    assert "env.wrappers[0]" in said("gymnasium.wrappers:AddRenderObservation")


def test_opencv_is_an_extra_of_this_project(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert said("gymnasium.wrappers:AtariPreprocessing").endswith("cv2 is not installed: pip install 'trpo[atari]'")


def test_what_a_wrapper_of_ones_own_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "needy_wrappers.py").write_text("import no_such_physics\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert said("needy_wrappers:Thing").endswith("it needs the module no_such_physics, which is not installed")


class Closing(gymnasium.Wrapper):
    """Counts how often it was closed."""

    closed = 0

    def close(self):
        Closing.closed += 1
        super().close()


def test_nothing_is_left_open(monkeypatch):
    monkeypatch.setattr(probes, "Closing", Closing, raising=False)
    said("probes:Closing", "probes:NoSuch")
    assert Closing.closed == 1


@pytest.mark.parametrize("backend", ["vector", "envpool"])
@pytest.mark.parametrize("id", ["CartPole-v1", "Catch-v0"])
def test_environments_that_are_stepped_all_at_once_cannot_be_wrapped(id, backend):
    config = config_of(SCALED, id=id, backend=backend)
    with pytest.raises(UserError, match=rf"^env\.wrappers needs env\.backend=sync or async: with {backend} "):
        check_environment(config)
    with pytest.raises(UserError, match=r"^env\.wrappers"):
        make_env(dataclasses.replace(config))


@pytest.mark.parametrize(
    "arguments",
    [
        ["env.wrappers=probes:Scaled"],
        ["env.wrappers=[probes:NoSuch]"],
        ["env.wrappers=[probes:Scaled]", "env.backend=vector"],
        ["env.wrappers=[{wrapper: probes:Scaled, fctor: 3}]"],
    ],
)
def test_the_command_line_says_it_and_makes_nothing(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "env.wrappers" in refusal(train, "task=cartpole", *arguments)
