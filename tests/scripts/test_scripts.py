"""The script that a reader is sent to: the trust-region step in a loop of one's own."""

import sys
from pathlib import Path

import custom_loop
import pytest
import torch
from tiny_runs import process

from trpo import GaussianPolicy

SCRIPTS = Path(custom_loop.__file__).parent


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The rows that custom_loop.py prints: iteration, reward, KL spent, KL predicted, relative error, outcome."""
    folder = tmp_path_factory.mktemp("loop")
    ended = process(sys.executable, SCRIPTS / "custom_loop.py", cwd=folder)
    assert (ended.returncode, ended.stderr, list(folder.iterdir())) == (0, "", [])
    head, *lines = ended.stdout.splitlines()
    assert head.split() == ["iteration", "reward", "KL", "spent", "KL", "predicted", "relative", "error", "outcome"]
    return [line.split(maxsplit=5) for line in lines]


def test_the_loop_of_ones_own_is_short():
    assert len((SCRIPTS / "custom_loop.py").read_text().splitlines()) < 100


@pytest.mark.slow
def test_the_loop_of_ones_own_learns_inside_the_trust_region(table):
    assert [int(row[0]) for row in table] == list(range(2, 21, 2))
    rewards = [float(row[1]) for row in table]
    assert rewards == sorted(rewards)
    # −E(a − 2s)² = −σ² − 4E[s²] = −1 − 4/3 of the first policy, which is N(0, 1)
    assert -7 / 3 < rewards[0] < rewards[-1] < 0
    assert rewards[-1] > -0.05
    for _, _, spent, predicted, error, outcome in table:
        assert 0 < float(spent) <= 0.02
        assert float(error.rstrip("%")) == pytest.approx(100 * (1 - float(predicted) / float(spent)), abs=0.1)
        assert outcome == "accepted"


def test_the_batch_of_the_loop_is_one_of_the_policy():
    settings = {"hidden_sizes": (4,), "activation": "tanh", "initial_log_std": 0.0, "min_log_std": -5.0}
    policy = GaussianPolicy(1, 1, generator=torch.Generator().manual_seed(1), **settings)
    batch, reward = custom_loop.sample_batch(policy, torch.Generator().manual_seed(2))
    assert batch.observations.abs().max() <= 1
    assert batch.old_parameters.tolist() == policy(batch.observations).tolist()
    assert not batch.old_parameters.requires_grad
    rewards = [-((a - 2 * s) ** 2) for a, s in zip(batch.actions.flatten(), batch.observations.flatten(), strict=True)]
    assert batch.returns.tolist() == pytest.approx([float(one) for one in rewards], abs=1e-6)
    assert reward == pytest.approx(float(sum(rewards)) / len(rewards), rel=1e-4)
    ordered = batch.advantages[batch.returns.argsort()]
    assert (ordered.diff() >= 0).all()
    assert (batch.advantages.mean().item(), batch.advantages.std().item()) == pytest.approx((0, 1), abs=1e-5)
