"""Spaces as JSON: what an exported file says of them, to any reader of strict JSON."""

import json

import numpy as np
import pytest
from gymnasium import spaces

from trpo.sampling.description import as_json, described, space_of

BOX = {"type": "Box", "dtype": "float32"}
SPACES = [
    (spaces.Box(-1, 1, (2, 3)), BOX | {"shape": [2, 3], "low": -1.0, "high": 1.0}),
    (spaces.Box(-np.inf, np.inf, ()), BOX | {"shape": [], "low": None, "high": None}),
    (
        spaces.Box(np.array([[0.0, -np.inf]], np.float32), np.array([[0.5, 2.0]], np.float32)),
        BOX | {"shape": [1, 2], "low": [[0.0, None]], "high": [[0.5, 2.0]]},
    ),
    (
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        {"type": "Box", "dtype": "uint8", "shape": [84, 84, 4], "low": 0, "high": 255},
    ),
    (spaces.Discrete(5, start=-2), {"type": "Discrete", "n": 5, "start": -2, "dtype": "int64"}),
    (
        spaces.MultiDiscrete([2, 3], start=[1, 1]),
        {"type": "MultiDiscrete", "nvec": [2, 3], "start": 1, "dtype": "int64"},
    ),
    (spaces.MultiBinary((2, 2)), {"type": "MultiBinary", "n": [2, 2]}),
    (
        spaces.Dict(low=spaces.Discrete(2), type=spaces.Tuple([spaces.MultiBinary(3)])),
        {
            "type": "Dict",
            "spaces": {
                "low": {"type": "Discrete", "n": 2, "start": 0, "dtype": "int64"},
                "type": {"type": "Tuple", "spaces": [{"type": "MultiBinary", "n": [3]}]},
            },
        },
    ),
]


@pytest.mark.parametrize(("space", "expected"), SPACES, ids=lambda value: str(value)[:30])
def test_a_space_is_strict_json(space, expected):
    assert json.loads(json.dumps(as_json(described(space)), allow_nan=False)) == expected


@pytest.mark.parametrize("space", [space for space, _ in SPACES], ids=lambda value: str(value)[:30])
def test_a_subclass_of_a_space_is_described_as_what_it_is_a_kind_of(space):
    base = type(space)
    own = space_of(described(space))
    own.__class__ = type("Own", (base,), {})
    assert type(space_of(described(own))) is base
    assert space_of(described(own)) == space
