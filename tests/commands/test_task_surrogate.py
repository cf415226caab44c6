"""What one task has for one surrogate: settings that come with two words and by neither alone."""

import pytest
from omegaconf import OmegaConf
from tiny_runs import compose, refusal

from trpo.commands.compose import CONFIGS, choices, compose_jobs
from trpo.commands.train import train


@pytest.mark.parametrize("name", choices("_task_surrogate"))
def test_they_come_with_both_words_and_before_what_is_typed(name):
    task, _, surrogate = name.rpartition("_")
    ((section, keys),) = OmegaConf.load(CONFIGS / "_task_surrogate" / f"{name}.yaml").items()
    ((key, value),) = keys.items()

    def read(*overrides):
        return getattr(getattr(compose(*overrides), section), key)

    default = read()
    assert read(f"task={task}", f"surrogate={surrogate}") == value != default
    assert read(f"surrogate={surrogate}", f"task={task}", f"{section}.{key}={default}") == default
    others = [[f"task={task}"], [f"surrogate={surrogate}"], [f"task={task}", f"trust_region.surrogate={surrogate}"]]
    others += [[f"task={task}", f"surrogate={one}"] for one in choices("surrogate") if one != surrogate]
    assert [read(*line) for line in others] == [default] * len(others)


def test_a_task_of_ones_own_may_have_them(tmp_path):
    files = {"task/mine": "env: {id: Pendulum-v1}", "_task_surrogate/mine_pathwise": "policy: {bounds: tanh}"}
    for name, text in files.items():
        file = tmp_path / f"{name}.yaml"
        file.parent.mkdir()
        file.write_text(f"# @package _global_\n{text}\n")
    lines = [["task=mine"], ["task=mine", "surrogate=score"], ["task=mine", "surrogate=pathwise"]]
    bounds = [compose_jobs(line, str(tmp_path), multirun=False)[0].policy.bounds for line in lines]
    assert bounds == ["clip", "clip", "tanh"]


def test_they_are_no_group_to_choose_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown key '_task_surrogate'" in refusal(train, "_task_surrogate=hopper_pathwise")
