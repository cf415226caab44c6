"""Numbers without a fraction are integers wherever one is asked for, and nothing else is."""

import pytest
import yaml
from tiny_runs import compose, fingerprints, refusal, summary, train_tiny

from trpo.commands.compose import compose_jobs, load_config, register_schema, to_config
from trpo.commands.train import train
from trpo.config import CriticConfig, PolicyConfig, RunConfig, UserError
from trpo.keys import fields_by_key, flat

INTEGER_KEYS = [name for name, field in fields_by_key() if field.type == "int"]
LIST_KEYS = ["policy.hidden_sizes", "critic.hidden_sizes"]
SHORT = ("run.total_steps=6.4e1", "run.evaluation_episodes=0", "seed=3e0")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_task(directory, text):
    (directory / "mine" / "task").mkdir(parents=True)
    (directory / "mine" / "task" / "own.yaml").write_text(f"# @package _global_\n{text}")


def section_of(key, value):
    """A task file that sets one key."""
    *sections, name = key.split(".")
    return yaml.safe_dump({sections[0]: {name: value}} if sections else {name: value})


@pytest.mark.parametrize("key", INTEGER_KEYS)
def test_every_integer_may_be_typed_as_a_whole_float(key, elsewhere):
    assert flat(compose("task=cartpole", f"{key}=1e2"))[key] == 100
    assert type(flat(compose("task=cartpole", f"{key}=7.0"))[key]) is int
    write_task(elsewhere, section_of(key, 300.0))
    (job,) = compose_jobs(["task=own"], "mine", multirun=False)
    assert repr(flat(to_config(job))[key]) == "300"


@pytest.mark.parametrize("key", LIST_KEYS)
def test_lists_of_integers_too(key, elsewhere):
    assert flat(compose("task=cartpole", f"{key}=[64,1e2]"))[key] == "(64, 100)"
    write_task(elsewhere, section_of(key, [8.0, 9]))
    (job,) = compose_jobs(["task=own"], "mine", multirun=False)
    assert flat(to_config(job))[key] == "(8, 9)"


def test_in_python_too():
    assert repr(RunConfig(total_steps=1e6).total_steps) == "1000000"
    assert repr(CriticConfig(hidden_sizes=[1e2, 3]).hidden_sizes) == "(100, 3)"


def test_an_interpolation_of_a_whole_float_is_an_integer():
    register_schema()
    (job,) = compose_jobs(["task=cartpole", "seed=4e0", "env.num_envs=${seed}"], None, multirun=False)
    assert repr(to_config(job).env.num_envs) == "4"
    assert job.hydra.run.dir.split("/")[-1].startswith("seed4_")


# Fractions, what is no number, and what no integer can hold.
NOT_WHOLE = ["1.5", "1e400", "-1e400", "nan", "inf", "1e-1", "true", "false", "null", "many", "'1e3'"]


@pytest.mark.parametrize("value", NOT_WHOLE)
@pytest.mark.parametrize("key", ["seed", "run.total_steps"])
def test_anything_else_is_refused_with_the_key_and_what_it_takes(key, value):
    line = refusal(train, "task=cartpole", f"{key}={value}")
    assert line.startswith(f"trpo-train: {key} must be a whole number at least {0 if key == 'seed' else 1}, got ")


@pytest.mark.parametrize("value", ["[64,1.5]", "[1e400]", "[nan]", "[true]", "[[1]]", "[a]", "64", "wide", "null"])
@pytest.mark.parametrize("key", LIST_KEYS)
def test_other_lists_are_refused_with_the_key_and_what_it_takes(key, value):
    line = refusal(train, "task=cartpole", f"{key}={value}")
    assert line.startswith(f"trpo-train: {key} must be a list of whole numbers at least 1, got ")


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), True, None, "1"])
def test_in_python_anything_else_is_refused_as_well(value):
    with pytest.raises(UserError, match=r"^run.total_steps must be a whole number at least 1, got"):
        RunConfig(total_steps=value)
    with pytest.raises(UserError, match=r"^policy.hidden_sizes must be a list of whole numbers at least 1, got"):
        PolicyConfig(hidden_sizes=(64, value))


def test_whole_floats_out_of_range_are_out_of_range():
    assert "run.total_steps must be at least 1, got 0" in refusal(train, "task=cartpole", "run.total_steps=0e0")
    assert "must be at least 1, got (0,)" in refusal(train, "task=cartpole", "policy.hidden_sizes=[0.0]")


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath:UserWarning")
def test_a_task_file_with_a_mistake_is_named_with_the_key(elsewhere):
    write_task(elsewhere, "env: {id: CartPole-v1}\nrun: {total_steps: 1.5}\n")
    line = refusal(train, "--config-dir", "mine", "task=own")
    assert line == "trpo-train: in task/own: run.total_steps must be a whole number at least 1, got 1.5"


def test_a_recorded_configuration_holds_integers_and_the_overrides_are_as_typed(elsewhere):
    assert train_tiny("run", *SHORT, "policy.hidden_sizes=[8e0]") == 0
    recorded = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())
    assert repr((recorded["seed"], recorded["run"]["total_steps"])) == "(3, 64)"
    assert repr(recorded["policy"]["hidden_sizes"]) == "[8]"
    assert "seed=3e0" in yaml.safe_load((elsewhere / "run" / "overrides.yaml").read_text())


def test_a_run_goes_on_with_whole_floats_that_equal_what_it_has(elsewhere):
    assert train_tiny("run", *SHORT) == 0
    assert train(["run.resume=run", "seed=3.0", "policy.hidden_sizes=[8.0]", "run.total_steps=9.6e1"]) == 0
    assert summary(elsewhere / "run")["env_steps"] == 96
    assert repr(load_config(elsewhere / "run" / "config.yaml").run.total_steps) == "96"
    assert "it is 3, 4 was asked for" in refusal(train, "run.resume=run", "seed=4e0", "run.total_steps=128")
    assert "seed must be a whole number" in refusal(train, "run.resume=run", "seed=3.5", "run.total_steps=128")


def test_a_sweep_over_whole_floats_is_one_over_integers(elsewhere):
    train_tiny("alone", *SHORT)
    sweep = ["-m", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=${seed}"]
    assert train_tiny("unused", *SHORT, "seed=3e0,4e0", flags=sweep) == 0
    assert sorted(job.name for job in (elsewhere / "sweep").iterdir() if job.is_dir()) == ["3", "4"]
    assert fingerprints(elsewhere / "sweep" / "3") == fingerprints(elsewhere / "alone")
