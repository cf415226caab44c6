"""Normals whose draws are clipped before they act: the policy that the environment sees.

In units of z = (a − μ)/σ the limits are α and β. Beyond them lie P_< = Φ(α) and P_> = Φ(−β), inside the moments M_k =
∫ zᵏ φ(z) dz. KL and metric are small differences of these, and computed in float64.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from trpo.models.distributions import HALF_LOG_TAU, DiagonalGaussian
from trpo.numerics.fisher import Product

WIDEST_BOUND = 1e30  # wider bounds are somebody's way to write infinity
FAR = 26.0  # σ: beyond lies a probability of 1e-149, whose square is the least that float64 can divide by


@dataclass(frozen=True)
class CensoredGaussian(DiagonalGaussian):
    """Independent normals clipped to limits: drawn as normals, probable and compared as what is sent.

    All draws beyond a limit are one action, whose probability is the normal's mass there. The ratio of two policies in
    it is the mean of the ratios of the draws that become it, so that the surrogate has the same expectation at every θ
    and varies less (Rao–Blackwell; of the gradient, Fujita & Maeda 2018, arXiv:1802.07564): how far beyond a limit a
    draw lay is noise, as the environment cannot see it.

    Nor does the trust region see it: KL and metric are those of what is sent, at most those of the draws. The entropy
    is that of the draws.

    >>> import torch
    >>> clipped = CensoredGaussian(1, (-1.0,), (1.0,))
    >>> parameters = torch.tensor([[1.0, 0.0]]).expand(2, 2)  # μ at the limit: half of all draws become it
    >>> clipped.log_prob(parameters, torch.tensor([[1.5], [7.0]])).exp().tolist()
    [0.5, 0.5]
    """

    low: tuple[float, ...]  # A each
    high: tuple[float, ...]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return Σ log P_< or log P_> where actions (N, A) reach a limit, and the normal's log density inside."""
        mean, log_std = parameters.chunk(2, dim=-1)
        low, high = self.limits(parameters)
        z = (torch.clamp(actions, low, high) - mean) * torch.exp(-log_std)
        below, above = actions <= low, actions >= high
        beyond = torch.where(above, -z, torch.where(below, z, 0.0))  # 0 inside, where its gradient is not asked for
        density = -0.5 * z**2 - log_std - HALF_LOG_TAU
        return torch.where(below | above, log_below(beyond).to(z.dtype), density).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return Σ P_< log(P_</P'_<) + P_> log(P_>/P'_>) + ½((e^{2d} − 1)M_2 − 2dM_0 + 2se^d M_1 + s²M_0).

        d = log σ − log σ', s = (μ − μ')/σ'. The last is what lies inside, ∫ p log(p/p'), and without limits (M_0 = M_2
        = 1, M_1 = 0) the normal's own KL.
        """
        (mean, log_std), (new_mean, new_log_std) = (y.double().chunk(2, dim=-1) for y in (old, new))
        cut, new_cut = (Cut.of(*y, *self.limits(mean)) for y in ((mean, log_std), (new_mean, new_log_std)))
        m0, m1, m2 = cut.moments(2)
        d, s = log_std - new_log_std, (mean - new_mean) * torch.exp(-new_log_std)
        inside = 0.5 * (torch.expm1(2 * d) * m2 - 2 * d * m0 + 2 * s * torch.exp(d) * m1 + s**2 * m0)
        below = cut.log_below.exp() * (cut.log_below - new_cut.log_below)
        above = cut.log_above.exp() * (cut.log_above - new_cut.log_above)
        return (below + above + inside).sum(-1)

    def sent(self, actions: Tensor) -> Tensor:
        """Return draws (…, A) as the environment is sent them, in the policy's units."""
        return torch.clamp(actions, *self.limits(actions))

    def metric(self, parameters: Tensor) -> Product:
        """Return the map with blocks [[i_μμ, i_μσ], [i_μσ, i_σσ]], E[∇log p ∇log pᵀ] of μ and log σ in each dimension.

        The score is [z/σ, z² − 1] inside, −[1/σ, α] φ(α)/P_< below and [1/σ, β] φ(β)/P_> above.
        """
        mean, log_std = parameters.double().chunk(2, dim=-1)
        cut, precision = Cut.of(mean, log_std, *self.limits(mean)), torch.exp(-log_std)
        m0, m1, m2, m3, m4 = cut.moments(4)
        below = torch.exp(2 * log_density(cut.low) - cut.log_below)
        above = torch.exp(2 * log_density(cut.high) - cut.log_above)
        of_means = precision**2 * (m2 + below + above)
        of_both = precision * (m3 - m1 + cut.low * below + cut.high * above)
        of_stds = m4 - 2 * m2 + m0 + cut.low**2 * below + cut.high**2 * above
        of_means, of_both, of_stds = (part.to(parameters.dtype) for part in (of_means, of_both, of_stds))

        def product(u: Tensor) -> Tensor:
            u_mean, u_log_std = u.chunk(2, dim=-1)
            return torch.cat([of_means * u_mean + of_both * u_log_std, of_both * u_mean + of_stds * u_log_std], dim=-1)

        return product

    def constants(self) -> dict[str, Tensor]:
        """Return the limits (2, A), for a dump."""
        return {"censored_at": torch.tensor([self.low, self.high])}

    def limits(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the limits (A,) each, of the dtype and on the device of a tensor."""
        return like.new_tensor(self.low), like.new_tensor(self.high)


class Cut(NamedTuple):
    """Where limits cut normals, and what is beyond them; (N, A) each."""

    low: Tensor  # α
    high: Tensor  # β
    log_below: Tensor  # log P_<
    log_above: Tensor  # log P_>

    @classmethod
    def of(cls, mean: Tensor, log_std: Tensor, low: Tensor, high: Tensor) -> Self:
        """Return where limits (A,) each cut these normals (N, A)."""
        low, high = ((limit - mean) * torch.exp(-log_std) for limit in (low, high))
        return cls(low, high, log_below(low), log_below(-high))

    def moments(self, most: int) -> list[Tensor]:
        """Return M_0 … M_most: by parts M_k = (k − 1)M_{k−2} + α^{k−1} φ(α) − β^{k−1} φ(β)."""
        at_low, at_high = (log_density(z).exp() for z in (self.low, self.high))
        moments = [1 - self.log_below.exp() - self.log_above.exp(), at_low - at_high]
        for k in range(2, most + 1):
            ends = self.low ** (k - 1) * at_low - self.high ** (k - 1) * at_high
            moments.append((k - 1) * moments[k - 2] + ends)
        return moments


def log_density(z: Tensor) -> Tensor:
    """Return log φ(z)."""
    return -0.5 * z**2 - HALF_LOG_TAU


def log_below(z: Tensor) -> Tensor:
    """Return log Φ(z) in float64, in a tenth of the time of `torch.special.log_ndtr`.

    Far out by the asymptotic series φ(z)/|z| (1 − z⁻² + 3z⁻⁴ − 15z⁻⁶) (Abramowitz & Stegun 1964, 26.2.12).
    """
    z = z.double()
    near = torch.log(0.5 * torch.erfc(z.clamp(min=-FAR) * -math.sqrt(0.5)))
    far = z.clamp(max=-FAR)
    w = far**-2
    series = log_density(far) - torch.log(-far) + torch.log1p(-w * (1 - 3 * w * (1 - 5 * w)))
    return torch.where(z > -FAR, near, series)


def censored_within(limits: Tensor) -> DiagonalGaussian:
    """Return normals that are clipped to limits (2, A), or plain ones where nothing is limited."""
    size, clamped = limits.shape[1], limits.clamp(-WIDEST_BOUND, WIDEST_BOUND)
    if torch.equal(clamped.abs(), torch.full_like(clamped, WIDEST_BOUND)):
        return DiagonalGaussian(size)
    low, high = clamped.tolist()
    return CensoredGaussian(size, tuple(low), tuple(high))
