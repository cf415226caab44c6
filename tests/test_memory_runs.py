"""Whole runs with memory: what acted is what the update sees, on every backend; learning, resuming, evaluating."""

import contextlib
import dataclasses
import signal
import sys

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the environments
import pytest
import torch
from same_runs import assert_same_run
from test_pathwise_runs import KILLED
from tiny_runs import TINY, compose, fingerprints, process, refusal, rows, summary

import trpo
from trpo.batch import make_batch, next_values
from trpo.commands.evaluate import evaluate as evaluate_command
from trpo.commands.train import train
from trpo.models.observations import (
    CRITIC_STATE,
    POLICY_STATE,
    PREVIOUS_ACTION,
    PREVIOUS_REWARD,
    SEGMENT,
    leaves_of,
    tree,
)
from trpo.models.recall import Recall
from trpo.sampling.evaluation import evaluate
from trpo.sampling.making import check_environment
from trpo.system import seeds
from trpo.system.laps import Laps
from trpo.trainer import Trainer
from trpo.update.statistics import state_kl

SMALL = ("policy.memory_size=8", "critic.memory_size=8")
GRU, LSTM = (("policy.memory=gru", "critic.memory=lstm", *SMALL), ("policy.memory=lstm", "critic.memory=gru", *SMALL))
INPUTS = "policy.memory_inputs=[action,reward]"


@contextlib.contextmanager
def trainer_of(*overrides):
    trainer = Trainer(compose(*TINY, "run.steps_per_iteration=64", *overrides))
    try:
        yield trainer
    finally:
        trainer.close()


def watched(agent, monkeypatch):
    """The distribution parameters of every step, as they are when it is taken."""
    seen, acting = [], agent.acting

    def watching():
        act = acting()
        return lambda observations, noise: (
            seen.append(agent.policy(agent.normalize(observations))),
            act(observations, noise),
        )[1]

    monkeypatch.setattr(agent, "acting", watching)
    return seen


BACKENDS = {
    "sync": ["env.id=CartPole-v1"],
    "async": ["env.id=CartPole-v1", "env.backend=async"],
    "vector": ["env.id=CartPole-v1", "env.backend=vector"],
    "envpool": ["env.id=CartPole-v1", "env.backend=envpool"],
    "truncated": ["env.id=Pendulum-v1", "env.max_episode_steps=7"],
    "masks": ["env.id=probes:Marked-v0"],
    "a picture": ["env.id=probes:Pictured-v0"],
}


@pytest.mark.parametrize("memory", [GRU, LSTM], ids=["gru", "lstm"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_acted_is_what_the_update_sees(backend, memory, monkeypatch):
    """Three rollouts, the state carried on from each to the next: a reset a step late would be seen here."""
    with trainer_of(*BACKENDS[backend], *memory, INPUTS) as trainer, torch.no_grad():
        for _ in range(3):
            with monkeypatch.context() as patch:
                acted = watched(trainer.agent, patch)
                rollout = trainer.collector.collect(trainer.agent)
            agent, seen, valid = trainer.agent, rollout.observations, rollout.valid
            again = agent.policy(agent.normalize(seen.flatten(0, 1))).unflatten(0, seen.shape)
            torch.testing.assert_close(torch.stack(acted)[valid], again[valid], rtol=0, atol=1e-6)


def test_a_reset_one_step_late_is_seen(monkeypatch):
    """The test above fails on what it is there for."""
    forget, late = Recall.forget, []

    def one_step_late(self, where):
        late.append(where)
        if len(late) > 1:
            forget(self, late[-2])

    with monkeypatch.context() as patch:
        patch.setattr(Recall, "forget", one_step_late)
        with pytest.raises(AssertionError):
            test_what_acted_is_what_the_update_sees("truncated", GRU, patch)


def test_previous_actions_and_rewards_are_those_of_the_step_before_and_of_no_other_episode():
    with trainer_of("env.id=Pendulum-v1", "env.max_episode_steps=7", *GRU, INPUTS) as trainer:
        rollouts = [trainer.collector.collect(trainer.agent) for _ in range(2)]
    seen = torch.cat([rollout.observations for rollout in rollouts])
    actions, rewards = (torch.cat([getattr(rollout, name) for rollout in rollouts]) for name in ("actions", "rewards"))
    over = torch.cat([rollout.truncated for rollout in rollouts])
    leaves = leaves_of(seen)
    for name, values in ((PREVIOUS_ACTION, actions), (PREVIOUS_REWARD, rewards.unsqueeze(-1))):
        expected = torch.cat([torch.zeros_like(values[:1]), torch.where(over.unsqueeze(-1), 0.0, values)[:-1]])
        assert torch.equal(leaves[name], expected)
    finals = leaves_of(rollouts[0].final_observations)
    assert torch.equal(finals[PREVIOUS_ACTION], rollouts[0].actions[rollouts[0].truncated])


def test_discrete_actions_are_seen_as_one_of_each_dimension():
    with trainer_of("env.id=CartPole-v1", *GRU, INPUTS) as trainer:
        rollout = trainer.collector.collect(trainer.agent)
    over = rollout.terminated | rollout.truncated
    previous = leaves_of(rollout.observations)[PREVIOUS_ACTION][1:]
    expected = torch.nn.functional.one_hot(rollout.actions[:-1, :, 0].long(), 2) * ~over[:-1, :, None]
    assert torch.equal(previous, expected.float())


@pytest.mark.parametrize("memory", [GRU, LSTM], ids=["lstm", "gru"])  # of the critic
def test_the_critic_remembers_through_rollouts_and_truncations(memory):
    """Its values and bootstraps by hand: step by step, its state dropped where an episode ends, and only there."""
    with trainer_of("env.id=Pendulum-v1", "env.max_episode_steps=7", *memory) as trainer, torch.no_grad():
        critic, agent = trainer.agent.critic, trainer.agent
        state = torch.zeros(2, critic.encoder.state_size)
        for _ in range(2):
            rollout = trainer.collector.collect(agent)
            finals, k = leaves_of(rollout.final_observations), 0
            for t in range(len(rollout.rewards)):
                _, state = critic.encoder.advance(agent.normalize(with_state(rollout.observations[t], state)))
                for env in rollout.truncated[t].nonzero().flatten():
                    torch.testing.assert_close(finals[CRITIC_STATE][k], state[env], rtol=0, atol=1e-6)
                    k += 1
                state = torch.where(rollout.truncated[t].unsqueeze(-1), 0.0, state)
            assert k == len(rollout.final_observations) > 0
            torch.testing.assert_close(leaves_of(rollout.last_observations)[CRITIC_STATE], state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", [GRU, LSTM], ids=["lstm", "gru"])  # of the critic
def test_what_truncated_rows_ended_in_is_worth_the_same_alone_and_together(memory):
    """Both environments are truncated several times in a rollout, and one final observation does not follow another."""
    with trainer_of("env.id=Pendulum-v1", "env.max_episode_steps=7", *memory) as trainer, torch.no_grad():
        agent, rollout = trainer.agent, trainer.collector.collect(trainer.agent)
        finals = agent.normalize(rollout.final_observations)
        assert len(finals) >= 4
        alone = torch.cat([agent.critic(finals[row : row + 1]) for row in range(len(finals))])
        torch.testing.assert_close(
            next_values(agent, rollout, rollout.rewards)[rollout.truncated], alone, rtol=0, atol=1e-6
        )


def with_state(observations, state):
    return tree({**leaves_of(observations), CRITIC_STATE: state, SEGMENT: torch.arange(2)}, (2,))


def test_at_the_policy_that_acted_the_kl_is_zero_to_the_bit():
    with trainer_of("env.id=CartPole-v1", *GRU) as trainer:
        trainer.warm_up()
        for _ in range(3):
            row = trainer.iterate().row
            assert row["trust_region/kl_zeroth_order"] == 0.0
            assert row["trust_region/kl_first_order"] == 0.0
            assert 0 < row["trust_region/kl"] <= row["trust_region/max_kl"]
            assert row["trust_region/state_kl"] > 0


def test_the_state_kl_is_that_of_two_policies_that_differ_in_what_they_carry():
    """By hand: the new policy meets what follows with the carried state, and with what it remembers itself."""
    with trainer_of("env.id=CartPole-v1", "policy.memory=gru", "policy.memory_size=8") as trainer, torch.no_grad():
        agent = trainer.agent
        rollout = trainer.collect()
        for parameter in agent.policy.parameters():
            parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        over = rollout.terminated | rollout.truncated
        state = leaves_of(rollout.observations)[POLICY_STATE][0]
        for t in range(len(rollout.rewards)):
            step = with_policy_state(rollout.observations[t], state)
            _, state = agent.policy.encoder.advance(agent.normalize(step))
            state = torch.where(over[t].unsqueeze(-1), 0.0, state)
        last = rollout.last_observations
        carried = agent.policy(agent.normalize(last))
        own = agent.policy(agent.normalize(with_policy_state(last, state)))
        expected = float(agent.policy.distribution.kl(carried, own).mean())
        assert expected > 1e-6
        assert state_kl(agent, rollout)["trust_region/state_kl"] == pytest.approx(expected, rel=1e-4)


def test_where_episodes_end_with_a_rollout_no_state_is_carried_and_none_makes_a_kl():
    ending = ("env.id=Pendulum-v1", "env.max_episode_steps=32", "policy.memory=lstm", "policy.memory_size=8")
    with trainer_of(*ending) as trainer, torch.no_grad():
        rollout = trainer.collect()
        assert rollout.truncated[-1].all()
        for parameter in trainer.agent.policy.parameters():
            parameter += 0.3
        assert state_kl(trainer.agent, rollout) == {"trust_region/state_kl": 0.0}


def with_policy_state(observations, state):
    return tree({**leaves_of(observations), POLICY_STATE: state, SEGMENT: torch.arange(2)}, (2,))


# Learning, and that nothing else than memory does it


LEARNING = (
    *("env.num_envs=8", "run.steps_per_iteration=384", "run.total_steps=12_000", "run.evaluation_episodes=60"),
    *("run.evaluate_every=0", "critic.learning_rate=0.003", "trust_region.max_kl=0.05", "trust_region.anneal=0"),
    *("policy.hidden_sizes=[16]", "critic.hidden_sizes=[16]", "policy.memory_size=16", "critic.memory_size=16"),
)
BOTH = ("policy.memory=gru", "critic.memory=gru")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["vector", "picture", "mask"])
@pytest.mark.parametrize("memory", ["gru", "lstm", "none"])
def test_what_was_shown_is_remembered(form, memory, tmp_path):
    own = ("env.id=probes:Recalling-v0", f"+env.kwargs.form={form}")
    both = (f"policy.memory={memory}", f"critic.memory={memory}")
    assert train([*LEARNING, *own, *both, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    reached = summary(tmp_path / "run")["final_evaluation"]["return_mean"]
    assert reached < 0.6 if memory == "none" else reached > 0.95


# Going on


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("env.backend=sync",), ("env.backend=envpool", INPUTS)], ids=["sync", "envpool"])
def test_a_run_that_was_killed_goes_on_as_if_nothing_had_happened(settings, tmp_path):
    line = ["env.id=CartPole-v1", *TINY, *GRU, *settings, "run.total_steps=192", "run.checkpoint_every=32"]
    killed = process(sys.executable, "-c", KILLED, 3, *line, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert train([*line, f"hydra.run.dir={tmp_path / 'run'}", "run.resume=auto"]) == 0
    assert train([*line, f"hydra.run.dir={tmp_path / 'whole'}"]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


# Elsewhere


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("memory") / "run"
    line = ("env.id=Pendulum-v1", "env.max_episode_steps=20", *TINY, *GRU, "policy.memory_inputs=[action]")
    assert train([*line, f"hydra.run.dir={directory}"]) == 0
    return directory


def played(agent, starts):
    """The returns of a loop as it is written for Stable-Baselines3, several environments side by side."""
    envs = [gymnasium.make("Pendulum-v1", max_episode_steps=20) for _ in starts]
    seen = np.stack([env.reset(seed=start)[0] for env, start in zip(envs, starts, strict=True)])
    totals, state, starting = np.zeros(len(starts)), None, np.ones(len(starts), dtype=bool)
    for _ in range(20):
        actions, state = agent.predict(seen, state, starting, deterministic=True)
        steps = [env.step(action) for env, action in zip(envs, actions, strict=True)]
        seen, starting = np.stack([step[0] for step in steps]), np.zeros(len(starts), dtype=bool)
        totals += [step[1] for step in steps]
    return totals


def test_predict_carries_what_evaluation_carries(run):
    loaded = trpo.load(run)
    starts = [seeds.integer(0, seeds.Role.EVALUATION_ENVIRONMENTS, 0, i) for i in range(4)]
    expected = evaluate(loaded.agent, loaded.config.env, episodes=range(4), seed=0)
    np.testing.assert_allclose(played(loaded, starts), expected.returns, rtol=1e-4)


def test_what_was_remembered_is_dropped_where_an_episode_starts(run):
    loaded, seen = trpo.load(run), np.array([[1.0, 0.0, 0.5], [0.0, 1.0, -0.5]], dtype=np.float32)
    fresh, _ = loaded.predict(seen, deterministic=True)
    _, state = loaded.predict(-seen, deterministic=True)
    again, _ = loaded.predict(seen, state, np.array([True, False]), deterministic=True)
    assert again[0] == fresh[0]
    assert again[1] != fresh[1]


def test_act_says_that_there_is_more_than_an_action(run):
    with pytest.raises(trpo.UserError, match="use predict"):
        trpo.load(run).act(np.zeros(3, np.float32))


def test_trpo_evaluate_works_on_it(run, capsys):
    assert evaluate_command([str(run), "--episodes", "2", "--stochastic"]) == 0
    assert "2 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trust_region.surrogate=pathwise"], "needs trust_region.surrogate=score"),
        (["policy.network=own_networks:Plain"], "leave memory or network out"),
        (["critic.network=own_networks:Value"], "leave memory or network out"),
        (["critic.memory=gru", "policy.memory=none", "policy.network=own_networks:Plain"], "memory or network out"),
        (["policy.memory=rnn"], "one of none, gru, lstm"),
        (["policy.memory_inputs=[time]"], "one of action, reward"),
        (["policy.memory_inputs=[action]", "policy.memory=none"], "policy.memory_inputs needs a memory"),
    ],
)
def test_what_does_not_go_with_memory_is_refused(overrides, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(train, "task=pendulum", "policy.memory=gru", *overrides)


def test_micro_batches_and_subsets_are_of_whole_segments(tmp_path):
    """The same step up to rounding, but for the subset."""
    line = ["env.id=CartPole-v1", *TINY, *GRU, "run.total_steps=64", "run.evaluation_episodes=0"]
    settings = {"whole": [], "parts": ["trust_region.micro_batch=9"], "half": ["trust_region.fisher_fraction=0.5"]}
    for name, more in settings.items():
        assert train([*line, *more, f"hydra.run.dir={tmp_path / name}"]) == 0
    kl = {name: rows(tmp_path / name)[0]["trust_region/kl"] for name in settings}
    assert kl["parts"] == pytest.approx(kl["whole"], rel=1e-4)
    assert fingerprints(tmp_path / "half")[0] != fingerprints(tmp_path / "whole")[0]


def test_the_values_of_a_batch_do_not_depend_on_the_size_of_its_passes():
    with trainer_of("env.id=CartPole-v1", *GRU) as trainer:
        rollout = trainer.collect()
        settings = dataclasses.asdict(trainer.config.advantage)
        whole, parts = (make_batch(trainer.agent, rollout, **settings, normalize=True, micro_batch=n) for n in (0, 9))
    for name, column in whole.columns.items():
        if name != "observations":
            torch.testing.assert_close(parts.columns[name], column, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", [(), ("policy.memory=gru", "critic.memory=gru", *SMALL)], ids=["without", "with"])
def test_no_pass_of_an_iteration_is_over_more_rows_than_a_micro_batch(memory, monkeypatch):
    """With memory a pass is of one segment at least, here of 16 rows, the steps of a rollout; figures stay the same."""
    line = ("task=pendulum", *memory, "env.num_envs=4", "policy.final_std_scale=0.5", "policy.bounds=clip")
    found, passes = {}, {}
    for most in (0, 16):
        with trainer_of(*line, f"trust_region.micro_batch={most}") as trainer:
            trainer.warm_up()
            rollout, passes[most] = trainer.collect(), []
            for part in (trainer.agent.policy, trainer.agent.critic, *[trainer.agent.policy.encoder] * bool(memory)):
                counted(monkeypatch, type(part), passes[most])
            found[most] = trainer.learn(rollout, Laps()).row
            monkeypatch.undo()
    assert max(passes[0]) == 64
    assert max(passes[16]) == 16
    moved = {f"trust_region/{name}_kl" for name in ("sigma", "normalizer", *["state"] * bool(memory))}
    assert moved <= {*found[0]}
    for name in moved | {name for name in found[0] if name.startswith(("policy/", "critic/"))}:
        assert found[16][name] == pytest.approx(found[0][name], rel=1e-2)


def counted(monkeypatch, kind, passes):
    """Note the rows of each pass of a network."""
    for name in {"forward", "ends"} & {*vars(kind)}:
        whole = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda self, seen, whole=whole: (passes.append(len(seen)), whole(self, seen))[1]
        )


def test_an_agent_of_one_environment_fits_the_interface_of_another_count():
    """What is carried is no part of the environment: its interface says nothing of it."""
    assert check_environment(compose("env.id=CartPole-v1", *GRU).env).observations.size == 4
