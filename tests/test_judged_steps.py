"""What rows say of the step before, in whole runs."""

import itertools
import json

import pytest
import torch
from tiny_runs import checkpoints, rows, train_tiny

from trpo import trainer
from trpo.record import checkpoint
from trpo.trainer import Trainer

LONGER = ("run.total_steps=352", "run.evaluation_episodes=0")
KEPT = "trust_region/improvement_kept"


def torch_log_probs(policy, parameters, actions):
    if policy.distribution.parameter_size == policy.distribution.action_size * 2 and actions.is_floating_point():
        mean, log_std = parameters.chunk(2, dim=-1)
        return torch.distributions.Normal(mean, log_std.exp()).log_prob(actions).sum(-1)
    return torch.distributions.Categorical(logits=parameters).log_prob(actions.squeeze(-1))


# With rows that are no steps at all; with a reward scale that moves and without; one environment; many rows each.
RUNS = {
    "pendulum": ("pendulum", []),
    "unscaled": ("pendulum", ["normalize.rewards=false", "normalize.advantages=false"]),
    "next-step autoreset": ("cartpole", ["env.backend=vector"]),
    "one environment": ("pendulum", ["env.num_envs=1"]),
    "micro-batches": ("cartpole", ["trust_region.micro_batch=5"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_was_kept_is_that_of_both_policies_on_the_fresh_batch(name, tmp_path, monkeypatch):
    """By torch.distributions, from the policy before the last step, the one after it, and the raw advantages."""
    seen = []

    def recorded(policy, batch, config, **rest):
        with torch.no_grad():
            before = {key: value.clone() for key, value in policy.state_dict().items()}
            raw = batch.advantages.double() * batch.advantage_scale
            if seen:
                new = torch_log_probs(policy, policy(batch.observations), batch.actions).double()
                policy.load_state_dict(seen[-1][0])
                old = torch_log_probs(policy, policy(batch.observations), batch.actions).double()
                policy.load_state_dict(before)
                kept = -((torch.expm1(old - new)) * (raw - raw.mean())).mean()
                seen.append((before, float(kept), float(raw.std(correction=0)), len(raw)))
            else:
                seen.append((before,))
        return step(policy, batch, config, **rest)

    step = trainer.trust_region_step
    monkeypatch.setattr(trainer, "trust_region_step", recorded)
    task, overrides = RUNS[name]
    assert train_tiny(tmp_path / "run", *LONGER, *overrides, task=task) == 0
    written = rows(tmp_path / "run")
    assert KEPT not in written[0]
    judged = 0
    for before, row, (_, *expected) in zip(written, written[1:], seen[1:], strict=False):
        assert (KEPT in row) == (before["outcome"] == "accepted")
        if KEPT not in row:
            continue
        judged += 1
        kept, std, samples = expected
        assert row[KEPT] == pytest.approx(kept, rel=1e-3, abs=1e-6)
        assert row["trust_region/advantage_std"] == pytest.approx(std, rel=1e-5)
        assert row["trust_region/judged_kl"] == before["trust_region/kl"]
        assert samples == row["env_steps"] - before["env_steps"]
    assert judged >= 5


def test_a_step_that_was_not_taken_is_not_judged(tmp_path):
    train_tiny(tmp_path / "run", *LONGER, "trust_region.max_backtracks=0", "trust_region.max_kl=0.3", task="pendulum")
    written = rows(tmp_path / "run")
    assert {row["outcome"] for row in written} > {"accepted"}
    for before, row in itertools.pairwise(written):
        assert (KEPT in row) == (before["outcome"] == "accepted")
        assert ("trust_region/judged_kl" in row) == (KEPT in row)


def test_what_was_promised_is_in_the_unit_of_the_row_that_says_so(tmp_path, monkeypatch):
    stds = []

    def noted(self, rollout, batch):
        stds.append((self.agent.reward_std, batch.advantage_scale))
        return step(self, rollout, batch)

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", noted)
    train_tiny(tmp_path / "run", *LONGER, task="pendulum")
    written = rows(tmp_path / "run")
    assert len({std for std, _ in stds}) > 5
    for before, row, (then, scale), (now, _) in zip(written, written[1:], stds, stds[1:], strict=False):
        if KEPT in row:
            promised = before["trust_region/improvement"] * scale * then / now
            assert row["trust_region/improvement_promised"] == pytest.approx(promised)


def test_noise_with_a_memory_is_not_judged(tmp_path):
    train_tiny(tmp_path / "run", *LONGER, "policy.noise_correlation=0.5", task="pendulum")
    assert not [tag for row in rows(tmp_path / "run") for tag in row if "kept" in tag or "judged" in tag]


@pytest.mark.parametrize(("environments", "halves"), [(1, False), (2, True), (5, True)])
def test_a_profile_has_halves_if_there_are_two_environments(environments, halves, tmp_path):
    train_tiny(tmp_path / "run", f"env.num_envs={environments}", "record.profile_every=1", task="pendulum")
    profiles = [json.loads(path.read_text()) for path in sorted((tmp_path / "run" / "profiles").iterdir())]
    assert [profile["halves"] is not None for profile in profiles] == [halves] * 2


def test_a_checkpoint_from_before_promises_goes_on(tmp_path, monkeypatch):
    """Of format 1, which had neither those nor the place for action values."""
    run = tmp_path / "run"
    train_tiny(run, "run.total_steps=96", task="pendulum")
    file = checkpoints(run)[-1]
    state = checkpoint.load(file)
    del state["judge"], state["source"], state["ranks"][0]["source"], state["format_version"]
    with monkeypatch.context() as earlier:
        earlier.setattr(checkpoint, "FORMAT_VERSION", 1)
        checkpoint.save(file, state)
    assert train_tiny(run, "run.total_steps=160", "run.resume=auto", task="pendulum") == 0
    assert [KEPT in row for row in rows(run)] == [False, True, False, True]
