"""A module's parameters as one flat vector θ, and back."""

import torch
from torch import Tensor, nn


def flatten(module: nn.Module) -> Tensor:
    """Return θ (P,), a detached copy of all parameters in the order of `named_parameters`."""
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


def unflatten(theta: Tensor, module: nn.Module) -> dict[str, Tensor]:
    """Return views of θ (P,) under the names and shapes of the module's parameters.

    One `split`, so that differentiating through it is one concatenation rather than a zero-padded (P,) tensor
    for each parameter. Raises `ValueError` if θ has another length than the module.
    """
    named = dict(module.named_parameters())
    sizes = [parameter.numel() for parameter in named.values()]
    if theta.shape != (sum(sizes),):
        raise ValueError(f"theta must have shape ({sum(sizes)},), got {tuple(theta.shape)}")
    pieces = theta.split(sizes)
    return {name: piece.view_as(parameter) for (name, parameter), piece in zip(named.items(), pieces, strict=True)}


@torch.no_grad()
def assign(module: nn.Module, theta: Tensor) -> None:
    """Write θ (P,) into the module. This is the only function that changes a policy."""
    pieces = unflatten(theta, module)
    for name, parameter in module.named_parameters():
        parameter.copy_(pieces[name])
