"""Raw observations encoded in torch, against the encoders that training uses, on thousands of rows."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from trpo.models.observations import MASK, leaves_of, named
from trpo.sampling.inputs import InputEncoder, drawn, input_name
from trpo.sampling.interface import make_interface

ROWS = 5_000
SPACES = [
    spaces.Box(-1e4, 1e4, (3,)),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Box(-5, 5, (2, 3), np.float16),
    spaces.Box(-(2**40), 2**40, (2,), np.int64),
    spaces.Box(0, 255, (7,), np.uint8),
    spaces.Box(0, 1, (3, 4, 5), np.bool_),
    spaces.Box(0, 9, (3, 4, 5), np.int32),
    spaces.Box(0, 255, (36, 36), np.uint8),
    spaces.Discrete(7, start=-3),
    spaces.Discrete(2, dtype=np.int32),
    spaces.MultiDiscrete([3, 1, 4], start=[0, 5, -2]),
    spaces.MultiDiscrete([[2, 2], [3, 5]], dtype=np.int32),
    spaces.MultiBinary(6),
    spaces.MultiBinary((2, 3)),
    spaces.Dict(b=spaces.Discrete(3), a=spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.MultiBinary(2)])),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_rows_are_encoded_to_the_bits_of_training(space):
    interface = make_interface(space, spaces.Discrete(2))
    batch = batch_space(space, ROWS)
    batch.seed(0)
    raw = batch.sample()
    encoder = InputEncoder(interface, [*named(interface.observations)])
    leaves, expected = encoder(encoder.inputs(raw)), leaves_of(interface.encode(raw))
    assert leaves.keys() == expected.keys()
    for name, leaf in leaves.items():
        assert (leaf.dtype, leaf.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(leaf, expected[name])


def test_a_number_that_is_none_of_its_space_is_seen_as_none():
    encoder = InputEncoder(make_interface(spaces.Discrete(3, start=1), spaces.Discrete(2)), ["observation"])
    assert encoder({"observation": torch.tensor([0, 4])})["observation"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_no_input_can_be_called_as_a_step_within_is():
    assert [input_name(part) for part in ("observation", MASK)] == ["observation", MASK]
    assert [input_name(part) for part in ("action", "arm.goal", "0")] == [
        "observation.action",
        "observation.arm.goal",
        "observation.0",
    ]


@pytest.mark.parametrize("dtype", [np.int8, np.float32])
def test_drawn_masks_leave_a_valid_action_in_every_dimension(dtype):
    mask = spaces.MultiBinary(5) if dtype is np.int8 else spaces.Box(0, 0, (5,))  # a space that says nothing is valid
    parts = spaces.Dict({"numbers": spaces.Box(-1, 1, (2,)), MASK: mask})
    interface = make_interface(parts, spaces.MultiDiscrete([2, 3]))
    raw = drawn(interface, 300, seed=0)
    assert raw[MASK].dtype == dtype
    assert (raw[MASK][:, :2].sum(axis=1) >= 1).all()
    assert (raw[MASK][:, 2:].sum(axis=1) >= 1).all()
    np.testing.assert_array_equal(drawn(interface, 300, seed=0)["numbers"], raw["numbers"])
    assert (drawn(interface, 300, seed=1)["numbers"] != raw["numbers"]).all()
