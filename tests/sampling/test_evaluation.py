import dataclasses
import pickle

import gymnasium
import numpy as np
import probes  # noqa: F401  registers the environments
import pytest
import torch

from trpo.config import Config, CriticConfig, EnvConfig, PolicyConfig
from trpo.models.agent import make_agent
from trpo.models.normalizer import ObservationNormalizer
from trpo.numerics.moments import moments
from trpo.sampling import evaluation
from trpo.sampling.evaluation import Evaluation, evaluate
from trpo.sampling.making import check_environment
from trpo.system import seeds


def agent_for(env, *, seed=0):
    config = Config(seed=seed, env=env, policy=PolicyConfig(hidden_sizes=(8,)), critic=CriticConfig(hidden_sizes=(8,)))
    interface = check_environment(env)
    agent = make_agent(
        config,
        observations=interface.observations,
        distribution=interface.distribution,
    )
    if isinstance(agent.normalizer, ObservationNormalizer):
        rows = torch.randn(50, interface.observations.size, generator=torch.Generator().manual_seed(0))
        agent.normalizer.update(moments(rows))
    return agent


CARTPOLE = EnvConfig(id="CartPole-v1")
DRAWN = EnvConfig(id="Drawn-v0")  # its return is where it started


def run(env, *, episodes=5, **options):
    return evaluate(agent_for(env), env, **({"seed": 0} | options), episodes=range(episodes))


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.parametrize("episodes", [1, 16, 40])
def test_every_episode_starts_from_a_seed_of_its_own(episodes, number):
    env = gymnasium.make("Drawn-v0")
    starts = [
        float(env.reset(seed=seeds.integer(7, seeds.Role.EVALUATION_ENVIRONMENTS, number, i))[0][0])
        for i in range(episodes)
    ]
    assert len(set(starts)) == episodes
    assert run(DRAWN, episodes=episodes, seed=7, number=number) == Evaluation(starts, [1] * episodes)


def test_of_no_episodes_it_is_empty():
    """As the share of a rank is, where there are more ranks than episodes."""
    assert run(DRAWN, episodes=0) == Evaluation([], [])


def test_the_mode_gives_the_same_numbers_twice():
    first, again = run(CARTPOLE, episodes=20), run(CARTPOLE, episodes=20)
    assert first == again
    assert len(set(first.lengths)) > 1


def test_more_episodes_begin_with_the_same_ones():
    """Passes over other numbers of rows differ in the last bits, which discrete actions do not show."""
    few, many = run(CARTPOLE, episodes=6), run(CARTPOLE, episodes=35)
    assert many.returns[:6] == few.returns
    assert many.lengths[:6] == few.lengths


def test_returns_and_lengths_are_those_of_playing_the_mode_by_hand():
    agent, env = agent_for(CARTPOLE), gymnasium.make("CartPole-v1")
    lengths = []
    for i in range(18):
        observation, _ = env.reset(seed=seeds.integer(0, seeds.Role.EVALUATION_ENVIRONMENTS, 0, i))
        lengths.append(0)
        over = False
        while not over:
            logits = agent.policy(agent.normalizer(torch.from_numpy(observation).unsqueeze(0)))
            observation, _, terminated, truncated, _ = env.step(int(logits.argmax()))
            lengths[-1] += 1
            over = terminated or truncated
    assert run(CARTPOLE, episodes=18) == Evaluation([float(length) for length in lengths], lengths)


def test_samples_differ_from_the_mode_and_follow_the_seed():
    """A fresh policy plays both actions of Chosen about equally often, its mode one per state."""
    env = EnvConfig(id="Chosen-v0")
    mode = run(env, episodes=60)
    samples, again, other = (run(env, episodes=60, seed=seed, stochastic=True) for seed in (0, 0, 1))
    assert set(samples.returns) == {-1.0, 1.0}
    assert samples != mode
    assert samples == again
    assert samples != other


@pytest.mark.parametrize("stochastic", [False, True])
def test_evaluation_touches_neither_the_agent_nor_a_global_generator(stochastic):
    agent = agent_for(CARTPOLE)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    torch_state, numpy_state = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    evaluate(agent, CARTPOLE, episodes=range(3), seed=0, stochastic=stochastic)
    assert all(torch.equal(value, before[name]) for name, value in agent.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert pickle.dumps(np.random.get_state()) == numpy_state


def test_returns_are_raw_whatever_the_reward_scale():
    agent = agent_for(DRAWN)
    agent.reward_scale.moments.variance.fill_(1e4)
    assert evaluate(agent, DRAWN, episodes=range(3), seed=0) == run(DRAWN, episodes=3)


def test_the_environments_own_time_limit_ends_an_episode():
    """Pendulum never terminates; its limit is 200 steps."""
    assert run(EnvConfig(id="Pendulum-v1"), episodes=2).lengths == [200, 200]


def test_an_episode_that_never_ends_is_cut(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_STEPS", 12)
    env = EnvConfig(id="Endless-v0", kwargs={"ending": "never"})
    assert run(env, episodes=3) == Evaluation([12.0] * 3, [12] * 3)


def test_arguments_of_the_environment_are_passed_on():
    """An Endless of period 7 gives a reward of 1 for 7 steps."""
    assert run(EnvConfig(id="Endless-v0", kwargs={"period": 7}), episodes=2) == Evaluation([7.0, 7.0], [7, 7])


def test_figures_are_the_population_moments_of_the_episodes():
    # mean of (1, 2, 6) = 3; variance (4 + 1 + 9) / 3
    figures = Evaluation([1.0, 2.0, 6.0], [10, 20, 60]).figures()
    moments = {"return_mean": 3.0, "return_std": pytest.approx((14 / 3) ** 0.5), "length_mean": 30.0}
    assert figures == moments | {"episodes": 3}


def test_the_backend_of_training_makes_no_difference():
    for backend in ("async", "vector", "envpool"):
        assert run(dataclasses.replace(CARTPOLE, backend=backend)) == run(CARTPOLE)


def test_every_episode_can_be_watched(tmp_path):
    watched = run(CARTPOLE, episodes=2, video=tmp_path / "films")
    files = sorted((tmp_path / "films").glob("*.mp4"))
    assert len(files) == 2
    assert all(file.read_bytes()[4:8] == b"ftyp" for file in files)
    assert watched == run(CARTPOLE, episodes=2)
