"""Normals whose draws are clipped before they act, and the probabilities of what the environment is then sent."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trpo.models.distributions import HALF_LOG_TAU, DiagonalGaussian, Distribution

WIDEST_BOUND = 1e30  # wider bounds are somebody's way to write infinity
FAR = 26.0  # σ: beyond lies a probability of 1e-149, whose square is the least that float64 can divide by


@dataclass(frozen=True)
class ClippedGaussian(DiagonalGaussian):
    """Independent normals clipped to limits: drawn and compared as normals, and as probable as what is sent.

    All draws beyond a limit are one action, whose probability is the normal's mass there. The ratio of two policies in
    it is the mean of the ratios of the draws that become it, so that the surrogate has the same expectation at every θ
    and varies less (Rao–Blackwell; of the gradient, Fujita & Maeda 2018, arXiv:1802.07564): how far beyond a limit a
    draw lay is noise, as the environment cannot see it.

    KL, metric and entropy stay those of the draws. Clipping is one map for all θ, so that the KL of what is sent is at
    most that of the draws, and δ bounds both.

    >>> import torch
    >>> clipped = ClippedGaussian(1, (-1.0,), (1.0,))
    >>> parameters = torch.tensor([[1.0, 0.0]]).expand(2, 2)  # μ at the limit: half of all draws become it
    >>> clipped.log_prob(parameters, torch.tensor([[1.5], [7.0]])).exp().tolist()
    [0.5, 0.5]
    """

    low: tuple[float, ...]  # A each
    high: tuple[float, ...]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return Σ log Φ(±(μ − limit)/σ) where actions (N, A) reach a limit, and the normal's log density inside."""
        mean, log_std = parameters.chunk(2, dim=-1)
        low, high = self.limits(parameters)
        z = (torch.clamp(actions, low, high) - mean) * torch.exp(-log_std)
        below, above = actions <= low, actions >= high
        beyond = torch.where(above, -z, z)
        density = -0.5 * z**2 - log_std - HALF_LOG_TAU
        return torch.where(below | above, log_below(beyond).to(z.dtype), density).sum(-1)

    def sent(self, actions: Tensor) -> Tensor:
        """Return draws (…, A) as the environment is sent them, in the policy's units."""
        return torch.clamp(actions, *self.limits(actions))

    def constants(self) -> dict[str, Tensor]:
        """Return the limits (2, A), for a dump."""
        return {"clipped_at": torch.tensor([self.low, self.high])}

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits (A,) each, of the dtype and on the device of a tensor."""
        return like.new_tensor(self.low), like.new_tensor(self.high)


def log_below(z: Tensor) -> Tensor:
    """Return log Φ(z) in float64, in a tenth of the time of `torch.special.log_ndtr`.

    Far out by the asymptotic series φ(z)/|z| (1 − z⁻² + 3z⁻⁴ − 15z⁻⁶) (Abramowitz & Stegun 1964, 26.2.12).
    """
    z = z.double()
    near = torch.log(0.5 * torch.erfc(z.clamp(min=-FAR) * -math.sqrt(0.5)))
    far = z.clamp(max=-FAR)
    w = far**-2
    series = -0.5 * far**2 - HALF_LOG_TAU - torch.log(-far) + torch.log1p(-w * (1 - 3 * w * (1 - 5 * w)))
    return torch.where(z > -FAR, near, series)


def of_draws(distribution: Distribution) -> Distribution:
    """Return the distribution of what is drawn, whatever becomes of it."""
    return DiagonalGaussian(distribution.action_size) if isinstance(distribution, ClippedGaussian) else distribution


def gaussian_within(limits: Tensor) -> DiagonalGaussian:
    """Return normals that are clipped to limits (2, A), or plain ones where nothing is limited."""
    size = limits.shape[1]
    if bool((limits.abs() >= WIDEST_BOUND).all()):
        return DiagonalGaussian(size)
    low, high = limits.tolist()
    return ClippedGaussian(size, tuple(low), tuple(high))
