"""The same on a GPU: skipped where there is none."""

import math

import pytest
import torch
from oracles import random_batch, random_policy
from tiny_runs import checkpoints, fingerprints, rows, train_tiny

from trpo.commands.train import train
from trpo.config import CriticConfig, TrustRegionConfig
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.models.networks import Critic
from trpo.numerics.params import flatten
from trpo.record import checkpoint
from trpo.update.critic import fit_critic, make_optimizer
from trpo.update.trust_region import trust_region_step

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
DISTRIBUTIONS = [DiagonalGaussian(2), Categorical((3, 2)), Bernoulli(3)]


def moved(batch):
    return batch.map(lambda column: column.to(DEVICE))


@pytest.mark.parametrize("fisher", ["gauss_newton", "hessian"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_step_is_that_of_the_cpu_to_float64_rounding(distribution, fisher):
    policy, twin = random_policy(distribution), random_policy(distribution)
    batch = random_batch(policy)
    config = TrustRegionConfig(fisher=fisher, micro_batch=7)
    expected = trust_region_step(policy, batch, config)
    step = trust_region_step(twin.to(DEVICE), moved(batch), config)
    assert step.outcome is expected.outcome
    torch.testing.assert_close(flatten(twin).cpu(), flatten(policy), rtol=1e-8, atol=1e-10)
    figures, others = step.figures(), expected.figures()
    assert figures.keys() == others.keys()
    assert all(math.isclose(figures[name], others[name], rel_tol=1e-6, abs_tol=1e-12) for name in figures)


def test_a_critic_fit_is_that_of_the_cpu():
    observations, returns = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.arange(64.0) / 64
    fitted = []
    for device in ("cpu", DEVICE):
        generator = torch.Generator().manual_seed(1)
        critic = Critic(3, hidden_sizes=(8,), activation="tanh", generator=generator).to(device)
        config = CriticConfig(epochs=2, minibatch_size=16)
        optimizer = make_optimizer(critic, config)
        fit_critic(critic, optimizer, observations.to(device), returns.to(device), config, generator)
        fitted.append(flatten(critic).cpu())
    torch.testing.assert_close(fitted[1], fitted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["cartpole", "halfcheetah"])
@pytest.mark.parametrize("surrogate", ["score", "pathwise"])
def test_a_run_stays_inside_the_trust_region_and_its_halves_are_the_whole(task, surrogate, tmp_path):
    how = (f"device={DEVICE}", "run.deterministic=true", f"trust_region.surrogate={surrogate}")
    how += ("action_values.warm_up=1", "action_values.hidden_sizes=[8]", "action_values.minibatches=3")
    assert train_tiny(tmp_path / "whole", *how, "run.total_steps=160", task=task) == 0
    assert train_tiny(tmp_path / "half", *how, task=task) == 0
    assert train([f"run.resume={tmp_path / 'half'}", "run.total_steps=160"]) == 0
    assert fingerprints(tmp_path / "half") == fingerprints(tmp_path / "whole")
    stepped = [row for row in rows(tmp_path / "whole") if "trust_region/kl" in row]
    assert stepped
    assert all(row["trust_region/kl"] <= row["trust_region/max_kl"] for row in stepped)
    assert checkpoint.load(checkpoints(tmp_path / "whole")[-1])["device"] == torch.device(DEVICE).type
