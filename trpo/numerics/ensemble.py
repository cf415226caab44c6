"""Several networks of one shape side by side, their parameters one vector, the gradient of their fit written out.

    z_l = h_{l−1}W_l + b_l      x_l = (z_l − mean z_l) / std z_l      a_l = x_l ∘ g_l + s_l      h_l = silu(a_l)

over the hidden layers, and the last layer is z_L alone (layer norm: Ba, Kiros & Hinton 2016, arXiv:1607.06450, equation
3). Every product is a batched one over the K networks. The gradient is the textbook's (Goodfellow, Bengio &
Courville 2016, algorithm 6.4), each result with its place: at 256 rows and 128 units autograd takes twice the time.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten: Any = torch.ops.aten  # the kernels that autograd itself calls, here with a place for their result

Kernel = Callable[[], Any]
# From outputs (K, n, M·T), which T of them are meant (n,) and what these should be (n, T) to ∂/∂outputs, to be written.
ErrorBackward = Callable[[Tensor, Tensor, Tensor, Tensor], None]
EPS = 1e-5  # under the square root of a layer norm's variance


class Layer(NamedTuple):
    """One layer of all networks, views of a vector; the last one has neither gain nor shift."""

    weight: Tensor  # (K, I, O)
    bias: Tensor  # (K, 1, O)
    gain: Tensor | None  # (K, 1, O)
    shift: Tensor | None  # (K, 1, O)


def parameter_count(networks: int, sizes: Sequence[int]) -> int:
    """Return P, of K networks with these widths from input to output."""
    hidden = sum(sizes[1:-1])
    return networks * (sum((i + 1) * o for i, o in pairwise(sizes)) + 2 * hidden)


def layers_of(theta: Tensor, networks: int, sizes: Sequence[int]) -> list[Layer]:
    """Return the layers of K networks with these widths as views of one vector (P,)."""
    shapes = [shape for i, o in pairwise(sizes) for shape in [(networks, i, o), *[(networks, 1, o)] * 3]]
    del shapes[-2:]  # the last layer is not normalised
    parts = theta.split([shape[0] * shape[1] * shape[2] for shape in shapes])
    views: list[Tensor] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    hidden = [Layer(*views[start : start + 4]) for start in range(0, len(views) - 2, 4)]
    return [*hidden, Layer(views[-2], views[-1], None, None)]


def forward(layers: Sequence[Layer], inputs: Tensor) -> Tensor:
    """Return the outputs (K, N, M) for inputs (N, I), differentiably."""
    rows = inputs.expand(len(layers[0].weight), *inputs.shape)
    for weight, bias, gain, shift in layers:
        rows = torch.baddbmm(bias, weight.mT, rows.mT).mT if weight.shape[2] == 1 else torch.baddbmm(bias, rows, weight)
        if gain is not None and shift is not None:
            rows = torch.nn.functional.silu(torch.addcmul(shift, standardised(rows), gain))
    return rows


def standardised(rows: Tensor) -> Tensor:
    """Return rows with mean 0 and standard deviation 1, differentiably; ATen's layer norm takes twice the time."""
    centred = rows - rows.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + EPS).rsqrt()


class Program(NamedTuple):
    """What is computed for one number of rows n: kernels that know where to read and where to write."""

    rows: Tensor  # (n, I), filled before a run
    wanted: Tensor  # (n, T) what the outputs should be
    chosen: Tensor  # (n,) which of them are meant
    kernels: list[Kernel]


class FitGradient:
    """The gradient at the vector θ of an error of the outputs, written over `gradient`.

    Args:
        theta: (P,), read where it lies: whoever changes it changes the networks.
        networks: K.
        sizes: widths from input to output.
        error_backward: the error's derivative.
    """

    def __init__(self, theta: Tensor, networks: int, sizes: Sequence[int], error_backward: ErrorBackward) -> None:
        self.theta, self.gradient = theta, torch.empty_like(theta)
        self.networks, self.sizes, self.error_backward = networks, tuple(sizes), error_backward
        self.programs: dict[tuple[int, int], Program] = {}

    @torch.no_grad()
    def differentiate(self, inputs: Tensor, outputs: Tensor, wanted: Tensor, chosen: Tensor) -> None:
        """Take the mean over the samples `chosen` (n,) of inputs (N, I), whose outputs (N,) should be wanted (N, T)."""
        size = (len(chosen), wanted.shape[1])
        program = self.programs.get(size) or self.programs.setdefault(size, self._program(*size))
        torch.index_select(inputs, 0, chosen, out=program.rows)
        torch.index_select(wanted, 0, chosen, out=program.wanted)
        torch.index_select(outputs, 0, chosen, out=program.chosen)
        for kernel in program.kernels:
            kernel()

    def _program(self, n: int, wanted_size: int) -> Program:
        layers = layers_of(self.theta, self.networks, self.sizes)
        gradients = layers_of(self.gradient, self.networks, self.sizes)
        new = self.theta.new_empty
        rows, wanted = new(n, self.sizes[0]), new(n, wanted_size)
        chosen = torch.empty(n, dtype=torch.long, device=self.theta.device)
        h: Tensor = rows.expand(self.networks, n, self.sizes[0])
        kernels: list[Kernel] = []
        backwards: list[Callable[[Tensor], tuple[list[Kernel], Tensor]]] = []
        for layer, gradient in zip(layers, gradients, strict=True):
            z = new(self.networks, n, layer.weight.shape[2])
            kernels.append(product(h, layer.weight, z, layer.bias))
            backwards.append(partial(linear_backward, layer, gradient, h, len(backwards) == 0))
            if layer.gain is not None:
                hidden = Hidden.at(z)
                kernels += hidden.forward(layer)
                backwards.append(partial(hidden.backward, layer, gradient))
                h = hidden.h
        delta = torch.empty_like(z)
        kernels.append(partial(self.error_backward, z, chosen, wanted, delta))
        for backward in reversed(backwards):
            more, delta = backward(delta)
            kernels += more
        return Program(rows, wanted, chosen, kernels)


class Hidden(NamedTuple):
    """Where a hidden layer's intermediate results lie, (K, n, O) each but for two of a norm's, (K, n, 1)."""

    z: Tensor
    x: Tensor
    a: Tensor
    h: Tensor
    mean: Tensor
    rstd: Tensor

    @classmethod
    def at(cls, z: Tensor) -> "Hidden":
        """Return places for what follows z."""
        return cls(z, *(torch.empty_like(z) for _ in range(3)), *(z.new_empty(*z.shape[:2], 1) for _ in range(2)))

    def forward(self, layer: Layer) -> list[Kernel]:
        """Return the kernels from z to h."""
        z, x, a, h, mean, rstd = self
        return [
            partial(torch.mean, z, -1, keepdim=True, out=mean),
            partial(torch.sub, z, mean, out=x),
            partial(torch.mul, x, x, out=a),
            partial(torch.mean, a, -1, keepdim=True, out=rstd),
            partial(torch.add, rstd, EPS, out=rstd),
            partial(torch.rsqrt, rstd, out=rstd),
            partial(torch.mul, x, rstd, out=x),
            partial(torch.addcmul, layer.shift, x, layer.gain, out=a),
            partial(aten.silu.out, a, out=h),
        ]

    def backward(self, layer: Layer, gradient: Layer, delta: Tensor) -> tuple[list[Kernel], Tensor]:
        """Return the kernels from ∂/∂h, which they overwrite, to ∂/∂z, and where that will be."""
        z, x, a, h, mean, rstd = self
        assert layer.gain is not None
        kernels: list[Kernel] = [
            partial(aten.silu_backward.grad_input, delta, a, grad_input=delta),
            partial(torch.sum, delta, 1, keepdim=True, out=gradient.shift),
            partial(torch.mul, delta, x, out=a),
            partial(torch.sum, a, 1, keepdim=True, out=gradient.gain),
            partial(torch.mul, delta, layer.gain, out=delta),
            partial(norm_backward, delta, z, mean, rstd, h),
        ]
        return kernels, h


def linear_backward(
    layer: Layer, gradient: Layer, h: Tensor, first: bool, delta: Tensor
) -> tuple[list[Kernel], Tensor]:
    """Return the kernels from ∂/∂z to weight, bias and, but for the first layer, input, and where that one will be."""
    kernels: list[Kernel] = [
        product(h.mT, delta, gradient.weight),
        partial(torch.sum, delta, 1, keepdim=True, out=gradient.bias),
    ]
    below = h if first else torch.empty_like(h)
    if not first:
        kernels.append(product(delta, layer.weight.mT, below))
    return kernels, below


def product(left: Tensor, right: Tensor, place: Tensor, bias: Tensor | None = None) -> Kernel:
    """Return the kernel that writes left·right, plus a bias if there is one, to `place`.

    Batched products with one column are several times as slow as with one row, and those over one term slower than what
    they are, products of numbers.
    """
    if bias is None and left.shape[2] == 1:
        return partial(torch.mul, left, right, out=place)
    if right.shape[2] == 1:
        left, right, place = right.mT, left.mT, place.mT
    if bias is None:
        return partial(torch.bmm, left, right, out=place)
    return partial(torch.baddbmm, bias, left, right, out=place)


def norm_backward(delta: Tensor, z: Tensor, mean: Tensor, rstd: Tensor, place: Tensor) -> None:
    """Write ∂/∂z from ∂/∂x of a layer norm; ATen's kernel has no form that takes a place for one result of three."""
    place.copy_(
        aten.native_layer_norm_backward(delta, z, z.shape[-1:], mean, rstd, None, None, [True, False, False])[0]
    )
