"""Raw observations from anybody's hands: every part of one batch, in its shape and of its space, or one line."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from tiny_runs import compose

from trpo.config import UserError
from trpo.sampling.interface import make_interface
from trpo.trained import TrainedAgent
from trpo.trainer import agent_for

PARTS = spaces.Dict(
    numbers=spaces.Box(-1, 1, (3,)),
    index=spaces.Discrete(4, start=2),
    grid=spaces.Box(0, 9, (5, 5, 2), np.uint8),
    pair=spaces.Tuple([spaces.MultiBinary(3), spaces.Dict(deep=spaces.MultiDiscrete([2, 3]))]),
)
MASKED = spaces.Dict({"numbers": spaces.Box(-1, 1, (3,)), "action_mask": spaces.MultiBinary(5)})
TUPLE = spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Dict(deep=spaces.Discrete(3))])
LONG = np.arange(1.0, 100.0, dtype=np.float32)  # which is printed in several lines
SEVERAL = spaces.MultiDiscrete([2, 3])


def agent_of(observed, answered=None, *overrides):
    """An agent of these spaces that never learned."""
    config = compose("env.id=Any-v0", "policy.hidden_sizes=[8]", "critic.hidden_sizes=[8]", *overrides)
    interface = make_interface(observed, answered or spaces.Discrete(3), config.sees)
    agent = agent_for(config, interface).requires_grad_(False)
    return TrainedAgent(agent, config, interface=interface, env_steps=0)


def drawn(space, rows=None):
    """One observation, or a batch of them."""
    whole = space if rows is None else batch_space(space, rows)
    whole.seed(0)
    return whole.sample()


def refused(agent, observation, **options):
    """The one line with which an observation is refused."""
    with pytest.raises(UserError) as caught:
        agent.act(observation, **options)
    (line,) = str(caught.value).splitlines()
    return line


OF_ANOTHER_SHAPE = {
    "a later part of another shape": ({"grid": np.zeros((5, 5))}, "the observation's grid has the shape (5, 5)"),
    "a batch of the first part alone": ({"numbers": np.zeros((2, 3))}, "numbers is a batch of 2, but the obser"),
    "a part that is out of range": (
        {"index": 17},
        "the observation's index is 17, which is none of Discrete(4, start=2)",
    ),
    "a part below its range": ({"index": 1}, "index is 1, which is none of"),
    "a number out of one of several ranges": (
        {"pair": (np.zeros(3, np.int8), {"deep": [2, 0]})},
        "pair.1.deep is [2 0], which is none of",
    ),
    "a number between two": ({"pair": (np.full(3, 0.5), {"deep": [1, 0]})}, "pair.0 has the number 0.5"),
    "bytes that are none": ({"grid": np.full((5, 5, 2), 256)}, "grid has the number 256"),
    "a byte that is NaN": ({"grid": np.full((5, 5, 2), np.nan)}, "grid has the number nan"),
    "a tuple of another length": ({"pair": (np.zeros(3, np.int8),)}, "the observation's pair is no tuple of 2 parts"),
    "a mapping that is none": ({"pair": (np.zeros(3, np.int8), 3)}, "pair.1 is no mapping: its parts are deep"),
    "a nested part that is not there": ({"pair": (np.zeros(3, np.int8), {})}, "pair.1 lacks deep"),
    "rows of several lengths": ({"numbers": [[0, 0, 0], [1, 0]]}, "numbers has rows of several lengths"),
    "no number": ({"numbers": ["a", "b", "c"]}, "is none of its space: could not convert"),
    "nothing": ({"index": None}, "the observation's index has the shape ()"),
}


@pytest.mark.parametrize("name", OF_ANOTHER_SHAPE)
def test_every_part_is_looked_at(name):
    changes, said = OF_ANOTHER_SHAPE[name]
    assert said in refused(agent_of(PARTS), {**drawn(PARTS), **changes})


def test_parts_are_one_batch():
    batch = drawn(PARTS, 3)
    assert agent_of(PARTS).act(batch).shape == (3,)
    line = refused(agent_of(PARTS), {**batch, "index": batch["index"][:2]})
    assert "index is a batch of 2" in line
    assert "a batch of 3" in line


@pytest.mark.parametrize(
    ("observed", "observation", "said"),
    [
        (spaces.Box(-1, 1, (2,)), [[0, 0], [1]], "rows of several lengths"),
        (spaces.Box(-1, 1, (2,)), torch.zeros(2, requires_grad=True), "is none of its space: Can't call numpy"),
        (spaces.Box(-1, 1, (2,)), (np.zeros(2), {}), "env.reset() returns (observation, info)"),
        (TUPLE, ((np.zeros(2), {"deep": 1}), {}), "the observation's 0 has rows of several lengths"),
        (spaces.Text(3, charset="abc"), "xyz", "the observation is xyz, which is none of Text"),
        (spaces.Text(3, charset="abc"), ["ab", "é"], "the observation is é, which is none of Text"),
        (spaces.Text(3, charset="abc"), 3, "the observation is 3, which is no text"),
        (spaces.MultiBinary(40), np.full(40, 2), "which is none of MultiBinary(40)"),
        (spaces.Discrete(3), "one", "the observation has the shape ()"),
        (spaces.Box(-LONG, LONG), np.zeros(7), "has the shape (7,)"),
    ],
)
def test_what_cannot_be_encoded_is_said_in_one_line(observed, observation, said):
    assert said in refused(agent_of(observed), observation)


def test_the_pair_of_a_reset_is_told_from_a_tuple_of_two_parts():
    three = spaces.Tuple([*TUPLE.spaces, spaces.Discrete(2)])
    assert "env.reset() returns" in refused(agent_of(three), (drawn(three), {}))
    assert agent_of(TUPLE).act(drawn(TUPLE)) in range(3)


def test_numbers_of_another_type_are_those_that_they_are():
    agent = agent_of(spaces.MultiBinary((2, 3)))
    given = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert agent.act(given) == agent.act(given.astype(np.int8)) == agent.act(given.tolist())
    assert agent.act(torch.from_numpy(given)) == agent.act(given)
    assert [*agent.act(np.stack([given, 1 - given]))] == [agent.act(given), agent.act(1 - given)]


@pytest.mark.parametrize(
    ("rows", "mask", "said"),
    [
        (None, [1, 0, 1], "the mask action_mask has the shape (3,)"),
        (None, [[1, 0, 1, 0, 0]], "the mask action_mask is a batch of 1, but the observation's numbers is one"),
        (3, [1, 0, 1, 0, 0], "the mask action_mask is one, but the observation's numbers is a batch of 3"),
        (3, np.ones((2, 5)), "the mask action_mask is a batch of 2, but the observation's numbers is a batch of 3"),
        (None, [0, 0, 0, 0, 0], "the mask action_mask allows no action"),
        (None, [1, 1, 0, 0, 0], "the mask action_mask allows no action"),  # in the second dimension
        (2, [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], "the mask action_mask allows no action"),
    ],
)
def test_a_mask_is_of_its_shape_and_allows_something(rows, mask, said):
    seen = drawn(MASKED["numbers"], rows)
    assert said in refused(agent_of(MASKED, SEVERAL), {"numbers": seen}, mask=mask)
    assert said in refused(agent_of(MASKED, SEVERAL), {"numbers": seen, "action_mask": mask})


def test_what_is_true_of_a_mask_is_valid():
    agent, seen = agent_of(MASKED, SEVERAL), {"numbers": np.zeros(3)}
    for mask in ([0, 1, 0, 0, 1], [False, True, False, False, True], [0, 7, 0, 0, 2.0]):
        assert agent.act(seen, mask=mask).tolist() == [1, 2]


ONLY = ("policy.observations=[numbers]", "critic.observations=[numbers,index]")


@pytest.mark.parametrize("memory", [(), ("policy.memory=gru", "critic.memory=gru")], ids=["plain", "memory"])
@pytest.mark.parametrize("rows", [None, 3])
def test_only_what_the_policy_sees_is_asked_for(rows, memory):
    agent, whole = agent_of(PARTS, None, *ONLY, *memory), drawn(PARTS, rows)
    alone = {"numbers": whole["numbers"]}
    expected = agent.predict(whole, deterministic=True)[0]
    np.testing.assert_array_equal(agent.predict(alone, deterministic=True)[0], expected)
    with pytest.raises(UserError, match="lacks numbers"):
        agent.predict({"index": 2})


def test_a_mask_is_asked_for_beside_what_the_policy_sees():
    both = spaces.Dict({**MASKED.spaces, "other": spaces.Discrete(3, start=1)})
    agent = agent_of(both, SEVERAL, "policy.observations=[numbers]", "critic.observations=[other]")
    assert agent.act({"numbers": np.zeros(3)}, mask=[1, 0, 0, 0, 1]).tolist() == [0, 2]
    assert "which actions are valid" in refused(agent, {"numbers": np.zeros(3)})


def test_what_the_policy_does_not_see_changes_nothing():
    agent = agent_of(PARTS, None, *ONLY)
    seen = drawn(PARTS)
    actions = {int(agent.act({**seen, "index": index})) for index in (2, 3, 4, 5, 17, None)}
    assert len(actions) == 1


MEMORY = ("policy.memory=gru", "policy.memory_inputs=[action,reward]")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reward": np.zeros(2)}, "the reward has the shape (2,): it is one, or one for each of 3"),
        ({"reward": np.zeros((3, 1))}, "the reward has the shape (3, 1)"),
        ({"reward": "much"}, "the reward is no number"),
        ({"reward": 0.0, "episode_start": [True, False]}, "episode_start has the shape (2,)"),
        ({"reward": 0.0, "state": (1, 2)}, "state must be what predict returned a step before"),
        ({"reward": 0.0, "state": "of one"}, "state must be what predict returned a step before, of as many"),
    ],
)
def test_what_goes_with_an_observation_is_of_its_batch(options, said):
    agent, seen = agent_of(spaces.Box(-1, 1, (2,)), None, *MEMORY), np.zeros((3, 2))
    state = agent.predict(seen)[1]
    if options.get("state") == "of one":
        options = {**options, "state": agent.predict(seen[0])[1]}
    with pytest.raises(UserError) as caught:
        agent.predict(seen, **{"state": state, **options})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert agent.predict(seen, state, np.array([True, False, True]), reward=np.zeros(3))[0].shape == (3,)
