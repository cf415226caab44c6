"""Actions decoded in torch, to the bits of the same formula in NumPy: earlier runs go on as they were."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from trpo.sampling.decoding import BoxDecoder, IntegerDecoder

ROWS = 20_000
BOXES = [
    spaces.Box(-0.4, 0.4, (17,)),
    spaces.Box(-1, 1, (6,)),
    spaces.Box(-0.1, 0.3, (2, 3)),
    spaces.Box(0, 1e6, (), np.float64),
    spaces.Box(np.float32([0.0, -np.inf, -np.inf, -3e38]), np.float32([np.inf, 0.3, np.inf, 3e38])),
    spaces.Box(np.array([-7.0, 0.1]), np.array([-2.0, 0.7]), dtype=np.float64),
]


def in_numpy(actions, space):
    """Clip in the policy's units, map [−1, 1] to what has two bounds, clip to all bounds."""
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    bounded = (low > -1e30) & (high < 1e30)
    ends = [np.where(bounded, own, np.clip(end, -1e30, 1e30)) for own, end in ((-1, low), (1, high))]
    inside = np.clip(actions, *(end.astype(np.float32) for end in ends))
    half, centre = np.where(bounded, (high - low) / 2, 1.0), np.where(bounded, (high + low) / 2, 0.0)
    mapped = np.minimum(np.maximum(inside * half + centre, low), high)
    return mapped.reshape(-1, *space.shape).astype(space.dtype)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ∞ − ∞, of what np.where leaves out
@pytest.mark.parametrize("space", BOXES, ids=str)
def test_a_box_is_decoded_to_the_bits_of_numpy(space):
    actions = 2 * torch.randn(ROWS, int(np.prod(space.shape)), generator=torch.Generator().manual_seed(0))
    decoded, expected = BoxDecoder(space)(actions).numpy(), in_numpy(actions.numpy(), space)
    assert (decoded.dtype, decoded.shape) == (expected.dtype, expected.shape)
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint16])
def test_integers_have_their_shape_their_start_and_their_type(dtype):
    start = np.array([[0, 3], [7, 1]])
    actions = torch.from_numpy(np.random.default_rng(0).integers(0, 9, (ROWS, 4)))
    decoded = IntegerDecoder((2, 2), start, dtype)(actions).numpy()
    assert decoded.dtype == dtype
    np.testing.assert_array_equal(decoded, actions.numpy().reshape(-1, 2, 2) + start)
