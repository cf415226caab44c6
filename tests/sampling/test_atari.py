"""Pong of the Arcade Learning Environment, by its name alone and in its wrappers, beside EnvPool's."""

from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_runs import compose, fingerprints, summary, train_tiny

from trpo.commands.train import train
from trpo.sampling.environments import Environments
from trpo.sampling.making import check_environment, make_env

TASKS = ("pong", "pong_ale")


def test_both_pongs_are_seen_alike():
    """The last four frames, whole numbers of 42×42 pixels, and six actions."""
    for task in TASKS:
        with closing(make_env(compose(f"task={task}").env)) as env:
            assert (env.observation_space.shape, env.observation_space.dtype) == ((4, 42, 42), np.uint8)
            assert env.action_space.n == 6
            stacks = [env.reset(seed=0)[0], *(env.step(step % 6)[0] for step in range(20))]
            for before, after in pairwise(stacks):
                assert (after[:3] == before[1:]).all()
            assert len({stack[3].tobytes() for stack in stacks}) > 10  # they move


def test_the_package_need_not_be_named():
    env = compose("task=pong_ale").env
    assert ":" not in env.id
    assert check_environment(env).observations.shape == (4, 42, 42)


@pytest.mark.parametrize("task", TASKS)
def test_it_is_brought_back_to_any_step(task):
    config = compose(f"task={task}", "env.num_envs=2").env
    actions = torch.randint(6, (60, 2, 1), generator=torch.Generator().manual_seed(0)).float()
    with closing(Environments(config, seed=0)) as running, closing(Environments(config, seed=0)) as fresh:
        for row in actions[:30]:
            running.step(row)
        assert fresh.restore(running.state())
        for row in actions[30:]:
            assert torch.equal(running.step(row).next_observations, fresh.step(row).next_observations)


@pytest.mark.slow
def test_a_run_is_evaluated_and_goes_on_exactly(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_tiny(whole, "run.total_steps=128", "run.evaluation_episodes=1", task="pong_ale") == 0
    assert train_tiny(parts, "run.evaluation_episodes=1", task="pong_ale") == 0
    assert train([f"run.resume={parts}", "run.total_steps=128"]) == 0
    assert summary(parts)["exact"] is True
    assert fingerprints(parts) == fingerprints(whole)
    assert -21 <= summary(whole)["final_evaluation"]["return_mean"] <= 21
