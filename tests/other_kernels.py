"""A stand-in for other CPUs, loaded with `pytest -p other_kernels`: linear layers that sum as no CPU here does.

BLAS chooses by CPU, by shape and by where operands lie in memory in which order it sums. Here the order is a random
one for each number of rows and each alignment, so that what holds only because two shapes happen to be summed alike on
this machine fails on any. The same operation on the same shapes in the same places still gives the same bits.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

linear = functional.linear


@cache
def halves(size: int, *key: int) -> tuple[Tensor, ...]:
    """A random order of the inputs, in two parts; the same for the same key."""
    with torch.inference_mode(False):
        order = torch.randperm(size, generator=torch.Generator().manual_seed(hash((size, *key)) % 2**32))
        return order.tensor_split(2)


def alignment(tensor: Tensor) -> int:
    try:
        return tensor.data_ptr() % 16  # bytes; what allocators give is a multiple
    except RuntimeError:  # inside a transform of torch.func it lies nowhere
        return 0


def in_another_order(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    first, second = halves(weight.shape[1], input.shape[0], alignment(input), alignment(weight))
    return linear(input[..., first], weight[:, first]) + linear(input[..., second], weight[:, second], bias)


functional.linear = in_another_order
