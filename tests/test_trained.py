"""A trained agent in anybody's hands: loaded without an environment, asked for actions one by one and in batches."""

import sys

import gymnasium
import numpy as np
import probes
import pytest
import torch
from gymnasium import spaces
from test_observation_runs import MARKED
from tiny_runs import TINY, agent_of, checkpoints, compose, process

import trpo
from trpo.commands.train import train
from trpo.config import UserError
from trpo.keys import nested
from trpo.models.observations import MASK
from trpo.record import checkpoint
from trpo.sampling.description import described, space_of
from trpo.sampling.making import make_env

SHORT = ("run.total_steps=64", "run.evaluation_episodes=0")
ENVIRONMENTS = {
    "Box from a vector": ["env.id=Pendulum-v1"],
    "Discrete from a vector": ["env.id=CartPole-v1"],
    "MultiDiscrete": ["env.id=probes:Counting-v0"],
    "Discrete from one-hot": ["env.id=FrozenLake-v1"],
    "Box from a picture": ["env.id=probes:Pictured-v0"],
    "Discrete from a grid, masked": [MARKED],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tiny run of each environment, made when it is first asked for."""
    made = {}

    def run_of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("library") / "run"
            assert train([*TINY, *SHORT, *ENVIRONMENTS[name], f"hydra.run.dir={made[name]}"]) == 0
        return made[name]

    return run_of


def observed(config, count):
    """Raw observations and infos of an environment as it comes."""
    env = gymnasium.make(config.id, disable_env_checker=True, **config.kwargs)
    seen = [env.reset(seed=seed) for seed in range(count)]
    env.close()
    return seen


def batched(observations):
    if isinstance(observations[0], dict):
        return {name: np.stack([one[name] for one in observations]) for name in observations[0]}
    return np.stack(observations)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_its_actions_are_those_of_the_agent_that_was_trained(name, runs):
    run = runs(name)
    config = compose(*TINY, *SHORT, *ENVIRONMENTS[name])
    agent, loaded = agent_of(config, checkpoints(run)[-1]), trpo.load(run)
    seen = observed(config.env, 5)
    masks = [info.get(MASK) for _, info in seen]
    expected_of = make_env(config.env)
    rows = loaded.interface.encode(
        [
            {**one, MASK: mask} if mask is not None and isinstance(one, dict) else one
            for (one, _), mask in zip(seen, masks, strict=True)
        ]
    )
    expected = loaded.interface.decode(agent.actor()(rows, None))
    for (observation, _), mask, action in zip(seen, masks, expected, strict=True):
        given = loaded.act(observation, mask=mask)
        np.testing.assert_allclose(given, action, rtol=1e-5, atol=1e-6)  # a pass over five rows rounds otherwise
        assert expected_of.action_space.contains(given)
    many = loaded.act(batched([one for one, _ in seen]), mask=None if masks[0] is None else np.stack(masks))
    np.testing.assert_array_equal(many, expected)
    expected_of.close()


def test_no_environment_is_made_and_none_need_be_there(runs, tmp_path):
    """Another working directory, where `probes` cannot be imported."""
    code = (
        "import sys, numpy as np, trpo\n"
        "agent = trpo.load(sys.argv[1])\n"
        "print(agent.act(np.zeros(6, dtype=np.float32)), 'probes' in sys.modules, agent.config.env.id)"
    )
    ended = process(sys.executable, "-c", code, runs("MultiDiscrete"), cwd=tmp_path)
    assert ended.stdout.split()[-2:] == ["False", "probes:Counting-v0"], ended.stderr


def test_samples_come_from_the_seed_and_differ_from_the_mode(runs):
    run = runs("Box from a vector")
    one, same, other = trpo.load(run, seed=3), trpo.load(run, seed=3), trpo.load(run, seed=4)
    seen = np.ones(3, dtype=np.float32)
    first = [one.act(seen, stochastic=True).item() for _ in range(5)]
    assert first == [same.act(seen, stochastic=True).item() for _ in range(5)]
    assert first != [other.act(seen, stochastic=True).item() for _ in range(5)]
    assert len({*first, one.act(seen).item()}) == 6


def test_predict_has_the_signature_of_stable_baselines(runs):
    agent = trpo.load(runs("Discrete from a vector"))
    seen = np.zeros(4, dtype=np.float32)
    action, state = agent.predict(seen, state=None, episode_start=None, deterministic=True)
    assert (action, state) == (agent.act(seen), None)
    assert {int(agent.predict(seen)[0]) for _ in range(50)} == {0, 1}  # samples by default, as there


def test_a_checkpoint_can_be_named_and_no_gradient_is_kept(runs):
    (*_, file) = checkpoints(runs("Box from a vector"))
    agent = trpo.load(file)
    assert (agent.env_steps, agent.config.env.id) == (64, "Pendulum-v1")
    assert not any(parameter.requires_grad for parameter in agent.agent.parameters())


GRID = np.zeros((3, 5, 2))
REFUSED = [
    ("Discrete from a vector", (np.zeros(4), {}), {}, r"env.reset\(\) returns"),
    ("Discrete from a vector", np.zeros(5), {}, r"has the shape \(5,\).*\(4,\)"),
    ("Discrete from a vector", np.zeros((2, 2, 4)), {}, "has the shape"),
    ("Discrete from a vector", np.zeros(4), {"mask": [1, 1]}, "without masks"),
    (
        "Discrete from a grid, masked",
        {"grid": np.zeros((3, 5, 2)), "clock": np.zeros(1)},
        {},
        "which actions are valid",
    ),
    ("Discrete from a grid, masked", {"grid": np.zeros((3, 5, 2))}, {"mask": np.ones(5)}, "lacks clock"),
    ("Box from a picture", np.zeros(3), {}, "is no mapping: its parts are picture, speed"),
]


@pytest.mark.parametrize(("name", "observation", "options", "said"), REFUSED)
def test_what_is_no_observation_is_said_in_one_line(name, observation, options, said, runs):
    with pytest.raises(UserError, match=said):
        trpo.load(runs(name)).act(observation, **options)


def test_what_is_no_agent_is_said_in_one_line(runs, tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        trpo.load(tmp_path / "nothing.pt")
    with pytest.raises(UserError):
        trpo.load(tmp_path)
    state = checkpoint.load(checkpoints(runs("Discrete from a vector"))[-1])
    earlier = {name: value for name, value in state.items() if name not in ("spaces", "format_version")}
    checkpoint.save(tmp_path / "earlier.pt", earlier)
    with pytest.raises(UserError, match="earlier version"):
        trpo.load(tmp_path / "earlier.pt")
    with pytest.raises(UserError, match="unknown keys new"):
        nested({**state["config"], "new": 1})


def test_importing_the_package_does_not_import_gymnasium():
    code = "import sys, trpo; print('gymnasium' in sys.modules, trpo.load.__name__)"
    assert process(sys.executable, "-c", code, cwd=".").stdout.split() == ["False", "load"]
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        trpo.laod  # noqa: B018


SPACES = [
    spaces.Box(-1, 1, (2, 3)),
    spaces.Box(0, 255, (4, 4), np.uint8),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Box(-(2**62) - 1, 2**62 + 1, (2,), np.int64),
    spaces.Discrete(5, start=-2),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiBinary(3),
    spaces.MultiBinary((2, 2)),
    spaces.Text(5, min_length=2, charset="abc"),
    spaces.Dict(b=spaces.Discrete(2), a=spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Discrete(3)])),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_space_comes_back_from_plain_data(space, tmp_path):
    torch.save(described(space), tmp_path / "space.pt")
    back = space_of(torch.load(tmp_path / "space.pt", weights_only=True))
    assert back == space
    assert back.dtype == space.dtype
    assert type(back) is type(space)


def test_a_space_that_no_agent_can_have_is_refused():
    with pytest.raises(UserError, match="Sequence"):
        described(spaces.Sequence(probes.spaces.Discrete(2)))
