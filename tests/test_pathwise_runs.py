"""Whole runs with the pathwise surrogate: warm-up, figures, kills, what is saved."""

import signal
import sys

import numpy as np
import oracles
import probes  # noqa: F401, registers its environments
import pytest
import torch
from oracles import random_batch, random_policy
from same_runs import assert_same_run
from tiny_runs import TINY, checkpoints, compose, fingerprints, process, refusal, rows, summary, train_tiny

from trpo.batch import make_batch
from trpo.commands.compose import choices
from trpo.commands.train import train
from trpo.config import TrustRegionConfig, UserError
from trpo.models import value_heads
from trpo.models.distributions import DiagonalGaussian
from trpo.record import checkpoint
from trpo.system import seeds
from trpo.trainer import Trainer
from trpo.update.action_values import Reader, recorded, samples_of
from trpo.update.trust_region import trust_region_step

PATHWISE = (
    *("trust_region.surrogate=pathwise", "action_values.hidden_sizes=[8]", "action_values.minibatches=3"),
    *(
        "action_values.minibatch_size=16",
        "action_values.rollouts=4",
        "action_values.drawn=3",
        "action_values.warm_up=2",
    ),
)
LONGER = ("run.total_steps=288", "run.evaluation_episodes=1")  # eight iterations after the statistics' warm-up
ACTIONS = {
    "Box": ["env.id=Pendulum-v1"],
    "Discrete": ["env.id=CartPole-v1"],
    "MultiDiscrete": ["env.id=probes:Counting-v0"],
}

# Kills itself, as nothing that can be caught, when an iteration begins.
KILLED = """
import os, signal, sys
number, arguments = int(sys.argv[1]), sys.argv[2:]
from trpo.trainer import Trainer
from trpo.commands.train import train
iterate = Trainer.iterate
def killed(trainer):
    if trainer.iteration == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return iterate(trainer)
Trainer.iterate = killed
train(arguments)
"""


@pytest.mark.parametrize("task", ["pendulum", "cartpole"])
def test_a_run_warms_up_and_then_steps_inside_the_trust_region(task, tmp_path, caplog):
    run = tmp_path / "run"
    assert train_tiny(run, *LONGER, *PATHWISE, "record.dump_every=1", "record.profile_every=1", task=task) == 0
    written = rows(run)
    assert [row["outcome"] for row in written[:2]] == ["warming_up"] * 2
    assert len({row["fingerprint"] for row in written[:2]}) == 1
    for row in written[:2]:
        assert not [tag for tag in row if tag.startswith("trust_region/") and tag != "trust_region/normalizer_kl"]
    assert "rejected" not in caplog.text
    stepped = [row for row in written[2:] if row["outcome"] == "accepted"]
    assert len(stepped) >= 4
    for row in written[2:]:
        assert 0 <= row["trust_region/kl"] <= row["trust_region/max_kl"]
        assert abs(row["trust_region/kl_first_order"]) < 1e-6
    assert all(row["trust_region/improvement"] > 0 for row in stepped)
    assert [row["env_steps"] for row in written[2:]] == [
        int(path.stem.removeprefix("step_")) for path in sorted((run / "dumps").iterdir())
    ]
    assert summary(run)["outcomes"]["warming_up"] == 2


def test_every_row_says_how_the_fit_went(tmp_path):
    train_tiny(tmp_path / "run", *LONGER, *PATHWISE, task="pendulum")
    for row in rows(tmp_path / "run"):
        assert row["action_values/loss_after"] >= 0
        assert 0 < row["action_values/trace_mean"] <= 1
        assert 0 <= row["action_values/clipped_share"] <= 1
        assert row["action_values/disagreement"] > 0
    assert rows(tmp_path / "run")[0]["action_values/trace_mean"] == pytest.approx(1.0)  # all of it is the policy's own


@pytest.mark.parametrize(("support", "expected"), [((-100.0, 100.0), 0.0), ((100.0, 101.0), 1.0)], ids=["all", "none"])
def test_every_row_says_how_many_targets_lie_beyond_the_bins(support, expected, tmp_path, monkeypatch):
    """Pendulum's rewards are never above 0."""
    monkeypatch.setattr(value_heads, "SUPPORT", support)
    train_tiny(tmp_path / "run", *PATHWISE, "action_values.bins=50", "action_values.trace=1", task="pendulum")
    assert rows(tmp_path / "run")[0]["action_values/beyond_share"] == expected


@pytest.mark.parametrize(
    "actions", [pytest.param(kind, marks=pytest.mark.slow) if kind == "MultiDiscrete" else kind for kind in ACTIONS]
)
def test_it_works_with_every_kind_of_action(actions, tmp_path):
    run = tmp_path / "run"
    assert train([*TINY, *ACTIONS[actions], *LONGER, *PATHWISE, f"hydra.run.dir={run}"]) == 0
    assert "accepted" in {row["outcome"] for row in rows(run)}


# When it is killed: at the beginning of which iteration, of a run in which the replay holds four rollouts.
KILLS = {
    "in the warm-up": (1, []),
    "with the replay half full": (3, []),
    "with the replay full": (6, []),
    "after a restart of EnvPool": (5, ["env.backend=envpool", "env.restart_every=80", "env.pin=false"]),
}


@pytest.mark.parametrize(
    "when",
    [when if when == "with the replay half full" else pytest.param(when, marks=pytest.mark.slow) for when in KILLS],
)
def test_a_killed_run_goes_on_to_the_bit(when, tmp_path):
    iteration, overrides = KILLS[when]
    arguments = [
        *("task=pendulum", *TINY, *LONGER, *PATHWISE, *overrides),
        *("run.checkpoint_every=32", "run.keep_checkpoints=99", "run.evaluate_every=64"),
    ]
    run, whole = tmp_path / "run", tmp_path / "whole"
    ended = process(sys.executable, "-c", KILLED, iteration, *arguments, f"hydra.run.dir={run}", cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(rows(run)) == iteration
    assert train([*arguments, f"hydra.run.dir={run}", "run.resume=auto"]) == 0
    assert train([*arguments, f"hydra.run.dir={whole}"]) == 0
    assert_same_run(run, whole)
    assert rows(run)[-1]["outcome"] == "accepted"


def test_the_best_checkpoint_holds_no_replay_and_can_be_evaluated(tmp_path):
    run = tmp_path / "run"
    train_tiny(run, *LONGER, *PATHWISE, task="pendulum")
    (own,) = checkpoint.load(checkpoints(run)[-1])["ranks"]
    assert len(own["source"]["replay"]) == 4
    best = checkpoint.load(run / "checkpoints" / "best.pt")
    assert (best["source"], best["ranks"][0]["source"]) == ({}, {})
    assert (run / "checkpoints" / "best.pt").stat().st_size < checkpoints(run)[-1].stat().st_size


def test_a_checkpoint_that_is_only_enough_to_act_does_not_pass_for_more():
    trainer = Trainer(compose("task=pendulum", *TINY, *PATHWISE))
    trainer.close()
    with pytest.raises(UserError, match="no action values"):
        trainer.restore(trainer.state(replay=False))


def test_a_step_with_another_surrogate_than_the_papers_must_be_given_it():
    policy = random_policy(DiagonalGaussian(2))
    with pytest.raises(ValueError, match="pathwise needs a surrogate"):
        trust_region_step(policy, random_batch(policy), TrustRegionConfig(surrogate="pathwise"))


@pytest.mark.parametrize("task", choices("task"))
@pytest.mark.parametrize("surrogate", choices("surrogate"))
def test_every_surrogate_goes_with_every_task_but_action_values_with_no_memory(task, surrogate):
    line = (f"task={task}", f"surrogate={surrogate}")
    if surrogate == "pathwise" and compose(f"task={task}").policy.memory != "none":
        with pytest.raises(UserError, match="depends on the past"):
            compose(*line)
    else:
        assert compose(*line).trust_region.surrogate == surrogate


def test_a_state_holds_the_rollouts_themselves_and_later_iterations_do_not_write_to_them():
    trainer = Trainer(compose("task=pendulum", *TINY, *PATHWISE))
    trainer.warm_up()
    for _ in range(3):
        trainer.iterate()
    state = trainer.state()
    replay = state["ranks"][0]["source"]["replay"]
    assert replay[-1]["rollout"]["observations"] is trainer.source.replay[-1].rollout.observations
    rollouts = [one["rollout"] for one in replay]
    copies = [{name: value.clone() for name, value in one.items() if torch.is_tensor(value)} for one in rollouts]
    theta = state["source"]["theta"].clone()
    for _ in range(4):
        trainer.iterate()
    trainer.close()
    for one, copy in zip(rollouts, copies, strict=True):
        assert all(torch.equal(one[name], value) for name, value in copy.items())
    assert torch.equal(state["source"]["theta"], theta)
    assert not torch.equal(trainer.source.values.theta, theta)


def test_score_is_the_default_and_the_bits_of_before(tmp_path):
    train_tiny(tmp_path / "a", task="pendulum")
    train_tiny(tmp_path / "b", "surrogate=score", task="pendulum")
    assert fingerprints(tmp_path / "a") == fingerprints(tmp_path / "b")
    assert not [tag for row in rows(tmp_path / "a") for tag in row if tag.startswith("action_values/")]


def test_one_word_sets_the_settings_that_go_with_it_after_the_task_and_before_what_is_typed():
    config = compose("task=hopper", "surrogate=pathwise")
    assert config.trust_region.surrogate == "pathwise"
    assert config.run.steps_per_iteration != compose("task=hopper").run.steps_per_iteration
    assert compose("task=hopper", "surrogate=pathwise", "run.steps_per_iteration=77").run.steps_per_iteration == 77
    assert compose("task=hopper", "trust_region.surrogate=pathwise").run.steps_per_iteration == 2_048


REFUSED = {
    "there is no surrogate 'paths'; surrogates: pathwise, score": ["surrogate=paths"],
    "surrogate=null: leave it out, or choose one of pathwise, score": ["surrogate=null"],
    "policy.noise_correlation needs trust_region.surrogate=score": [
        "surrogate=pathwise",
        "policy.noise_correlation=0.5",
    ],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_mistake_is_one_line(message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refusal(train, "task=pendulum", *REFUSED[message])


def test_a_run_keeps_its_surrogate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    train_tiny(run, "surrogate=score", task="pendulum")
    line = refusal(train, "task=pendulum", *TINY, "surrogate=pathwise", f"hydra.run.dir={run}", "run.resume=auto")
    assert "surrogate=pathwise: the run was not started with this surrogate" in line


def test_rows_of_resets_change_no_target():
    """The same transitions as `sync` gives them, and with a row after every end as EnvPool and `vector` do."""
    limit = "+env.kwargs.max_episode_steps=9"  # CartPole falls after eight to ten steps at one side, or is stopped
    trainer = Trainer(compose("task=cartpole", *TINY, "run.steps_per_iteration=60", "env.num_envs=1", limit))
    trainer.collector._noise = lambda agent: torch.tensor([[1e-6, 1.0]])
    rollout = trainer.collect()
    trainer.close()
    agent, distribution = trainer.agent, trainer.agent.policy.distribution
    ends = (rollout.terminated | rollout.truncated)[:, 0].nonzero().flatten().tolist()
    assert len(ends) > 2
    assert rollout.truncated.any()
    order = np.concatenate([[t, -1] if t in ends else [t] for t in range(60)]).astype(int)
    filler = torch.from_numpy(order == -1)

    def padded(column):
        return torch.where(filler.view(-1, *[1] * (column.dim() - 1)), torch.ones_like(column[order]), column[order])

    names = ("observations", "actions", "rewards", "terminated", "truncated")
    columns = {name: padded(getattr(rollout, name)) for name in names}
    columns["terminated"][filler] = columns["truncated"][filler] = False
    with_rows = rollout._replace(**columns, valid=~filler.unsqueeze(1))
    values = oracles.action_values(trainer.config.action_values, 4, distribution)
    found = []
    for one in (rollout, with_rows):
        batch = make_batch(agent, one, gamma=0.9, lam=0.9, normalize=True)
        record = recorded(one, batch, distribution)
        generator = seeds.generator(0, seeds.Role.ACTION_VALUES)
        found.append(samples_of(record, Reader(values, agent, None, 1.0), generator, gamma=0.9, trace=0.8, draws=2))
    torch.testing.assert_close(found[1].inputs, found[0].inputs)
    torch.testing.assert_close(found[1].targets, found[0].targets, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[0].outputs, found[1].outputs)
