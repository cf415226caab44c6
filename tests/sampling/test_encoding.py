"""From spaces to leaves: which part is what by rule, kept in its own type, and which masks are refused."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from trpo.config import UserError
from trpo.models.observations import MASK, Kind, Leaf, leaves_of
from trpo.sampling.encoding import make_encoder
from trpo.sampling.interface import make_interface
from trpo.sampling.making import check_unmasked

BYTES = {"low": 0, "high": 255, "dtype": np.uint8}


@pytest.mark.parametrize(
    ("space", "kind", "dtype"),
    [
        (spaces.Box(shape=(84, 84), **BYTES), "image", torch.uint8),
        (spaces.Box(shape=(4, 84, 84), **BYTES), "image", torch.uint8),
        (spaces.Box(shape=(36, 40, 3), **BYTES), "image", torch.uint8),
        (spaces.Box(shape=(2, 36, 40, 3), **BYTES), "image", torch.uint8),
        (spaces.Box(shape=(35, 40, 3), **BYTES), "grid", torch.uint8),  # too small for a picture
        (spaces.Box(shape=(7, 7, 3), **BYTES), "grid", torch.uint8),  # MiniGrid's, of indices
        (spaces.Box(0, 1, (10, 10, 4), np.bool_), "grid", torch.uint8),  # MinAtar's
        (spaces.Box(0, 10, (40, 40, 3), np.uint8), "grid", torch.uint8),  # bytes, but not of brightness
        (spaces.Box(0.0, 1.0, (12, 12, 5), np.float32), "grid", torch.float32),  # Snake's
        (spaces.Box(0, 9, (6, 6, 2), np.int32), "grid", torch.float32),
        (spaces.Box(0, 2048, (4, 4), np.int32), "vector", torch.float32),  # one board
        (spaces.Box(shape=(128,), **BYTES), "vector", torch.float32),  # Atari's memory
        (spaces.Box(0.0, 1.0, (2, 2, 5), np.float32), "vector", torch.float32),  # no side for a kernel
        (spaces.Box(0.0, 1.0, (3, 2, 5), np.float32), "vector", torch.float32),
    ],
)
def test_a_box_is_a_picture_a_grid_or_a_vector_by_rule(space, kind, dtype):
    leaf, encode = make_encoder(space)
    samples = [space.sample() for _ in range(3)]
    encoded = encode(np.stack(samples))
    assert (leaf.kind, leaf.shape, encoded.dtype, leaf.bytes) == (kind, space.shape, dtype, encoded.element_size())
    assert encoded.shape == (3, *leaf.kept)
    np.testing.assert_array_equal(encoded.numpy().reshape(3, -1), np.stack(samples).reshape(3, -1).astype(np.float32))
    assert torch.equal(encode(samples), encoded)  # a list of single ones is a batch too


COMPOSED = spaces.Dict(
    {
        "arm": spaces.Dict({"goal": spaces.Box(-1, 1, (3,), np.float64), "joints": spaces.MultiDiscrete([2, 3])}),
        "eye": spaces.Box(shape=(40, 40, 3), **BYTES),
        "pair": spaces.Tuple([spaces.Discrete(3, start=1), spaces.MultiBinary(2)]),
        "said": spaces.Text(3, charset="abc"),
    }
)


def test_every_part_of_a_composed_observation_is_named_and_flattened_as_gymnasium_does():
    spec, encode = make_encoder(COMPOSED)
    assert list(spec) == ["arm.goal", "arm.joints", "eye", "pair.0", "pair.1", "said"]
    COMPOSED.seed(1)
    samples = [COMPOSED.sample() for _ in range(4)]
    encoded = encode(samples)
    parts = {
        "arm.goal": (COMPOSED["arm"]["goal"], lambda one: one["arm"]["goal"]),
        "arm.joints": (COMPOSED["arm"]["joints"], lambda one: one["arm"]["joints"]),
        "eye": (COMPOSED["eye"], lambda one: one["eye"]),
        "pair.0": (COMPOSED["pair"][0], lambda one: one["pair"][0]),
        "pair.1": (COMPOSED["pair"][1], lambda one: one["pair"][1]),
        "said": (COMPOSED["said"], lambda one: one["said"]),
    }
    for name, (space, pick) in parts.items():
        expected = np.stack([spaces.flatten(space, pick(one)) for one in samples]).astype(np.float32)
        np.testing.assert_array_equal(encoded[name].numpy().reshape(4, -1), expected)
        assert encoded[name].shape[1:] == spec[name].kept
    assert encoded["eye"].dtype == torch.uint8


def test_the_batch_of_a_vector_environment_is_encoded_like_a_list():
    space = spaces.Dict({key: COMPOSED[key] for key in ("arm", "eye", "pair")})
    batched = batch_space(space, 5)
    batched.seed(2)
    raw = batched.sample()
    singles = [
        {
            "arm": {key: raw["arm"][key][i] for key in raw["arm"]},
            "eye": raw["eye"][i],
            "pair": tuple(part[i] for part in raw["pair"]),
        }
        for i in range(5)
    ]
    _, encode = make_encoder(space)
    for name, leaf in leaves_of(encode(raw)).items():
        assert torch.equal(leaf, encode(singles)[name])


def test_what_is_encoded_does_not_follow_the_environments_buffers():
    space = spaces.Dict({"eye": spaces.Box(shape=(40, 40, 3), **BYTES), MASK: spaces.MultiBinary(2)})
    _, encode = make_encoder(space, actions=2)
    buffers = {"eye": np.zeros((3, 40, 40, 3), np.uint8), MASK: np.ones((3, 2), np.int8)}
    encoded = encode(buffers)
    buffers["eye"] += 1
    buffers[MASK] -= 1
    assert not encoded["eye"].any()
    assert encoded[MASK].all()


@pytest.mark.parametrize("space", [spaces.MultiBinary(5), spaces.Box(0, 1, (5,), np.int8), spaces.Box(0, 1, (5,))])
def test_a_mask_is_one_if_it_has_an_entry_for_every_choice(space):
    parts = spaces.Dict({"a": spaces.Discrete(2), MASK: space})
    for action in (spaces.Discrete(5), spaces.MultiDiscrete([2, 3])):
        interface = make_interface(parts, action)
        assert interface.observations[MASK] == Leaf(Kind.MASK, (5,), 1)
        assert interface.masked
        encoded = interface.encode([{"a": 0, MASK: np.array([1, 0, 0, 1, 1])}])
        assert encoded[MASK].tolist() == [[True, False, False, True, True]]
    assert not make_interface(parts, spaces.Box(-1, 1, (5,))).masked  # continuous actions: numbers like any other


@pytest.mark.parametrize(
    ("shape", "action"),
    [((2, 3), spaces.MultiDiscrete([2, 3])), ((4,), spaces.Discrete(5)), ((2, 2), spaces.MultiDiscrete([2, 2]))],
)
def test_masks_over_combinations_are_refused_by_name(shape, action):
    parts = spaces.Dict({"a": spaces.Discrete(2), MASK: spaces.MultiBinary(shape)})
    with pytest.raises(UserError, match=r"action_mask has the shape .*combinations of several dimensions"):
        make_interface(parts, action)


def test_a_mask_of_bits_is_refused_by_name():
    parts = spaces.Dict({"a": spaces.Discrete(2), MASK: spaces.MultiBinary(3)})
    with pytest.raises(UserError, match=r"action_mask masks Discrete.*MultiBinary\(3\)"):
        make_interface(parts, spaces.MultiBinary(3))


def test_only_numbers_can_lie_outside_their_space():
    space = spaces.Dict({"eye": spaces.Box(shape=(40, 40, 3), **BYTES), "arm": spaces.Box(-1, 1, (2,))})
    interface = make_interface(space, spaces.Discrete(2))
    encoded = interface.encode([{"eye": np.zeros((40, 40, 3)), "arm": np.array([0, x])} for x in (0.0, 1.5, -2.0)])
    assert interface.contains(encoded).tolist() == [True, False, False]
    assert interface.contains(torch.stack([encoded, encoded])).shape == (2, 3)


def test_parts_that_nobody_sees_are_not_even_encoded():
    space = spaces.Dict({"eye": spaces.Box(-1, 1, (2,)), "steps": spaces.Discrete(4), MASK: spaces.MultiBinary(2)})
    interface = make_interface(space, spaces.Discrete(2), kept=lambda name: name == "eye")
    over = {"eye": np.zeros(2), "steps": 4, MASK: np.ones(2)}  # as some environments count on past their space
    encoded = interface.encode([over])
    assert list(interface.observations) == list(leaves_of(encoded)) == [MASK, "eye"]
    assert interface.contains(encoded).all()
    with pytest.raises(ValueError, match="the observation 4 is none of the 4 of its space"):
        make_interface(space, spaces.Discrete(2)).encode([over])


@pytest.mark.parametrize("info", [{}, {MASK: np.ones((3, 2))}])
def test_a_mask_in_the_info_of_a_vector_entry_point_is_refused_and_not_overlooked(info):
    envs = SimpleNamespace(single_action_space=spaces.Discrete(2), reset=lambda seed: (np.zeros((3, 1)), info))
    with pytest.raises(UserError, match=r"vector: Some-v0 says action_mask") if info else nullcontext():
        check_unmasked("Some-v0", envs)


OUTSIDE = [
    (spaces.MultiDiscrete([2, 3]), [2, 0], "the observation 2 is none of the 2 of its space, which count from 0"),
    (spaces.MultiDiscrete([2, 3]), [-1, 0], "the observation -1 is none"),
    (
        spaces.MultiDiscrete([2, 3], start=[5, 5]),
        [5, 4],
        "the observation 4 is none of the 3 of its space",
    ),
    (spaces.MultiBinary(2), [1, 7], "the observation 7 of a MultiBinary space is neither 0 nor 1"),
    (spaces.MultiBinary(2), [0.5, 0], "the observation 0.5 of a MultiBinary space"),
    (spaces.MultiBinary(2), [float("nan"), 0], "the observation nan of a MultiBinary space"),
]


@pytest.mark.parametrize(("space", "given", "words"), OUTSIDE, ids=str)
def test_what_is_not_in_a_space_of_choices_fails_to_encode(space, given, words):
    _, encode = make_encoder(space)
    with pytest.raises(ValueError, match=words):
        encode(np.array([space.sample(), given]))


EMPTY = spaces.Box(-1.0, 1.0, (0,))


def test_parts_without_numbers_are_left_out():
    leaves, encode = make_encoder(spaces.Dict(a=spaces.Box(-1.0, 1.0, (2,)), e=EMPTY, f=spaces.Tuple([])))
    assert leaves.keys() == {"a"}
    assert leaves_of(encode({"a": np.zeros((3, 2)), "e": np.zeros((3, 0)), "f": ()})).keys() == {"a"}


@pytest.mark.parametrize("space", [EMPTY, spaces.Dict(e=EMPTY), spaces.Tuple([]), spaces.Dict()], ids=str)
def test_an_observation_without_numbers_is_refused(space):
    with pytest.raises(UserError, match=r"observation space .* is not supported|so there is nothing to see"):
        make_encoder(space)


def test_two_parts_of_one_name_are_refused():
    number = spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(UserError, match=r"two parts of the observation are called a\.b"):
        make_encoder(spaces.Dict({"a": spaces.Dict(b=number), "a.b": number}))
