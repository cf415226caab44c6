"""A module's parameters as one flat vector θ, and back."""

import hashlib

import torch
from torch import Tensor, nn
from torch.func import functional_call


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


def forward_at(module: nn.Module, theta: Tensor, inputs: Tensor) -> Tensor:
    """Return what the module gives for `inputs` with the parameters θ (P,), without writing to it.

    Up to rounding that is `assign` and a call: here the weights are views into θ, aligned in memory as they happen to
    lie there, and BLAS may sum in another order over them.
    """
    return functional_call(module, unflatten(theta, module), (inputs,))  # type: ignore[no-any-return]


@torch.no_grad()
def assign(module: nn.Module, theta: Tensor) -> None:
    """Write θ (P,) into the module. This is the only function that changes a policy."""
    pieces = unflatten(theta, module)
    for name, parameter in module.named_parameters():
        parameter.copy_(pieces[name])


def fingerprint(module: nn.Module) -> str:
    """Return a hash of θ: equal in two runs up to the first iteration in which they differ in a single bit."""
    return hashlib.sha256(flatten(module).cpu().numpy().tobytes()).hexdigest()[:16]
