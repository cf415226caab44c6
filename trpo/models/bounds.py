"""Bounds of continuous actions, in the policy's units: what is drawn outside is clipped, or tanh leaves nothing there.

Log-probs, ratio and KL are those of the action as it was drawn. Of a squashed one they are those of what is sent, too:
the map is the same for all θ, and its slopes cancel. Of a clipped one they are not; `Censor` clips and compares what is
sent.
"""

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from trpo.models.censored_gaussian import censored_within
from trpo.models.distributions import DiagonalGaussian


def clipped(actions: Tensor, limits: Tensor) -> Tensor:
    """Return actions (…, A) inside their limits (2, A), as the environment will see them, in the policy's units.

    An action that is clipped has no gradient: nothing about it would change if it moved.
    """
    return torch.clamp(actions, limits[0], limits[1])


class Bounds(Protocol):
    """How drawn actions come inside the limits."""

    limits: Tensor  # (2, A)

    def inside(self, actions: Tensor) -> Tensor:
        """Return actions (…, A) as the environment will see them, in the policy's units."""
        ...

    def sent(self, actions: Tensor) -> Tensor:
        """Return actions (…, A) as they go to the environment's decoder, which clips by itself."""
        ...

    def outside(self, actions: Tensor) -> Tensor:
        """Return which components (…, A) end at a limit."""
        ...

    def log_slope(self, actions: Tensor) -> Tensor:
        """Return log |∂ inside / ∂ actions| (N,) summed over dimensions: what it adds to the entropy of one draw."""
        ...

    def distribution(self) -> DiagonalGaussian:
        """Return the normals that actions are drawn from, and by which they are compared."""
        ...

    def constants(self) -> dict[str, Tensor]:
        """Return what decides all this, by name, for a dump."""
        ...


class Clip(nn.Module):
    """Clips to limits (2, A). Its `log_slope` is 0: the entropy stays that of the drawn action."""

    limits: Tensor

    def __init__(self, limits: Tensor) -> None:
        super().__init__()
        self.register_buffer("limits", limits, persistent=False)

    def inside(self, actions: Tensor) -> Tensor:
        """Return actions (…, A) clipped."""
        return clipped(actions, self.limits)

    def sent(self, actions: Tensor) -> Tensor:
        """Return the actions as they are: the decoder clips them."""
        return actions

    def outside(self, actions: Tensor) -> Tensor:
        """Return which components (…, A) are clipped."""
        return (actions < self.limits[0]) | (actions > self.limits[1])

    def log_slope(self, actions: Tensor) -> Tensor:
        """Return zeros (N,)."""
        return torch.zeros_like(actions[..., 0])

    def distribution(self) -> DiagonalGaussian:
        """Return plain normals: an action is what was drawn."""
        return DiagonalGaussian(self.limits.shape[1])

    def constants(self) -> dict[str, Tensor]:
        """Return the limits."""
        return {"bounds": self.limits}


class Censor(Clip):
    """Clips, and an action is what is sent: as probable as all the draws that become it."""

    def distribution(self) -> DiagonalGaussian:
        """Return normals censored at the limits."""
        return censored_within(self.limits)


class Tanh(Clip):
    """Squashes dimensions with limits of ±1 by tanh, and clips the others, which have no two finite bounds."""

    squashed: Tensor

    def __init__(self, limits: Tensor) -> None:
        super().__init__(limits)
        self.register_buffer("squashed", (limits[0] == -1.0) & (limits[1] == 1.0), persistent=False)

    def inside(self, actions: Tensor) -> Tensor:
        """Return actions (…, A), each dimension squashed or clipped."""
        return torch.where(self.squashed, torch.tanh(actions), clipped(actions, self.limits))

    def sent(self, actions: Tensor) -> Tensor:
        """Return actions (…, A) squashed."""
        return self.inside(actions)

    def outside(self, actions: Tensor) -> Tensor:
        """Return which components (…, A) are clipped, or so large that tanh rounds to its limit."""
        return torch.where(self.squashed, torch.tanh(actions).abs() >= 1.0, super().outside(actions))

    def log_slope(self, actions: Tensor) -> Tensor:
        """Return Σ log(1 − tanh²u) (N,), as 2(log 2 − u − softplus(−2u)), which does not round to log 0."""
        slope = 2 * (math.log(2) - actions - nn.functional.softplus(-2 * actions))
        return torch.where(self.squashed, slope, 0.0).sum(-1)

    def constants(self) -> dict[str, Tensor]:
        """Return the limits, and which dimensions are squashed."""
        return {"bounds": self.limits, "squashed": self.squashed}


BOUNDS: dict[str, type[Clip]] = {"clip": Clip, "censor": Censor, "tanh": Tanh}
