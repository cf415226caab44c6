"""Environments brought back to any step by replaying, and those that cannot be."""

import logging

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from probes import POSITION, TERMINATE, TRUNCATE
from tiny_runs import agent_of, checkpoints, rows, summary, train_tiny

from trpo.commands.compose import load_config
from trpo.commands.train import train
from trpo.config import EnvConfig
from trpo.sampling.environments import Environments


class Wandering(gymnasium.Env):
    """Draws its observations, its rewards and its ends from its own generator: nothing but the seed decides them."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=3)
        return self.place.astype(np.float32), {}

    def step(self, action):
        self.place += self.np_random.normal(size=3) + action[0]
        terminated, truncated = self.np_random.random(2) < (0.15, 0.1)
        return self.place.astype(np.float32), self.np_random.normal(), bool(terminated), bool(truncated), {}


class Remembering(Wandering):
    """Carries the number of its resets along, as an odometer would."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.resets += 1
        self.place[0] += self.resets
        return observation, info


def next_step(num_envs):
    return SyncVectorEnv([Wandering] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


gymnasium.register("Wandering-v0", entry_point=Wandering, vector_entry_point=next_step)
gymnasium.register("Remembering-v0", entry_point=Remembering)


@pytest.fixture
def make():
    made = []

    def function(id, **config):
        made.append(Environments(EnvConfig(id=id, **{"num_envs": 3} | config), seed=4))
        return made[-1]

    yield function
    for environments in made:
        environments.close()


def drawn(steps, actions=1, num_envs=3, seed=0):
    return 2 * torch.rand(steps, num_envs, actions, generator=torch.Generator().manual_seed(seed)) - 1


def follow(environments, actions):
    """Everything that can be seen of some steps."""
    return [(*environments.step(row), environments.observations) for row in actions]


def same(one, other):
    return all(
        np.array_equal(*pair, equal_nan=True)
        for rows in zip(one, other, strict=True)
        for pair in zip(*rows, strict=True)
    )


# An environment and a backend, with the size of an action of the policy.
REPLAYED = [
    ("Wandering-v0", {}, 1),
    ("Wandering-v0", {"backend": "async"}, 1),
    ("Wandering-v0", {"backend": "vector"}, 1),
    ("Wandering-v0", {"backend": "vector", "restart_every": 21}, 1),
    ("HalfCheetah-v5", {"backend": "envpool"}, 6),
    ("Hopper-v5", {"backend": "envpool", "restart_every": 51}, 3),
    ("CartPole-v1", {"backend": "envpool"}, 1),
    ("Pendulum-v1", {"backend": "envpool", "kwargs": {"max_episode_steps": 9}}, 1),
    ("MetaWorld/Reach-v3", {"backend": "envpool", "kwargs": {"max_episode_steps": 9}}, 4),
    ("Catch-v0", {"backend": "envpool", "restart_every": 51}, 1),
    ("Wandering-v0", {"wrappers": [{"wrapper": "gymnasium.wrappers:FrameStackObservation", "stack_size": 3}]}, 1),
    ("Pendulum-v1", {"wrappers": [{"gymnasium.wrappers:StickyAction": {"repeat_action_probability": 0.5}}]}, 1),
    ("Wandering-v0", {"num_envs": 1}, 1),
    ("Hopper-v5", {}, 3),
    ("Pendulum-v1", {}, 1),
]


@pytest.mark.parametrize(("id", "config", "size"), REPLAYED)
def test_fresh_environments_are_brought_to_every_step_with_the_same_future(id, config, size, make):
    """Steps, episodes under way of any age, and just reset ones: forty-one moments, over several episodes each."""
    running, envs = make(id, **config), config.get("num_envs", 3)
    actions = drawn(40, size, envs)
    states, seen = [running.state()], []
    for row in actions:
        seen += follow(running, [row])
        states.append(running.state())
    for moment in range(0, 41, 1 if config.get("backend", "sync") == "sync" else 4):
        fresh = make(id, **config)
        assert fresh.restore(states[moment])
        assert torch.equal(fresh.observations, states[moment]["observations"])
        assert fresh.steps == moment
        assert same(follow(fresh, actions[moment:]), seen[moment:])
        fresh.close()


def test_a_replay_takes_valid_actions_alone(make):
    """What runs before an episode to align it with the others meets other masks than the run did."""
    running, draws = make("probes:Marked-v0"), np.random.default_rng(0)
    for _ in range(40):
        masks = running.observations["action_mask"].numpy()
        running.step(torch.tensor([[draws.choice(np.flatnonzero(mask))] for mask in masks]))
        fresh = make("probes:Marked-v0")
        assert fresh.restore(running.state())
        fresh.close()


def test_a_restored_environment_can_be_saved_again(make):
    running, once, twice = (make("Wandering-v0") for _ in range(3))
    follow(running, drawn(17))
    once.restore(running.state())
    follow(running, drawn(5, seed=1)), follow(once, drawn(5, seed=1))
    assert twice.restore(once.state())
    assert same(follow(running, drawn(30, seed=2)), follow(twice, drawn(30, seed=2)))


def test_a_state_is_not_moved_by_later_steps(make):
    running, fresh = make("Wandering-v0"), make("Wandering-v0")
    follow(running, drawn(10))
    state = running.state()
    expected = state["observations"].clone()
    future = follow(running, drawn(30, seed=1))
    assert fresh.restore(state)
    assert torch.equal(fresh.observations, expected)
    assert same(follow(fresh, drawn(30, seed=1)), future)


def test_environments_are_replayed_after_thousands_of_steps_as_fast_as_after_one_episode(make):
    running, fresh = make("Wandering-v0"), make("Wandering-v0")
    follow(running, drawn(2_000))
    state = running.state()
    calls = []
    step = fresh.backend.step
    fresh.backend.step = lambda actions: (calls.append(1), step(actions))[1]
    assert fresh.restore(state)
    assert len(calls) == len(state["history"]["rows"]) < 60
    fresh.backend.step = step
    assert same(follow(running, drawn(50, seed=1)), follow(fresh, drawn(50, seed=1)))


def test_the_history_is_as_long_as_the_longest_episode_under_way(make):
    """Environment 0 ends every 5 steps, 1 every 7, 2 never until step 100, then all of them at once."""
    environments = make("Counting-v0")
    ages = np.zeros(3, dtype=int)
    for step in range(1, 120):
        row = torch.full((3, 1), 0.25)
        ends = [step % 5 == 0 or step == 100, step % 7 == 0 or step == 100, step == 100]
        row[ends] = TERMINATE if step % 2 else TRUNCATE
        environments.step(row)
        ages = np.where(ends, 0, ages + 1)
        if step % 3 == 0 or step > 95:  # not after every step: what piles up in between is dropped
            state = environments.state()
            rows, began = state["history"]["rows"], state["history"]["began"]
            assert len(rows) == ages.max()
            for env in range(3):  # what is kept of an episode is what was done in it
                assert rows[int(began[env]) :, env].sum() == environments.observations[env, POSITION]


def test_an_environment_that_remembers_across_resets_is_named_and_no_other(make, caplog):
    running = make("Remembering-v0")
    while (running.episodes == 1).all() or not (running.episodes == 1).any():
        follow(running, drawn(1, seed=running.steps))
    fresh, state = make("Remembering-v0"), running.state()
    with caplog.at_level(logging.WARNING, "trpo"):
        assert fresh.restore(state) is False
    differ = (fresh.observations != state["observations"]).any(dim=1).nonzero().flatten().tolist()
    assert 0 < len(differ) < 3  # or the test could not fail: one was reset as often here as there
    words = "did not replay to where it was"
    assert [record.getMessage().partition(words)[0] for record in caplog.records] == [
        f"environment {index} " for index in differ
    ]


@pytest.mark.parametrize(("id", "exact"), [("Wandering-v0", True), ("Remembering-v0", False)])
def test_a_run_that_could_not_be_replayed_goes_on_and_says_in_its_summary_for_ever_that_it_is_not_exact(
    id, exact, tmp_path
):
    run = tmp_path / "run"
    tiny = [f"env.id={id}", "run.evaluation_episodes=0", "policy.activation=tanh"]
    assert train_tiny(run, *tiny) == 0
    assert summary(run)["exact"] is True
    assert train([f"run.resume={run}", "run.total_steps=160"]) == 0
    assert summary(run)["exact"] is exact
    assert ("did not replay" in (run / "train.log").read_text()) is not exact
    assert train([f"run.resume={run}", "run.total_steps=161"]) == 0
    assert summary(run)["exact"] is exact
    assert len(rows(run)) == 5


def test_a_restart_truncates_the_open_episodes_of_a_vector_entry_point_in_their_true_last_observation(make):
    """Every 30 environment steps of 3 environments: every 10 of the vector. A termination stays one."""
    environments = make("Counting-v0", backend="vector", restart_every=30)
    starts = [environments.observations]
    for step in range(1, 41):
        actions = torch.full((3, 1), 0.25)
        if step in (10, 13):
            actions[1] = TERMINATE
        if step == 30:
            actions[2] = TRUNCATE
        transition = environments.step(actions)
        restarts = step % 10 == 0
        assert transition.truncated.tolist() == [restarts, restarts and step != 10, restarts]
        assert transition.terminated.tolist() == [False, step in (10, 13), False]
        if restarts:
            clocks = transition.next_observations[:, 3]
            assert clocks.tolist() == [10, 9 if step == 20 else 10, 10]  # the reset at step 14 is no step
            starts.append(environments.observations)
            assert environments.observations[:, 1:5].eq(0).all()  # made anew: no episode, no step before
    assert torch.stack(starts)[:, :, 0].unique().numel() == 15  # from seeds of their own


@pytest.mark.slow
def test_what_a_restart_cut_is_bootstrapped_and_is_no_episode(tmp_path):
    """Endless is worth 1 / (1 − γ) = 2 in both of its states, and less if the cut after every fourth step ended it.

    Its own cuts, after two steps, are the episodes that count.
    """
    run = tmp_path / "run"
    settings = ["env.id=Endless-v0", "+env.kwargs.period=2", "env.backend=vector", "env.restart_every=8"]
    learn = ["advantage.gamma=0.5", "normalize.rewards=false", "critic.learning_rate=0.02", "run.total_steps=1_600"]
    assert train_tiny(run, *settings, *learn, "run.evaluation_episodes=0", "critic.epochs=10") == 0
    agent = agent_of(load_config(run / "config.yaml"), checkpoints(run)[-1])
    with torch.no_grad():
        values = agent.critic(agent.normalize(torch.eye(2)))
    assert values.flatten().tolist() == pytest.approx([2.0] * 2, abs=0.05)
    assert {row["rollout/episode_length"] for row in rows(run)} == {2}
