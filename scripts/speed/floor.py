"""The floor of a Fisher product: its matrix products and nothing else.

A product v ↦ JᵀMJv through a layer y = xWᵀ of N rows needs four matrix products: x·dWᵀ and dx·Wᵀ on the way forward,
and on the way back dyᵀ·x, the weights' part of the answer, and dy·W, what goes on to the layer below. The first
layer has no dx and nothing below it, so it needs two. Activations, biases, metric and bookkeeping come on top.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class MatrixProduct(NamedTuple):
    """left (n, k) times right (k, m) into out (n, m)."""

    left: Tensor
    right: Tensor
    out: Tensor

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.left.shape[0] * self.left.shape[1] * self.right.shape[1]


def products_of(sizes: tuple[int, ...], samples: int, device: torch.device) -> list[MatrixProduct]:
    """Return the matrix products of one Fisher product, in order, each with its operands and its output allocated.

    Args:
        sizes: of the layers, input and output included: (17, 64, 64, 6).
        samples: N, rows.
        device: where they are.
    """
    forward: list[MatrixProduct] = []
    backward: list[MatrixProduct] = []
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        x, dx = (torch.randn(samples, fan_in, device=device) for _ in range(2))
        weight, d_weight = (torch.randn(fan_out, fan_in, device=device) for _ in range(2))
        dy = torch.randn(samples, fan_out, device=device)
        inward = [MatrixProduct(x, d_weight.T, torch.empty_like(dy))]
        outward = [MatrixProduct(dy.T, x, torch.empty_like(d_weight))]
        if layer > 0:
            inward.append(MatrixProduct(dx, weight.T, torch.empty_like(dy)))
            outward.append(MatrixProduct(dy, weight, torch.empty_like(dx)))
        forward += inward
        backward = outward + backward
    return forward + backward


def multiply(products: list[MatrixProduct]) -> Callable[[], None]:
    """Return a function that does all the matrix products once."""

    def run() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return run
