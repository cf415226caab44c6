"""Whole runs whose observations are pictures, grids, parts and masks: learning, resuming, ranks' twins, dumps."""

import signal
import sys

import numpy as np
import probes
import pytest
import torch
from same_runs import assert_same_run
from test_pathwise_runs import KILLED
from tiny_runs import TINY, agent_of, checkpoints, compose, fingerprints, process, refusal, rows, summary

from trpo.commands.evaluate import evaluate
from trpo.commands.train import train
from trpo.models.observations import MASK, leaves_of
from trpo.numerics.params import flatten
from trpo.sampling import evaluation
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.system import seeds
from trpo.trainer import Trainer

LONGER = ("run.total_steps=192", "run.evaluation_episodes=2")
THROUGH_VALUES = (
    *("trust_region.surrogate=pathwise", "action_values.hidden_sizes=[8]", "action_values.minibatches=3"),
    *("action_values.minibatch_size=16", "action_values.rollouts=3", "action_values.warm_up=1"),
)
SURROGATES = {"score": (), "pathwise": THROUGH_VALUES}
MARKED, PICTURED = "env.id=probes:Marked-v0", "env.id=probes:Pictured-v0"
FLATTENED = "policy.vectors=[picture]"  # action values see no pictures
SEEN = {
    "a grid and a mask": [MARKED],
    "a mask of a method": [MARKED, "+env.kwargs.says=method"],
    "a mask in the observation": [MARKED, "+env.kwargs.says=observation"],
    "a picture": [PICTURED, FLATTENED],
}


def run_of(directory, *overrides):
    assert train([*TINY, *LONGER, *overrides, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("seen", SEEN)
def test_a_run_steps_inside_the_trust_region_and_its_agent_can_be_evaluated(seen, surrogate, tmp_path, capsys):
    run = run_of(tmp_path / "run", *SEEN[seen], *SURROGATES[surrogate])
    stepped = [row for row in rows(run) if row["outcome"] != "warming_up"]
    assert "accepted" in {row["outcome"] for row in stepped}
    for row in stepped:
        assert 0 <= row["trust_region/kl"] <= row["trust_region/max_kl"]
        assert abs(row["trust_region/kl_first_order"]) < 1e-6
    assert any(row["trust_region/normalizer_kl"] > 0 for row in stepped)
    capsys.readouterr()
    assert evaluate([str(run), "--episodes", "3", "--stochastic"]) == 0  # an action that is not valid is an error


def test_the_start_says_what_is_taken_for_what(tmp_path, capsys):
    run_of(tmp_path / "run", MARKED)
    said = capsys.readouterr().out
    assert "observations: action_mask is mask 5, clock is vector 1, grid is grid 3×5×2" in said
    run_of(tmp_path / "flat", "task=cartpole")
    assert "observations:" not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("surrogate", "backend"),
    [
        ("score", "async"),
        ("pathwise", "sync"),
        ("score", "sync"),
        ("pathwise", "async"),
    ],
)
def test_a_killed_run_with_parts_and_masks_goes_on_to_the_bit(surrogate, backend, tmp_path):
    arguments = [
        *(*TINY, *LONGER, MARKED, *SURROGATES[surrogate], f"env.backend={backend}"),
        *("run.checkpoint_every=32", "run.keep_checkpoints=99", "run.evaluate_every=64"),
    ]
    run, whole = tmp_path / "run", tmp_path / "whole"
    ended = process(sys.executable, "-c", KILLED, 3, *arguments, f"hydra.run.dir={run}", cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert train([*arguments, f"hydra.run.dir={run}", "run.resume=auto"]) == 0
    assert train([*arguments, f"hydra.run.dir={whole}"]) == 0
    assert_same_run(run, whole)


@pytest.mark.slow
def test_a_checkpoint_of_parts_is_plain_data(tmp_path):
    """Read by a process that has not imported what a tree is made of, and by later versions of that."""
    run = run_of(tmp_path / "run", MARKED, *THROUGH_VALUES)
    code = "import sys, torch; torch.load(sys.argv[1], weights_only=True); print('tensordict' in sys.modules)"
    ended = process(sys.executable, "-c", code, checkpoints(run)[-1], cwd=tmp_path)
    assert ended.stdout.strip() == "False", ended.stderr


def painted(observations):
    """The mask that the environment painted into each observation."""
    return leaves_of(observations)["grid"][..., 0, :, 1].bool()


def assert_masks_belong(rollout):
    for observations in (rollout.observations, rollout.last_observations, rollout.final_observations):
        assert torch.equal(leaves_of(observations)[MASK], painted(observations))
    chosen = leaves_of(rollout.observations)[MASK].gather(2, rollout.actions.long())
    assert chosen.all()


@pytest.mark.parametrize("says", ["info", "method", "observation"])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_every_row_has_the_mask_that_it_was_acted_on_with(says, backend):
    config = compose(*TINY, MARKED, f"+env.kwargs.says={says}", f"env.backend={backend}")
    trainer = Trainer(config)
    rollout = trainer.collect()
    trainer.close()
    assert len(rollout.final_observations) > 0
    assert rollout.terminated.any()
    assert_masks_belong(rollout)


def test_masks_that_are_a_row_late_are_seen(monkeypatch):
    """What the tests above would say of the commonest mistake: the mask of the step before."""
    from trpo.sampling import masks

    current = masks.WithMask._with_mask

    def late(self, observation, info):
        before = getattr(self, "before", info)
        self.before = info
        return current(self, observation, before)

    monkeypatch.setattr(masks.WithMask, "_with_mask", late)
    trainer = Trainer(compose(*TINY, MARKED))
    with pytest.raises((ValueError, AssertionError)):
        assert_masks_belong(trainer.collect())
    trainer.close()


def test_both_policies_of_a_step_have_the_masks_of_their_rows(tmp_path):
    run = run_of(tmp_path / "run", MARKED, "record.dump_every=1")
    for file in sorted((run / "dumps").iterdir()):
        with np.load(file, allow_pickle=False) as dump:
            mask = dump["observations.action_mask"]
            assert dump["observations.grid"].dtype == np.uint8
            np.testing.assert_array_equal(mask, dump["observations.grid"][:, 0, :, 1].astype(bool))
            assert (dump["old_parameters"][~mask] == -1e8).all()
            assert mask[np.arange(len(mask)), dump["actions"][:, 0].astype(int)].all()


def test_the_bootstrap_of_a_truncated_row_sums_over_the_actions_that_are_valid_there():
    """V(s') of a state in which one action is valid is the Q of that action."""
    from trpo.update.action_values import Reader

    config = compose(*TINY, MARKED, *THROUGH_VALUES)
    trainer = Trainer(config)
    rollout = trainer.collect()
    trainer.close()
    finals = rollout.final_observations.clone()
    finals[MASK] = torch.nn.functional.one_hot(torch.arange(len(finals)) % 5, 5).bool()
    reader = Reader(trainer.source.learned, trainer.agent, None, 0.0)
    seen = trainer.agent.normalize(finals)
    with torch.no_grad():
        values = reader.values.mean(reader.values.features(seen))
        expected = values.gather(1, (torch.arange(len(finals)) % 5).unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(reader.of_states(seen, []), expected)


class Stuck(probes.Marked):
    """Allows nothing from its third step on, without an end."""

    def _next(self):
        observation, _ = super()._next()
        if self.steps == 2:
            self.mask = np.zeros(5, dtype=np.int8)
        return observation, {MASK: self.mask}


probes.gymnasium.register("Stuck-v0", Stuck)


def test_a_mask_of_zeros_is_an_error_that_names_environment_and_step():
    environments = Environments(compose(*TINY, "env.id=Stuck-v0", "env.num_envs=7").env, seed=0, numbers=range(4, 7))
    agent = agent_for_environments(environments)
    collector = Collector(environments, steps=4, generator=seeds.generator(0, seeds.Role.ACTIONS))
    with pytest.raises(RuntimeError, match=r"environment 4 allows no action after its step 2 .*all zeros"):
        collector.collect(agent)
    environments.close()


class HalfStuck(probes.gymnasium.Env):
    """Allows everything in one dimension of its actions, and in the other nothing from its third step on."""

    observation_space = probes.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = probes.spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {MASK: np.array([1, 1, 0, 1, 1], dtype=np.int8)}

    def step(self, action):
        self.steps += 1
        mask = np.array([1, 1, *[self.steps < 3] * 3], dtype=np.int8)
        return np.zeros(1, np.float32), 0.0, False, False, {MASK: mask}


probes.gymnasium.register("HalfStuck-v0", HalfStuck)


def test_a_mask_of_zeros_in_one_dimension_is_an_error_as_well():
    environments = Environments(compose(*TINY, "env.id=HalfStuck-v0").env, seed=0)
    for _ in range(2):
        environments.step(torch.ones(len(environments.numbers), 2))
    with pytest.raises(RuntimeError, match=r"environment 0 allows no action after its step 3 .*zeros, or those of one"):
        environments.step(torch.ones(len(environments.numbers), 2))
    environments.close()


@pytest.mark.parametrize(("name", "step"), [("Stuck-v0", 2), ("HalfStuck-v0", 3)])
def test_a_mask_of_zeros_is_an_error_in_an_evaluation_too(name, step):
    config = compose(*TINY, f"env.id={name}")
    environments = Environments(config.env, seed=0)
    agent = agent_for_environments(environments)
    environments.close()
    with pytest.raises(RuntimeError, match=rf"an evaluation environment allows no action at step {step}: .*zeros"):
        evaluation.evaluate(agent, config.env, episodes=range(1), seed=0)


def agent_for_environments(environments):
    from trpo.trainer import agent_for

    return agent_for(compose(*TINY, MARKED), environments.interface)


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", SURROGATES)
def test_micro_batches_change_a_run_of_parts_by_rounding_only(surrogate, tmp_path):
    arguments = (
        MARKED,
        *SURROGATES[surrogate],
        "run.total_steps=64",
        "trust_region.max_kl=0.05",
        "action_values.warm_up=0",
    )
    whole, parts = (run_of(tmp_path / f"{n}", *arguments, f"trust_region.micro_batch={n}") for n in (0, 7))
    one, other = (flatten(agent_of(compose(*TINY, MARKED), checkpoints(run)[-1]).policy) for run in (whole, parts))
    trainer = Trainer(compose(*TINY, MARKED))
    trainer.close()
    assert (one - other).norm() < 0.01 * (one - flatten(trainer.agent.policy)).norm()  # of how far the steps went
    assert fingerprints(whole) != fingerprints(parts)


REFUSED = [
    ([PICTURED, *THROUGH_VALUES], ["pathwise", "no pictures", "picture"]),
    ([MARKED, "policy.observations=[clok]"], ["no observation clok", "clock"]),
    ([MARKED, "critic.observations=[clok]"], ["no observation clok"]),
    ([MARKED, "policy.images=[grid]"], ["grid cannot be taken as image", "at least 10"]),
    ([MARKED, "policy.observations=1"], ["policy.observations"]),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_does_not_go_with_the_observations_is_one_line_and_nothing_is_made(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refusal(train, *arguments)
    assert all(words in line for words in said), line


@pytest.mark.slow
def test_an_observation_of_parts_is_learned_from(tmp_path):
    """The right action is seen in the grid; without it one in three is right: 1.07 of 2 within four steps."""
    run = tmp_path / "run"
    arguments = ["env.num_envs=8", "run.total_steps=12000", "run.steps_per_iteration=512", "run.evaluation_episodes=40"]
    assert train([MARKED, *arguments, "critic.epochs=3", f"hydra.run.dir={run}"]) == 0
    assert summary(run)["final_evaluation"]["return_mean"] > 1.95


@pytest.mark.slow
def test_a_mask_cannot_be_taken_for_something_to_see():
    line = refusal(train, MARKED, "policy.vectors=[action_mask]")
    assert "action_mask is the mask of valid actions: it cannot be taken as vector" in line


class HalfBroken(probes.gymnasium.Env):
    """A part of its observation is never a number."""

    observation_space = probes.spaces.Dict(
        a=probes.spaces.Box(-1.0, 1.0, (1,)), broken=probes.spaces.Box(-1.0, 1.0, (1,))
    )
    action_space = probes.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.seen(), {}

    def step(self, action):
        self.steps += 1
        return self.seen(), 1.0, self.steps == 5, False, {}

    def seen(self):
        return {"a": np.zeros(1, np.float32), "broken": np.full(1, np.nan, np.float32)}


probes.gymnasium.register("HalfBroken-v0", HalfBroken)


def test_a_part_that_no_network_sees_may_be_broken(tmp_path):
    seen = ("policy.observations=[a]", "critic.observations=[a]", "run.evaluation_episodes=2")
    assert train([*TINY, "env.id=HalfBroken-v0", *seen, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert summary(tmp_path / "run")["final_evaluation"]["return_mean"] == 5.0
    assert evaluate([str(tmp_path / "run"), "--episodes", "2"]) == 0


@pytest.mark.slow
def test_the_parts_that_there_are_are_named_if_no_network_sees_one():
    line = refusal(train, MARKED, "policy.observations=[nope]", "critic.observations=[nope]")
    assert "there is no observation nope; the environment's are clock, grid" in line
