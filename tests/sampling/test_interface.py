import numpy as np
import pytest
import torch
from gymnasium import spaces

from trpo.config import UserError
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.models.observations import Kind, Leaf
from trpo.sampling.encoding import make_encoder
from trpo.sampling.interface import decoder_for, in_numpy, make_interface

LARGEST = float(np.finfo(np.float32).max)


def box(low, high, dtype=np.float32):
    return spaces.Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


def make_decoder(space):
    """Return the distribution of an action space, and what makes its samples an environment's actions."""
    distribution, decoder = decoder_for(space)
    return distribution, in_numpy(decoder)


# Observations


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 3, 2), (2, 3, 4, 5, 6)])
def test_a_box_of_any_shape_is_flattened_in_row_major_order(shape):
    space = spaces.Box(-1, 1, shape, np.float32, seed=0)
    batch = np.stack([space.sample() for _ in range(5)])
    leaf, encode = make_encoder(space)
    encoded = encode(batch)
    assert (encoded.shape, encoded.dtype) == ((5, *leaf.kept), torch.float32)
    assert (leaf.kind, leaf.shape, leaf.kept) == (Kind.VECTOR, shape, (int(np.prod(shape)),))
    for row, observation in zip(encoded, batch, strict=True):
        assert row.tolist() == list(np.ravel(observation))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_box_observations_of_other_types_become_float32(dtype):
    _, encode = make_encoder(spaces.Box(0, 255, (2,), dtype))
    encoded = encode(np.array([[0, 255], [7, 128]], dtype=dtype))
    assert encoded.dtype == torch.float32
    assert encoded.tolist() == [[0, 255], [7, 128]]


def test_an_encoded_observation_does_not_follow_the_environments_buffer():
    _, encode = make_encoder(spaces.Box(-1, 1, (2,), np.float32))
    buffer = np.zeros((3, 2), dtype=np.float32)
    encoded = encode(buffer)
    buffer += 1
    assert encoded.eq(0).all()


@pytest.mark.parametrize("start", [0, 5, -2])
def test_discrete_observations_are_one_hot_from_where_they_count(start):
    leaf, encode = make_encoder(spaces.Discrete(3, start=start))
    assert leaf == Leaf(Kind.ONE_HOT, (3,))
    assert encode(np.array([start + 2, start, start + 1])).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]


def test_a_list_of_single_observations_is_a_batch_too():
    """Evaluation hands over what it has from each environment."""
    _, encode = make_encoder(spaces.Discrete(3, start=1))
    assert encode([3, 1]).tolist() == [[0, 0, 1], [1, 0, 0]]
    _, encode = make_encoder(spaces.Box(-1, 1, (1, 2), np.float32))
    assert encode([np.array([[1, 2]]), np.array([[3, 4]])]).tolist() == [[1, 2], [3, 4]]


def test_only_discrete_observations_are_one_hot():
    action = spaces.Discrete(2)
    assert make_interface(spaces.Discrete(4), action).observations.kind is Kind.ONE_HOT
    assert make_interface(spaces.Box(-1, 1, (4,)), action).observations.kind is Kind.VECTOR


# Actions: the distribution that goes with a space, and the way back

DISTRIBUTIONS = [
    (spaces.Discrete(4), Categorical((4,))),
    (spaces.Discrete(3, start=-1), Categorical((3,))),
    (spaces.MultiDiscrete([2, 3, 4]), Categorical((2, 3, 4))),
    (spaces.MultiDiscrete([[2, 3], [4, 5]]), Categorical((2, 3, 4, 5))),
    (spaces.MultiBinary(3), Bernoulli(3)),
    (spaces.MultiBinary((2, 3)), Bernoulli(6)),
    (spaces.Box(-1, 1, (2,)), DiagonalGaussian(2)),
    (spaces.Box(-1, 1, (2, 3)), DiagonalGaussian(6)),
    (spaces.Box(-1, 1, ()), DiagonalGaussian(1)),
]


@pytest.mark.parametrize(("space", "expected"), DISTRIBUTIONS, ids=str)
def test_an_action_space_has_its_distribution(space, expected):
    assert make_decoder(space)[0] == expected


@pytest.mark.parametrize("start", [0, 1, -3, 100])
def test_discrete_actions_count_from_the_start_of_the_space(start):
    _, decode = make_decoder(spaces.Discrete(3, start=start))
    assert decode(torch.tensor([[0.0], [2.0], [1.0]])).tolist() == [start, start + 2, start + 1]


def test_multidiscrete_actions_keep_their_shape_and_start():
    _, decode = make_decoder(spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 10], [20, -5]]))
    assert decode(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).tolist() == [[[1, 12], [23, -1]]]


def test_multibinary_actions_keep_their_shape():
    _, decode = make_decoder(spaces.MultiBinary((2, 3)))
    assert decode(torch.tensor([[1.0, 0, 0, 1, 1, 0]])).tolist() == [[[1, 0, 0], [1, 1, 0]]]


# (low, high, policy action, what the environment gets): centre + half range · a inside finite bounds, clipped there
BOXES = [
    (-1.0, 1.0, 0.5, 0.5),
    (-0.4, 0.4, 0.5, 0.2),
    (0.0, 10.0, -1.0, 0.0),
    (0.0, 10.0, 0.2, 6.0),
    (0.0, 10.0, 3.0, 10.0),
    (-8.0, -4.0, -1.5, -8.0),
    (2.0, 2.0, 0.7, 2.0),
    (-np.inf, np.inf, 37.0, 37.0),
    (-LARGEST, LARGEST, 37.0, 37.0),  # somebody's way to write infinity
    (0.0, np.inf, 37.0, 37.0),  # half-bounded: own units, clipped on the bounded side
    (0.0, np.inf, -2.0, 0.0),
    (-np.inf, 5.0, -37.0, -37.0),
    (-np.inf, 5.0, 6.0, 5.0),
    (0.0, LARGEST, 37.0, 37.0),
]


@pytest.mark.parametrize(("low", "high", "action", "expected"), BOXES)
def test_a_box_action_is_mapped_to_finite_bounds_and_clipped(low, high, action, expected):
    _, decode = make_decoder(box([low], [high]))
    assert decode(torch.tensor([[action]])).item() == pytest.approx(expected, rel=1e-6)


def test_every_dimension_of_a_box_has_its_own_units():
    low, high, action, expected = (np.array(column) for column in zip(*BOXES, strict=True))
    _, decode = make_decoder(box(low, high))
    decoded = decode(torch.from_numpy(action).float().unsqueeze(0))
    np.testing.assert_allclose(decoded[0], expected, rtol=1e-6)


def test_an_unbounded_float64_box_keeps_its_units():
    _, decode = make_decoder(box([-np.finfo(np.float64).max], [np.finfo(np.float64).max], np.float64))
    assert decode(torch.tensor([[37.0]])).item() == 37.0


def test_decoding_leaves_the_sampled_action_alone():
    _, decode = make_decoder(box([0.0], [1.0]))
    action = torch.tensor([[5.0]])
    decode(action)
    assert action.item() == 5.0


CONTAINED = [
    spaces.Discrete(4),
    spaces.Discrete(4, start=7),
    spaces.Discrete(4, start=-7, dtype=np.int32),
    spaces.MultiDiscrete([3, 5]),
    spaces.MultiDiscrete([3, 5], start=[-2, 9]),
    spaces.MultiDiscrete([[3, 5], [2, 2]], dtype=np.int32),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
    box([-0.4, 0.1], [0.4, 0.7]),
    box([-0.4, 0.1], [0.4, 0.7], np.float64),
    box([-0.4, 0.1], [0.4, 0.7], np.float16),
    spaces.Box(-0.1, 0.3, (2, 3)),
    box([0.0, -np.inf, -np.inf], [np.inf, 0.3, np.inf]),
    box([-0.1, -np.inf], [np.inf, 0.1], np.float64),  # bounds that float32 does not have
]


@pytest.mark.parametrize("space", CONTAINED, ids=str)
def test_every_decoded_action_is_contained_in_the_space(space):
    distribution, decode = make_decoder(space)
    generator = torch.Generator().manual_seed(0)
    parameters = 3 * torch.randn(200, distribution.parameter_size, generator=generator)
    actions = decode(distribution.sample(parameters, distribution.noise(len(parameters), generator)))
    assert len(actions) == 200
    assert all(space.contains(action) for action in actions)


@pytest.mark.parametrize("space", CONTAINED[:8], ids=str)
def test_every_action_of_a_finite_space_can_be_reached(space):
    distribution, decode = make_decoder(space)
    generator = torch.Generator().manual_seed(0)
    parameters = torch.zeros(2000, distribution.parameter_size)
    actions = decode(distribution.sample(parameters, distribution.noise(2000, generator)))
    reached = {action.tobytes() for action in actions}
    assert len(reached) == number_of_actions(space)


def number_of_actions(space):
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(np.prod(space.nvec)) if isinstance(space, spaces.MultiDiscrete) else 2 ** int(np.prod(space.shape))


UNSUPPORTED_OBSERVATIONS = [
    spaces.Sequence(spaces.Discrete(2)),
    spaces.Graph(spaces.Discrete(2), None),
    spaces.OneOf([spaces.Discrete(2), spaces.Box(0.0, 1.0, (2,))]),
]
UNSUPPORTED_ACTIONS = [
    spaces.Dict({"a": spaces.Discrete(2)}),
    spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)]),
    spaces.Box(0, 5, (2,), np.int64),
    spaces.Text(8),
    spaces.Box(-1.0, 1.0, (0,)),
]


@pytest.mark.parametrize("space", UNSUPPORTED_OBSERVATIONS, ids=str)
def test_an_unsupported_observation_space_is_named(space):
    with pytest.raises(UserError) as error:
        make_interface(space, spaces.Discrete(2))
    assert f"observation space {space}" in str(error.value)
    with pytest.raises(UserError) as error:
        make_interface(spaces.Dict({"a": spaces.Discrete(2), "b": space}), spaces.Discrete(2))
    assert f"observation space {space}" in str(error.value)


@pytest.mark.parametrize("space", UNSUPPORTED_ACTIONS, ids=str)
def test_an_unsupported_action_space_is_named(space):
    with pytest.raises(UserError) as error:
        make_interface(spaces.Discrete(2), space)
    assert f"action space {space}" in str(error.value)
