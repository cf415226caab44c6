"""The seed decides a run, and nothing else does.

What is equal to the bit is listed in `SAME_OPERATIONS` and `SAME_ROUNDING`, each with a test that says so. Everything
else agrees up to rounding, and its tests say how much that is: micro-batches and the whole batch, ranks and one
process, acting and the batch's pass, a critic's steps by either route, evaluations of other numbers of episodes, both
forms of the Fisher product, CPU and GPU, one thread and two. BLAS sums in an order that depends on the CPU, on the
number of rows, and on whether operands lie at multiples of 16 bytes, as what is allocated does and a view into a larger
tensor need not. Discrete actions hide that, until two are as good but for the last bits. `make test-portable` looks for
tests that forget it.
"""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import TINY, checkpoints, fingerprints, process, rows, same_tensors, train_tiny

from trpo.record import checkpoint

# The same operations on the same shapes, laid out alike, with as many threads, on one kind of CPU and version of torch.
SAME_OPERATIONS = {
    "a run and the same run in another process": "test_a_run_of_another_process_is_the_same",
    "... whatever global generators hold": "test_global_generators_neither_matter_nor_move",
    "... however it is watched, environments here or in processes": "test_what_only_watches_does_not_change_a_run",
    "... with profiles and dumps, and without": "test_recording_does_not_change_a_run",
    "... stopped and resumed": "test_a_run_resumed_from_any_of_its_checkpoints_is_the_whole_run",
    "... in a sweep and alone": "test_a_job_of_a_sweep_equals_the_same_job_alone",
    "an evaluation, whatever came before": "test_an_evaluation_depends_on_the_seed_and_its_moment_alone",
    "an agent and its checkpoint": "test_a_loaded_agent_acts_bit_for_bit_alike",
    "the parameters on all ranks of a run": "test_all_ranks_have_the_same_bits",
    "a policy before and after a rejected step": "test_theta_moves_on_acceptance_and_otherwise_keeps_its_bits",
    "a batch's old parameters and the update's pass over all its rows at θ_old": (
        "test_old_parameters_are_bit_for_bit_those_of_the_updates_own_pass"
    ),
    "... so that K and its gradient are 0": "test_kl_and_its_gradient_are_zero_to_the_last_bit_at_theta_old",
    "gradients and products asked for again": "test_gradient_and_products_may_be_asked_for_in_any_order_and_again",
    "a solve of the same system": "test_inputs_keep_their_bits_and_the_same_inputs_give_the_same_bits",
    "a value fit from the same generator": "test_the_same_generator_gives_the_same_fit_bit_for_bit",
}
# What rounds alike in any place: one sum, product, quotient, root or clamp of numbers; or does not round at all.
SAME_ROUNDING = {
    "a row's observation, normalised alone and in a batch": "test_the_rows_of_a_batch_stay_together",
    "... and for acting": "test_a_snapshot_is_the_normaliser_as_it_is_bit_for_bit",
    "an environment's advantages in any column": "test_permuting_environments_permutes_the_advantages",
    "a run and one with 1,024 times the rewards, normalised": (
        "test_a_thousand_times_the_reward_is_the_same_run_but_for_the_returns"
    ),
    "what environments do with the same seeds and actions": (
        "test_fresh_environments_are_brought_to_every_step_with_the_same_future"
    ),
}
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


def test_every_promise_has_its_test():
    written = "".join(file.read_text() for file in Path(__file__).parent.rglob("test_*.py"))
    promised = [*SAME_OPERATIONS.values(), *SAME_ROUNDING.values()]
    assert [name for name in promised if f"def {name}(" not in written] == []


@pytest.mark.slow
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
