"""Whole runs of censored actions: sent, remembered and compared are the clipped ones."""

from contextlib import closing

import numpy as np
import pytest
import torch
from tiny_runs import TINY, compose, rows

import trpo
from trpo.batch import make_batch
from trpo.commands.train import train
from trpo.models.censored_gaussian import CensoredGaussian
from trpo.models.distributions import DiagonalGaussian
from trpo.models.observations import PREVIOUS_ACTION, leaves_of
from trpo.trainer import Trainer
from trpo.update.trust_region import trust_region_step

WIDE = ("env.id=Pendulum-v1", *TINY, "policy.initial_log_std=0.5")
MEMORY = ("policy.memory=gru", "policy.memory_size=8", "policy.memory_inputs=[action]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("censored") / "run"
    assert train([*WIDE, "policy.bounds=censor", f"hydra.run.dir={directory}"]) == 0
    return directory


def test_the_first_actions_are_those_of_clipped_normals_and_only_what_is_learned_differs(run, tmp_path):
    assert train([*WIDE, "policy.bounds=clip", f"hydra.run.dir={tmp_path / 'clip'}"]) == 0
    censored, clipped = rows(run), rows(tmp_path / "clip")
    assert censored[0]["critic/loss_before"] == clipped[0]["critic/loss_before"]  # of the same rewards
    assert censored[0]["fingerprint"] != clipped[0]["fingerprint"]


def test_a_loaded_agent_has_its_bounds_and_acts_inside_them(run):
    loaded = trpo.load(run)
    assert loaded.agent.policy.distribution == CensoredGaussian(1, (-1.0,), (1.0,))
    seen = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    drawn = np.concatenate([loaded.act(seen, stochastic=True) for _ in range(20)])
    assert np.abs(drawn).max() == 2  # torques are within ±2


@pytest.mark.parametrize(("bounds", "kind"), [("censor", CensoredGaussian), ("clip", DiagonalGaussian)])
def test_what_is_remembered_of_an_action_is_all_that_the_environment_knows_of_it(bounds, kind):
    """Two draws that are sent as one must lead to one future, or their KL would be more than that of what is sent."""
    with closing(Trainer(compose(*WIDE, *MEMORY, f"policy.bounds={bounds}"))) as trainer:
        rollout = trainer.collect()
        assert type(trainer.agent.policy.distribution) is kind
    previous, drawn = leaves_of(rollout.observations)[PREVIOUS_ACTION][1:], rollout.actions[:-1]
    assert drawn.abs().max() > 1
    assert torch.equal(previous, drawn.clamp(-1, 1) if bounds == "censor" else drawn)


def test_a_step_is_as_long_as_what_is_sent_allows():
    """What is bounded is the KL of what is sent; that of the draws is larger, here beyond the bound."""
    with closing(Trainer(compose(*WIDE, "policy.bounds=censor"))) as trainer:
        trainer.warm_up()
        policy, rollout = trainer.agent.policy, trainer.collect()
        batch = make_batch(trainer.agent, rollout, gamma=0.99, lam=0.95, normalize=True)
        info = trust_region_step(policy, batch, trainer.config.trust_region)
        with torch.no_grad():
            new = policy(batch.observations)
    assert info.kl == pytest.approx(float(policy.distribution.kl(batch.old_parameters, new).mean()), rel=1e-4)
    assert 0 < info.kl <= info.max_kl < float(DiagonalGaussian(1).kl(batch.old_parameters, new).mean())
