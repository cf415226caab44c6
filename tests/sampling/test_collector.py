import gymnasium
import numpy as np
import probes
import pytest
import scipy.signal
import torch

from trpo.batch import make_batch
from trpo.config import Config, CriticConfig, EnvConfig, NormalizeConfig, PolicyConfig
from trpo.models.agent import make_agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.observations import Kind, Leaf
from trpo.numerics.advantages import gae
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.system import seeds

BACKENDS = ["sync", "async", "vector"]
ENVS = 3
STEPS = 24
GAMMA, LAM = 0.9, 0.8
T, C, X = probes.TERMINATE, probes.TRUNCATE, probes.END_BOTH  # the third ends as both

# One column per environment; fractions only steer. Ends follow each other at once, fall together, and one episode
# spans nearly the whole script.
# fmt: off
SCRIPT = torch.tensor([
    [.25, .5, .125, T, .5, C, C, .25, X, .5, .25, .125, T, .5, .5, .25, C, .25, .5, T, .125, .5, .25, C],
    [.5, .25, C, .5, .25, .125, .5, .25, T, T, T, .5, .25, X, .5, .25, .125, .5, .25, C, .5, .25, .5, T],
    [.125, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, .5, .25, T, .5],
]).T
# fmt: on


def make_scripted_agent():
    config = Config(
        env=EnvConfig(num_envs=ENVS),
        policy=PolicyConfig(hidden_sizes=(8,)),
        critic=CriticConfig(hidden_sizes=(8,)),
        normalize=NormalizeConfig(observations=False, rewards=False),
    )
    agent = make_agent(config, observations=Leaf(Kind.VECTOR, (6,)), distribution=DiagonalGaussian(1))
    with torch.no_grad():
        agent.critic.network[0].weight[:, probes.WHO] = 0.0  # a large number, and another one on every backend
    return probes.ScriptedAgent(agent, torch.cat([SCRIPT, SCRIPT]))  # some run on while others spend rows on resets


@pytest.fixture
def collect():
    """Return a function that collects rollouts of `rows` rows each until `total` rows are there."""
    made = []

    def function(backend, *, rows, total):
        made.append(Environments(EnvConfig(id="Counting-v0", num_envs=ENVS, backend=backend), seed=0))
        collector = Collector(made[-1], steps=rows, generator=torch.Generator())
        agent = make_scripted_agent()
        return agent, [collector.collect(agent) for _ in range(total // rows)]

    yield function
    for environments in made:
        environments.close()


def walk(env_index):
    """Play a column of the script on one plain environment: rows of (seen, action, reward, next, ended how)."""
    env = gymnasium.make("Counting-v0")
    observation, _ = env.reset(seed=0)
    rows = []
    for action in SCRIPT[:, env_index].tolist():
        following, reward, terminated, truncated, _ = env.step(np.array([action], dtype=np.float32))
        rows.append((observation, action, reward, following, terminated, truncated))
        observation = env.reset()[0] if terminated or truncated else following
    return rows


def column(rollouts, name, env_index):
    """Return one environment's valid rows of a field, over all rollouts."""
    return torch.cat([getattr(rollout, name)[:, env_index][rollout.valid[:, env_index]] for rollout in rollouts])


# Vector rollouts are longer: a reset costs them a row, at most as many as there are ends in a column.
ROWS = {"sync": 24, "async": 24, "vector": 36}


@pytest.mark.parametrize("splits", [1, 2, 12])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_takes_the_transitions_of_a_single_environment(collect, backend, splits):
    _, rollouts = collect(backend, rows=ROWS[backend] // splits, total=ROWS[backend])
    for i in range(ENVS):
        seen, actions, rewards, _, terminated, truncated = (np.stack(part) for part in zip(*walk(i), strict=True))
        observations = column(rollouts, "observations", i)[:STEPS]
        np.testing.assert_array_equal(observations[:, 1:], seen[:, 1:])
        np.testing.assert_array_equal(column(rollouts, "actions", i)[:STEPS, 0], actions.astype(np.float32))
        np.testing.assert_array_equal(column(rollouts, "rewards", i)[:STEPS], rewards.astype(np.float32))
        np.testing.assert_array_equal(column(rollouts, "terminated", i)[:STEPS], terminated)
        np.testing.assert_array_equal(column(rollouts, "truncated", i)[:STEPS], truncated)


@pytest.mark.parametrize("backend", ["sync", "async"])
def test_every_observation_is_of_its_environment_and_episode(collect, backend):
    _, (rollout,) = collect(backend, rows=STEPS, total=STEPS)
    for i in range(ENVS):
        for row in rollout.observations[:, i]:
            seed = seeds.integer(0, seeds.Role.ENVIRONMENTS, i, int(row[probes.EPISODE]))
            assert row[probes.WHO] == seed % 2**16


def test_columns_of_a_vector_entry_point_belong_to_different_environments(collect):
    """Gymnasium seeds environment i with seed + i, once."""
    _, (rollout,) = collect("vector", rows=STEPS, total=STEPS)
    who = seeds.integer(0, seeds.Role.ENVIRONMENTS, 0) % 2**16
    assert rollout.observations[..., probes.WHO].unique(dim=0).tolist() == [[who, who + 1, who + 2]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_final_observations_are_those_that_truncated_rows_ended_in(collect, backend):
    _, (rollout,) = collect(backend, rows=20, total=20)
    truncated = rollout.truncated.nonzero().tolist()
    assert len(truncated) == len(rollout.final_observations) >= 5
    for (t, env), final in zip(truncated, rollout.final_observations, strict=True):
        seen, action = rollout.observations[t, env], rollout.actions[t, env, 0]
        # who, episode, step + 1, clock + 1, position + action, over
        expected = [*seen[:2], seen[2] + 1, seen[3] + 1, seen[4] + action, 1.0]
        assert final.tolist() == [float(number) for number in expected]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_advantages(collect, backend):
    """Where the script ends an episode, nothing after it matters: all rows up to the last end are comparable."""
    agent, (rollout,) = collect(backend, rows=ROWS[backend], total=ROWS[backend])
    batch = make_batch(agent, rollout, gamma=GAMMA, lam=LAM, normalize=False)
    advantages = torch.zeros(rollout.valid.shape).masked_scatter(rollout.valid, batch.advantages)
    for i in range(ENVS):
        seen, _, rewards, following, terminated, truncated = (
            torch.from_numpy(np.stack(part)) for part in zip(*walk(i), strict=True)
        )
        with torch.no_grad():
            values, next_values = agent.critic(seen), agent.critic(following)
        parts = (rewards.float(), values, next_values, terminated, truncated)
        expected = gae(*(part.unsqueeze(-1) for part in parts), gamma=GAMMA, lam=LAM).squeeze(-1)
        until = 1 + int((terminated | truncated).nonzero().max())
        actual = advantages[:, i][rollout.valid[:, i]][:until]
        torch.testing.assert_close(actual, expected[:until], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_steps_of_an_episode_are_counted_and_batched(collect, backend):
    """`over` is 1 in the rows that a reset takes, and in no other: the batch must not have seen one."""
    agent, (rollout,) = collect(backend, rows=20, total=20)
    resets = int(rollout.observations[..., probes.OVER].sum())
    assert resets == (0 if backend != "vector" else int((~rollout.valid).sum()))
    batch = make_batch(agent, rollout, gamma=GAMMA, lam=LAM, normalize=True)
    assert rollout.size == 20 * ENVS - resets == len(batch.observations)
    assert batch.observations[:, probes.OVER].eq(0).all()


def expected_episodes(i):
    """Return (return, length) of the scripted episodes of one environment, by adding up."""
    episodes, total, length = [], 0.0, 0
    for _, _, reward, _, terminated, truncated in walk(i):
        total, length = total + reward, length + 1
        if terminated or truncated:
            episodes.append((total, length))
            total, length = 0.0, 0
    return episodes


@pytest.mark.parametrize("rows", [1, 5, 24])
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_episode_returns_and_lengths_run_across_rollouts(collect, backend, rows):
    _, rollouts = collect(backend, rows=rows, total=STEPS)
    played = len(rollouts) * rows
    lengths = [length for rollout in rollouts for length in rollout.episode_lengths]
    returns = [total for rollout in rollouts for total in rollout.episode_returns]
    expected = []
    for i in range(ENVS):
        until = np.cumsum([length for _, length in expected_episodes(i)])
        expected += [episode for episode, end in zip(expected_episodes(i), until, strict=True) if end <= played]
    assert sorted(zip(returns, lengths, strict=True)) == sorted(expected)


@pytest.mark.parametrize("rows", [1, 6, 36])
def test_reset_rows_add_nothing_to_returns_and_lengths(collect, rows):
    _, rollouts = collect("vector", rows=rows, total=36)
    episodes = [
        episode
        for rollout in rollouts
        for episode in zip(rollout.episode_returns, rollout.episode_lengths, strict=True)
    ]
    for i in range(ENVS):
        assert all(episode in episodes for episode in expected_episodes(i))


def test_a_rollout_reports_an_episode_when_it_ends(collect):
    """Environment 0 ends at steps 4, 6, 7, 9 (from 1), environment 1 at 3 and 9, environment 2 not yet."""
    _, rollouts = collect("sync", rows=3, total=9)
    assert [rollout.episode_lengths for rollout in rollouts] == [[3], [4, 2], [1, 2, 6]]
    assert [rollout.figures()["episodes"] for rollout in rollouts] == [1, 2, 3]


def test_collecting_asks_the_agent_for_actions_and_nothing_else(collect):
    agent, _ = collect("sync", rows=4, total=4)
    environments = Environments(EnvConfig(id="Counting-v0", num_envs=ENVS), seed=0)
    agent.critic.forward = None  # calling it would raise
    Collector(environments, steps=4, generator=torch.Generator()).collect(agent)
    environments.close()


def test_sampled_actions_come_from_the_collectors_generator():
    config = Config(env=EnvConfig(id="Counting-v0", num_envs=ENVS))
    agent = make_agent(config, observations=Leaf(Kind.VECTOR, (6,)), distribution=DiagonalGaussian(1))
    actions = []
    for seed in (1, 1, 2):
        environments = Environments(config.env, seed=0)
        collector = Collector(environments, steps=5, generator=torch.Generator().manual_seed(seed))
        actions.append(collector.collect(agent).actions)
        environments.close()
    assert torch.equal(actions[0], actions[1])
    assert not torch.equal(actions[0], actions[2])


def collect_noise(*, rho, steps, generator_seed=0, state=None):
    """Return the noise (T, B) that an agent with mean 0 and σ = 1 acts by, and the collector's state after it."""
    config = Config(env=EnvConfig(id="Counting-v0", num_envs=ENVS), policy=PolicyConfig(initial_log_std=0.0))
    agent = make_agent(config, observations=Leaf(Kind.VECTOR, (6,)), distribution=DiagonalGaussian(1))
    torch.nn.init.zeros_(agent.policy.network[-1].weight)
    environments = Environments(config.env, seed=0)
    generator = torch.Generator().manual_seed(generator_seed)
    collector = Collector(environments, steps=steps, generator=generator, noise_correlation=rho)
    if state is not None:
        collector.restore(state)
    rollout, after = collector.collect(agent), collector.state()
    environments.close()
    return rollout.actions.squeeze(-1), after


@pytest.mark.parametrize("rho", [0.5, 0.9])
def test_correlated_noise_is_the_filtered_white_noise(rho):
    white = collect_noise(rho=0.0, steps=50)[0].double().numpy()
    forced = np.vstack([white[:1], np.sqrt(1 - rho**2) * white[1:]])
    filtered = scipy.signal.lfilter([1.0], [1.0, -rho], forced, axis=0)
    np.testing.assert_allclose(collect_noise(rho=rho, steps=50)[0], filtered, atol=2e-6)


@pytest.mark.slow
def test_correlated_noise_is_standard_normal_at_every_step():
    rho, steps = 0.8, 20_000
    noise = collect_noise(rho=rho, steps=steps)[0].double()
    # Correlated samples count for less: by (1 − ρ)/(1 + ρ) in a mean, by that of ρ² in a mean of squares. Five errors.
    independent = [steps * ENVS * (1 - r) / (1 + r) for r in (rho, rho**2)]
    assert abs(noise.mean()) < 5 / independent[0] ** 0.5
    assert abs(noise.var() - 1) < 5 * (2 / independent[1]) ** 0.5
    assert abs((noise[3:] * noise[:-3]).mean() - rho**3) < 0.05
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 0.05  # every environment has its own


def test_correlated_noise_goes_on_from_a_saved_state():
    whole, _ = collect_noise(rho=0.8, steps=20)
    first, state = collect_noise(rho=0.8, steps=8)
    second, _ = collect_noise(rho=0.8, steps=12, generator_seed=1, state=state)
    assert torch.equal(torch.cat([first, second]), whole)


def test_a_state_from_before_there_was_a_correlation_is_taken():
    first, state = collect_noise(rho=0.0, steps=8)
    del state["noise"]
    second, _ = collect_noise(rho=0.0, steps=12, generator_seed=1, state=state)
    assert torch.equal(torch.cat([first, second]), collect_noise(rho=0.0, steps=20)[0])


def test_collecting_leaves_the_number_of_torch_threads_as_it_was(collect):
    torch.set_num_threads(2)
    collect("sync", rows=2, total=2)
    assert torch.get_num_threads() == 2
