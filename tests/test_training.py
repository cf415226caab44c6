"""Training from Python: the bits of the command, a callback, an environment that a function makes."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_runs import TINY, fingerprints, rows, summary, train_tiny

import trpo
from trpo.record.runs import read_run
from trpo.training import written

KEYS = {line.partition("=")[0]: json.loads(line.partition("=")[2]) for line in TINY}


def test_it_gives_the_bits_of_the_command(tmp_path):
    assert train_tiny(tmp_path / "typed", "trust_region.max_kl=0.02", "seed=3") == 0
    keys = {**KEYS, "trust_region.max_kl": 0.02, "hydra.run.dir": tmp_path / "called"}
    run = trpo.train(task="cartpole", seed=3, **keys)
    assert run.directory == tmp_path / "called"
    assert fingerprints(run.directory) == fingerprints(tmp_path / "typed")
    assert run.summary == summary(run.directory)
    state = np.zeros(4, dtype=np.float32)
    assert run.agent.act(state) == trpo.load(tmp_path / "typed").act(state)
    assert run.agent.env_steps == 96


def test_total_steps_is_short_for_one_key_and_only_for_that(tmp_path):
    keys = {**KEYS, "hydra.run.dir": tmp_path / "run"}
    del keys["run.total_steps"]
    assert trpo.train("CartPole-v1", total_steps=64, **keys).summary["env_steps"] == 64
    with pytest.raises(trpo.UserError, match="give one of them"):
        trpo.train("CartPole-v1", total_steps=64, **{"run.total_steps": 64})
    with pytest.raises(trpo.UserError, match=r"unknown key 'max_kl'; did you mean trust_region\.max_kl"):
        trpo.train("CartPole-v1", max_kl=0.1)


def test_a_callback_sees_each_iteration_and_acts_with_the_agent_without_moving_a_bit(tmp_path):
    assert train_tiny(tmp_path / "alone", "run.total_steps=128") == 0
    seen = []

    def callback(row, agent):
        agent.act(np.zeros(4, dtype=np.float32), stochastic=True)
        seen.append((row["fingerprint"], agent.env_steps))

    keys = {**KEYS, "run.total_steps": 128, "hydra.run.dir": tmp_path / "watched"}
    trpo.train(task="cartpole", callback=callback, **keys)
    assert seen == list(zip(fingerprints(tmp_path / "alone"), [64, 96, 128], strict=True))
    assert fingerprints(tmp_path / "watched") == fingerprints(tmp_path / "alone")


@pytest.mark.parametrize("answer", [False, 0, np.False_])
def test_a_callback_that_returns_false_ends_the_run_saved(answer, tmp_path):
    keys = {**KEYS, "run.total_steps": 960, "hydra.run.dir": tmp_path / "o'brien, josé"}
    run = trpo.train(task="cartpole", callback=lambda row, agent: answer if row["iteration"] == 2 else True, **keys)
    assert (run.summary["exit_reason"], run.summary["env_steps"]) == ("callback", 96)
    assert run.agent.env_steps == 96
    assert trpo.train(task="cartpole", **keys, **{"run.resume": "auto"}).summary["env_steps"] == 96  # it has ended
    ended = read_run(run.directory)
    assert (ended.status, ended.whole) == ("stopped by callback", False)  # nobody says that it learned enough
    del keys["hydra.run.dir"]
    longer = trpo.train(task="cartpole", **{**keys, "run.total_steps": 128, "run.resume": run.directory})
    assert longer.summary["env_steps"] == 128  # who names it wants more


def test_what_a_callback_raises_ends_the_run_saved(tmp_path):
    def callback(row, agent):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trpo.train(task="cartpole", callback=callback, **{**KEYS, "hydra.run.dir": tmp_path / "run"})
    assert trpo.load(tmp_path / "run").env_steps == 64


def test_an_environment_that_a_function_makes_is_that_of_its_id(tmp_path):
    def balancing(**arguments):
        return gymnasium.make("CartPole-v1", **arguments)

    by_id = trpo.train("CartPole-v1", **KEYS, **{"hydra.run.dir": tmp_path / "id"})
    registered = set(gymnasium.registry)
    for backend in ("sync", "async"):
        keys = {**KEYS, "env.backend": backend, "hydra.run.dir": tmp_path / backend}
        by_function = trpo.train(balancing, **keys)
        assert fingerprints(by_function.directory) == fingerprints(by_id.directory)
    assert set(gymnasium.registry) == registered
    assert trpo.load(by_function.directory).config.env.id == "function/balancing-v0"
    with pytest.raises(trpo.UserError, match="cannot be resumed"):
        trpo.train(balancing, **KEYS, **{"run.resume": str(tmp_path / "sync")})


def test_masks_are_looked_for_anew_where_another_function_has_the_name_of_the_last(tmp_path):
    """Overlooked masks end in an action that is not valid, and masks that are not there in an error as well."""

    def named_alike(id):
        def mine():
            return gymnasium.make(id)

        return mine

    for number, id in enumerate(["probes:Marked-v0", "CartPole-v1", "probes:Marked-v0"]):
        run = trpo.train(named_alike(id), **KEYS, **{"hydra.run.dir": tmp_path / str(number)})
        assert run.summary["exit_reason"] == "finished"


def test_mappings_and_lists_of_python_are_those_of_the_line(tmp_path):
    keys = {**KEYS, "env.kwargs": {"g": 3.0}, "policy.hidden_sizes": (4, 4), "hydra.run.dir": tmp_path / "run"}
    config = trpo.train("Pendulum-v1", **keys).agent.config
    assert (config.env.kwargs, config.policy.hidden_sizes) == ({"g": 3.0}, (4, 4))
    wrappers = [{"wrapper": "gymnasium.wrappers:FrameStackObservation", "stack_size": 2}]
    keys = {**KEYS, "env.wrappers": wrappers, "hydra.run.dir": tmp_path / "wrapped"}
    assert trpo.train("Pendulum-v1", **keys).agent.observation_space.shape == (2, 3)


def test_what_the_command_refuses_is_refused_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for keys in ({"env": "NoSuch-v0"}, {"task": "nothing"}, {"env": "CartPole-v1", "trust_region.max_kl": -1}):
        with pytest.raises(trpo.UserError):
            trpo.train(**keys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (gymnasium.make, "an environment"),
        (gymnasium.make_vec, "an environment"),
        (gymnasium.spec, "Spec"),
    ],
)
def test_an_environment_itself_is_refused_with_what_to_give(make, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(trpo.UserError, match=f"{said}.*give its id, or a function that makes one"):
        trpo.train(make("CartPole-v1"), total_steps=64)
    assert not list(tmp_path.iterdir())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,5}", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(VALUES)
@example("A¹")  # a letter to Python, not to Hydra
def test_a_value_is_written_so_that_it_is_read_again(value):
    (override,) = OverridesParser.create().parse_overrides([f"key={written(value)}"])
    assert plain(override.value()) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.array([8, 4]), "[8, 4]"),
        (torch.tensor([0.5]), "[0.5]"),
        (np.array([["a", "b c"]]), "[[a, 'b c']]"),
        (np.float64(0.5), "0.5"),
        (torch.tensor(3), "3"),
        (np.True_, "true"),
        ((np.int64(3), np.array([1])), "[3, [1]]"),
    ],
)
def test_numbers_and_arrays_are_written_as_those_of_python(value, text):
    assert written(value) == text


def plain(value):
    """A value without Hydra's quotes around texts."""
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return getattr(value, "text", value)


def test_rows_have_what_the_file_has(tmp_path):
    seen = []
    keys = {**KEYS, "hydra.run.dir": tmp_path / "run"}
    trpo.train(task="cartpole", callback=lambda row, agent: seen.append(dict(row)), **keys)
    assert [row["trust_region/kl"] for row in seen] == [row["trust_region/kl"] for row in rows(tmp_path / "run")]
