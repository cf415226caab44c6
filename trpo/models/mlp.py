"""Multi-layer perceptrons, and what they compute now in the form that acts fastest."""

import itertools
import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from trpo.numerics import perceptron

Map = Callable[[Tensor], Tensor]  # rows to rows

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}
HIDDEN_GAIN = math.sqrt(2.0)


def mlp(sizes: tuple[int, ...], *, activation: str, last_gain: float, generator: torch.Generator) -> nn.Sequential:
    """Return linear layers of these sizes with activations between, orthogonal weights and zero biases."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        last = len(layers) == 2 * (len(sizes) - 2)
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight, last_gain if last else HIDDEN_GAIN, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if last else [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


def unwrapped(network: nn.Sequential) -> Map:
    """Return what an `mlp` computes now, to rounding, without the modules around it and without new memory.

    A module's bookkeeping costs more than the arithmetic of a few rows. Valid until a parameter changes; each result
    is overwritten by the next. A network of other layers, or one that somebody listens to, is called as it is.
    """
    if not perceptron.is_perceptron(network):
        return torch.no_grad()(lambda rows: network(rows))
    linears = [(layer.bias.detach(), layer.weight.detach().T) for layer in network if isinstance(layer, nn.Linear)]
    activations = [perceptron.ACTIVATIONS[type(layer)] for layer in [*network][1::2]]

    @cache
    def places(rows: int) -> list[tuple[Tensor, perceptron.Kernel | None]]:
        z = [weight.new_empty(rows, weight.shape[1]) for _, weight in linears]
        kernels = [activation.forward(place, place) for activation, place in zip(activations, z[:-1], strict=True)]
        return list(zip(z, [*kernels, None], strict=True))

    def forward(rows: Tensor) -> Tensor:
        for (bias, weight), (z, activate) in zip(linears, places(len(rows)), strict=True):
            rows = torch.addmm(bias, rows, weight, out=z)
            if activate:
                activate()
        return rows

    return forward
