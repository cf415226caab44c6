"""The squared error of a multi-layer perceptron and its gradient, written out for thousands of small minibatches.

At 64 rows and 64 units four fifths of an autograd step are bookkeeping: module calls, graph nodes, a tensor for every
weight and bias. Here all of them are one vector, a step is a dozen kernels, and every result has its place already.

A constant 1 is appended to the input of each layer, so that weights and bias are one matrix, and one product each way:

    z_l = [h_{l−1} 1][W_l b_l]ᵀ        h_l = φ(z_l),  h_0 = s,  V = z_L
    δ_L = (2/n)(V − G)                 δ_{l−1} = (δ_l W_l) ∘ φ'(z_{l−1})
    ∂/∂[W_l b_l] = δ_lᵀ[h_{l−1} 1]     (Goodfellow, Bengio & Courville 2016, algorithms 6.3 and 6.4)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

aten: Any = torch.ops.aten  # the kernels that autograd itself calls, here with a place for their result


Kernel = Callable[[], Any]


class Activation(NamedTuple):
    """φ and its derivative, as kernels that know their places."""

    forward: Callable[[Tensor, Tensor], Kernel]  # z, h: h becomes φ(z); they may be the same
    backward: Callable[[Tensor, Tensor, Tensor], Kernel]  # δ, z, h: δ becomes δ ∘ φ'(z)


def tanh(z: Tensor, h: Tensor) -> Kernel:
    """Return the kernel for h = tanh z: on a CPU that of NumPy, which takes a quarter of the time of torch and MKL."""
    return partial(np.tanh, z.numpy(), h.numpy()) if z.device.type == "cpu" else partial(torch.tanh, z, out=h)


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(
        tanh,
        lambda delta, _, h: partial(aten.tanh_backward.grad_input, delta, h, grad_input=delta),
    ),
    nn.ReLU: Activation(
        lambda z, h: partial(torch.clamp_min, z, 0, out=h),
        lambda delta, z, _: partial(aten.threshold_backward.grad_input, delta, z, 0, grad_input=delta),
    ),
    nn.ELU: Activation(
        lambda z, h: partial(aten.elu.out, z, out=h),
        lambda delta, z, _: partial(aten.elu_backward.grad_input, delta, 1, 1, 1, False, z, grad_input=delta),
    ),
    nn.SiLU: Activation(
        lambda z, h: partial(aten.silu.out, z, out=h),
        lambda delta, z, _: partial(aten.silu_backward.grad_input, delta, z, grad_input=delta),
    ),
}


def is_perceptron(network: nn.Module) -> bool:
    """Return whether a network is linear layers with biases and our activations between them."""
    if type(network) is not nn.Sequential or any(map(is_listened_to, network.modules())):
        return False
    linears, activations = [*network][::2], [*network][1::2]
    return (
        len(linears) == len(activations) + 1
        and all(type(linear) is nn.Linear and linear.bias is not None for linear in linears)
        and all(type(activation) in ACTIVATIONS for activation in activations)
        and all(getattr(activation, "alpha", 1.0) == 1.0 for activation in activations)  # of an ELU
    )


def is_listened_to(module: nn.Module) -> bool:
    """Return whether hooks follow what a module does, or change it as the older weight norm does."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


class Program(NamedTuple):
    """What is computed for one number of rows n: kernels that know where to read and where to write."""

    rows: Tensor  # [s 1 G] (n, O + 2), filled before a run
    kernels: list[Kernel]


class Perceptron:
    """The weights of a network as one vector, and the gradient of its mean squared error as another.

    Args:
        network: one that `is_perceptron`, with one output; it is read here and never written to.
    """

    def __init__(self, network: nn.Sequential) -> None:
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        self.shapes = [(linear.out_features, linear.in_features + 1) for linear in linears]
        self.activations = [ACTIVATIONS[type(activation)] for activation in [*network][1::2]]
        self.theta = self.flatten([parameter.detach() for parameter in network.parameters()])  # (P,)
        self.gradient = torch.empty_like(self.theta)  # (P,) at the latest minibatch
        self.programs: dict[int, Program] = {}

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors shaped as W_1, b_1, W_2, b_2 … as one vector (P,): [W_1 b_1], then [W_2 b_2] and so on."""
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        return torch.cat([torch.column_stack([weight, bias]).flatten() for weight, bias in pairs])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Return views of a vector (P,) shaped as W_1, b_1, W_2, b_2 and so on."""
        return [part for matrix in self._matrices(vector) for part in (matrix[:, :-1], matrix[:, -1])]

    def differentiate(self, samples: Tensor, chosen: Tensor) -> None:
        """Write the gradient of mean((V − G)²) over some samples into `gradient`.

        Args:
            samples: [s 1 G] (N, O + 2), as `joined` makes it.
            chosen: the indices of the n samples that are meant.
        """
        if len(chosen) not in self.programs:  # an epoch has minibatches of two sizes at most
            self.programs[len(chosen)] = self._program(len(chosen))
        rows, kernels = self.programs[len(chosen)]
        torch.index_select(samples, 0, chosen, out=rows)
        for kernel in kernels:
            kernel()

    def _matrices(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([rows * columns for rows, columns in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _program(self, count: int) -> Program:
        rows = self.theta.new_empty(count, self.shapes[0][1] + 1)
        inputs = [rows[:, :-1], *(rows.new_ones(count, columns) for _, columns in self.shapes[1:])]  # [h 1]
        z, delta = ([rows.new_empty(count, width) for width, _ in self.shapes] for _ in range(2))
        weights, gradients = self._matrices(self.theta), self._matrices(self.gradient)
        kernels: list[Kernel] = []
        for layer in range(len(weights)):
            kernels.append(partial(torch.mm, inputs[layer], weights[layer].T, out=z[layer]))
            if layer < len(self.activations):
                kernels.append(self.activations[layer].forward(z[layer], inputs[layer + 1][:, :-1]))
        one, mean = rows.new_ones(()), 1  # of ∂/∂loss, and ATen's number for the mean
        kernels.append(partial(aten.mse_loss_backward.grad_input, one, z[-1], rows[:, -1:], mean, grad_input=delta[-1]))
        for layer in reversed(range(len(weights))):
            kernels.append(partial(torch.mm, delta[layer].T, inputs[layer], out=gradients[layer]))
            if layer:
                kernels.append(partial(torch.mm, delta[layer], weights[layer][:, :-1], out=delta[layer - 1]))
                h = inputs[layer][:, :-1]
                kernels.append(self.activations[layer - 1].backward(delta[layer - 1], z[layer - 1], h))
        return Program(rows, kernels)


def joined(inputs: Tensor, targets: Tensor) -> Tensor:
    """Return [s 1 G] (N, O + 2) for inputs s (N, O) and targets G (N,): what a minibatch takes with one kernel."""
    return torch.cat([inputs, torch.ones_like(targets).unsqueeze(1), targets.unsqueeze(1)], dim=1)
