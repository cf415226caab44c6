"""The seed decides a run, and nothing else does."""

import random
import sys

import numpy as np
import pytest
import torch
from tiny_runs import TINY, checkpoints, fingerprints, process, rows, same_tensors, train_tiny

from trpo.record import checkpoint

FREE = {"wall_time", "time/collect", "time/policy", "time/critic", "time/total", "time/steps_per_second"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    directory = tmp_path_factory.mktemp("reference") / "run"
    train_tiny(directory)
    return directory


def decided(directory):
    """The rows without their clocks and evaluations."""
    return [
        {key: value for key, value in row.items() if key not in FREE and not key.startswith("evaluation/")}
        for row in rows(directory)
    ]


def test_a_run_of_another_process_is_the_same(reference, tmp_path):
    command = [sys.executable, "-m", "trpo", "task=cartpole", *TINY, "hydra.run.dir=run"]
    ended = process(*command, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert decided(tmp_path / "run") == decided(reference)
    assert list(tmp_path.iterdir()) == [tmp_path / "run"]


# What may not matter.
INDIFFERENT = {
    "nothing": [],
    "no evaluation": ["run.evaluation_episodes=0"],
    "evaluation at every iteration": ["run.evaluate_every=1"],
    "longer evaluations": ["run.evaluation_episodes=20"],
    "checkpoints at every iteration": ["run.checkpoint_every=1", "run.keep_checkpoints=1"],
    "no progress bar": ["record.progress=false"],
    "a longer run, as far as both go": ["run.total_steps=160"],
    "processes of their own": ["env.backend=async"],
}


@pytest.mark.parametrize("overrides", INDIFFERENT.values(), ids=INDIFFERENT)
def test_what_only_watches_does_not_change_a_run(overrides, reference, tmp_path):
    assert train_tiny(tmp_path / "run", *overrides) == 0
    assert decided(tmp_path / "run")[:2] == decided(reference)


@pytest.mark.parametrize("task", ["cartpole", "pendulum"])
def test_global_generators_neither_matter_nor_move(task, tmp_path):
    train_tiny(tmp_path / "first", task=task)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    train_tiny(tmp_path / "second", task=task)
    assert decided(tmp_path / "first") == decided(tmp_path / "second")
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()


def test_the_whole_state_is_the_same_and_not_only_the_policy(reference, tmp_path):
    train_tiny(tmp_path / "run")
    state, other = (checkpoint.load(checkpoints(directory)[-1]) for directory in (reference, tmp_path / "run"))
    assert same_tensors(state["agent"], other["agent"])
    assert torch.equal(state["ranks"][0]["minibatches"], other["ranks"][0]["minibatches"])
    generators = [each["ranks"][0]["collector"]["generator"] for each in (state, other)]
    assert torch.equal(*generators)


@pytest.mark.parametrize("seed", [1, 2, 2**32, 2**64 + 1])
def test_another_seed_is_another_run(seed, reference, tmp_path):
    train_tiny(tmp_path / "run", f"seed={seed}")
    assert not set(fingerprints(tmp_path / "run")) & set(fingerprints(reference))


def test_an_evaluation_depends_on_the_seed_and_its_moment_alone(tmp_path):
    train_tiny(tmp_path / "often", "run.evaluate_every=32", "run.total_steps=160")
    train_tiny(tmp_path / "once", "run.total_steps=160")
    often, once = rows(tmp_path / "often")[-1], rows(tmp_path / "once")[-1]
    assert often["evaluation/return_mean"] == once["evaluation/return_mean"]
    assert often["evaluation/return_std"] == once["evaluation/return_std"]
