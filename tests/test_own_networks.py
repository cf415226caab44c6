"""Networks of one's own in a run: trained, loaded again, and refused before anything is made."""

import sys

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import create_empty_array
from tiny_runs import TINY, fingerprints, process, refusal, rows, train_tiny

import trpo
from trpo.commands.train import train
from trpo.config import PolicyConfig
from trpo.models.encoders import as_asked
from trpo.models.normalizer import make_normalizer
from trpo.models.observations import ALONE, Kind, leaves_of, named
from trpo.models.own import sizes, trial
from trpo.sampling.interface import make_interface

OWN = ("policy.network=own_networks:Plain", "critic.network=own_networks:Value")
REFUSED = {
    "Wide": "it gives (5, 3) for 5 observations, and not (5, 2)",
    "Normalising": "depends on the other rows",
    "Dropping": "other numbers the second time",
    "Flat": "it cannot be differentiated twice: The differentiated Tensor",
    "Doubled": "torch.float64, and must be float32",
    "Infinite": "not finite",
    "Forgetful": "`distribution` is not the distribution that it was given",
    "Halved": "its derivatives are wrong",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize("task", ["cartpole", "pendulum"])
def test_a_run_trains_them_and_its_seed_decides_their_first_weights(task, tmp_path):
    for name in ("one", "two"):
        assert train_tiny(tmp_path / name, *OWN, "run.evaluation_episodes=0", task=task) == 0
    assert train_tiny(tmp_path / "other", *OWN, "run.evaluation_episodes=0", "seed=1", task=task) == 0
    assert {row["outcome"] for row in rows(tmp_path / "one")} == {"accepted"}
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")
    assert fingerprints(tmp_path / "one")[0] != fingerprints(tmp_path / "other")[0]


def test_their_arguments_are_those_of_the_line(tmp_path):
    assert train_tiny(tmp_path / "run", *OWN, "+policy.network_kwargs.width=3", "+critic.network_kwargs.width=5") == 0
    agent = trpo.load(tmp_path / "run").agent
    assert [parameter.shape[0] for parameter in agent.policy.parameters()][:1] == [3]
    assert [parameter.shape[0] for parameter in agent.critic.parameters()][:1] == [5]


def test_a_network_of_parts_heeds_their_mask(tmp_path):
    own = ("env.id=probes:Marked-v0", "policy.network=own_networks:OfParts", "run.evaluation_episodes=3")
    assert train([*TINY, *own, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    agent = trpo.load(tmp_path / "run")
    grid, clock = np.zeros((3, 5, 2), dtype=np.uint8), np.zeros(1, dtype=np.float32)
    for valid in range(5):
        assert agent.act({"grid": grid, "clock": clock}, mask=np.arange(5) == valid, stochastic=True) == valid


def test_a_network_that_gives_invalid_actions_a_probability_is_refused():
    own = ("env.id=probes:Marked-v0", "policy.network=own_networks:OfParts", "+policy.network_kwargs.heeds=false")
    assert "masked(logits, observations['action_mask'])" in refusal(train, *own)


def test_a_network_that_takes_bytes_for_numbers_is_refused_before_training():
    line = refusal(train, "env.id=probes:Marked-v0", "policy.network=own_networks:OfBytes")
    assert "policy.network=own_networks:OfBytes: mat1 and mat2 must have the same dtype" in line


SPACES = {
    "numbers": spaces.Box(-1.0, 1.0, (3,)),
    "picture": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "grid of bytes": spaces.Box(0, 5, (4, 4, 3), np.uint8),
    "grid of bits": spaces.Box(0, 1, (4, 4, 2), np.bool_),
    "grid of numbers": spaces.Box(-1.0, 1.0, (4, 4, 2)),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("parts", [False, True])
def test_a_network_is_tried_on_what_it_will_be_given(space, parts):
    """By the encoder of the environment; numbers in a table of two entries are found in it."""
    whole = spaces.Dict({"one": space, "clock": SPACES["numbers"]}) if parts else space
    interface = make_interface(whole, spaces.Discrete(2))
    given = leaves_of(interface.encode(create_empty_array(whole, 5)))
    tried = leaves_of(trial(interface.observations))
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in tried.items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in given.items()
    }
    grids = [tried[name] for name, leaf in named(interface.observations).items() if leaf.kind is Kind.GRID]
    assert all(grid.dtype != torch.uint8 or grid.max() == 1 for grid in grids)


@pytest.mark.parametrize("name", ["picture", "grid of bytes", "grid of numbers"])
@pytest.mark.parametrize("parts", [False, True])
def test_a_network_is_told_of_the_rows_that_a_grid_is_flattened_to(name, parts):
    """By the normaliser, which rescales what is taken for a vector."""
    space = SPACES[name]
    whole = spaces.Dict({"one": space, "clock": SPACES["numbers"]}) if parts else space
    interface = make_interface(whole, spaces.Discrete(2))
    config = trpo.Config(policy=PolicyConfig(vectors=("one" if parts else ALONE,)))
    spec = as_asked(interface.observations, config)
    given = make_normalizer(spec)(interface.encode(create_empty_array(whole, 5)))
    tried = trial(spec)
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in leaves_of(tried).items()} == {
        name: (leaf.shape, leaf.dtype) for name, leaf in leaves_of(given).items()
    }
    assert sizes(spec) == ({"one": given["one"].shape[1:], "clock": (3,)} if parts else given.shape[1])


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_trust_region_step_can_optimise_is_refused_before_training(name):
    line = refusal(train, "task=cartpole", f"policy.network=own_networks:{name}")
    assert f"policy.network=own_networks:{name}" in line
    assert REFUSED[name] in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.network=own_networks:Value", "it is no subclass of trpo.Policy"),
        ("policy.network=own_networks:Absent", "own_networks has no Absent"),
        ("policy.network=nowhere_at_all:Plain", "there is no module nowhere_at_all"),
        ("policy.network=Plain", "module:Class"),
        ("critic.network=own_networks:masked", "it is no subclass of torch.Module"),
        ("critic.network=own_networks:Column", "it gives (5, 1) for 5 observations, and not (5,)"),
    ],
)
def test_a_name_that_names_no_network_is_refused(override, words):
    assert words in refusal(train, "task=cartpole", override)


def test_arguments_that_a_class_does_not_take_are_refused():
    line = refusal(train, "task=cartpole", OWN[0], "+policy.network_kwargs.depth=3")
    assert "unexpected keyword argument 'depth'" in line


@pytest.mark.slow
def test_loading_such_a_run_elsewhere_says_which_module_it_needs(tmp_path):
    assert train_tiny(tmp_path / "run", OWN[0], "run.evaluation_episodes=0") == 0
    program = (
        "import sys, trpo; sys.path[:] = [p for p in sys.path if not p.endswith('tests')]\n"
        f"try: trpo.load({str(tmp_path / 'run')!r})\n"
        "except trpo.UserError as error: print(error)"
    )
    said = process(sys.executable, "-c", program, cwd=tmp_path).stdout
    assert said == (
        "policy.network=own_networks:Plain: there is no module own_networks, neither installed nor in the working "
        "directory\n"
    )
