"""The three quantities that TRPO needs of a batch, averaged over the samples of all ranks, by micro-batches.

    L(θ)                                       the surrogate, one of `surrogates`
    K(θ) = mean[KL(π_old(·|s) ‖ π_θ(·|s))]     the constraint      (TRPO, arXiv:1502.05477, equation 14)
    F    = mean[JᵀMJ] = ∂²K/∂θ² at θ_old       the Fisher matrix   (appendix C.1)

There is one K: line search, Hessian form of F, first-order check and logs all go through `Objective.divergence`.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.models.memory import whole_segments
from trpo.models.networks import Policy
from trpo.numerics.fisher import Product, gauss_newton_product, hessian_product
from trpo.numerics.line_search import Evaluation
from trpo.numerics.params import flatten, forward_at
from trpo.numerics.spread import spread
from trpo.system import ranks
from trpo.update.surrogates import Piece, Score, Surrogate, pieces


class Objective:
    """Surrogate, KL and Fisher products of one policy on one batch, at and around θ_old.

    Nothing here writes to the policy: every θ is evaluated by `forward_at`. Micro-batches change nothing but the
    rounding: that of the sums, and that of each row, as a pass over fewer rows may differ in the last bits from the
    one over all of them. With one micro-batch the graph at θ_old is built once and kept for every gradient and
    product; with several, each is rebuilt when needed, so that memory stays that of one.

    Args:
        policy: the policy, holding θ_old.
        batch: the samples.
        surrogate: L; `Score` if none is given.
        fisher: `gauss_newton` or `hessian`, the form of the Fisher product.
        micro_batch: the most rows in one forward pass; 0 for all.
        theta: θ_old (P,), if the policy no longer holds it.
        rows: the indices of the samples to use; all of them without.
    """

    def __init__(
        self,
        policy: Policy,
        batch: Batch,
        surrogate: Surrogate | None = None,
        *,
        fisher: str = "gauss_newton",
        micro_batch: int = 0,
        theta: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self.policy = policy
        self.distribution = policy.distribution
        self.fisher = fisher
        self.theta = (flatten(policy) if theta is None else theta.clone()).requires_grad_()
        self.surrogate = surrogate or Score(policy.distribution, batch)
        self.pieces = pieces(batch, self.surrogate, micro_batch=micro_batch, rows=rows)
        own = sum(len(piece.old_parameters) for piece in self.pieces)
        self.samples = int(ranks.total(torch.tensor(own)))  # N, of all ranks

    def parameters(self, theta: Tensor, observations: Tensor) -> Tensor:
        """Return the distribution parameters (n, D) of the policy with parameters θ (P,)."""
        return forward_at(self.policy, theta, observations)

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return L(θ) − L(θ_old) of each row (n,), float64."""
        return self.surrogate.gain(parameters, piece)

    def divergence(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return KL(π_old ‖ π_θ) of each row (n,) in nats, float64."""
        return self.distribution.kl(piece.old_parameters, parameters)

    def divergence_reverse(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return KL(π_θ ‖ π_old) of each row (n,) in nats, float64."""
        return self.distribution.kl(parameters, piece.old_parameters)

    def kl(self, theta: Tensor) -> Tensor:
        """Return this rank's share of K(θ), a float64 scalar that can be differentiated any number of times."""
        return torch.stack([self.share_of_kl(theta, piece) for piece in self.pieces]).sum()

    def share_of_kl(self, theta: Tensor, piece: Piece) -> Tensor:
        """Return what one micro-batch adds to K(θ)."""
        return self.divergence(self.parameters(theta, piece.observations), piece).sum() / self.samples

    def surrogate_gain(self, theta: Tensor) -> Tensor:
        """Return this rank's share of L(θ) − L(θ_old), a float64 scalar that can be differentiated as often as `kl`."""
        gains = [self.gain(self.parameters(theta, piece.observations), piece).sum() for piece in self.pieces]
        return torch.stack(gains).sum() / self.samples

    @torch.no_grad()
    def evaluate(self, theta: Tensor) -> Evaluation:
        """Return the exact surrogate gain and divergences of a candidate θ (P,)."""
        figures = []
        for piece in self.pieces:
            parameters = self.parameters(theta, piece.observations)
            divergence = self.divergence(parameters, piece)
            reverse = self.divergence_reverse(parameters, piece)
            gain = self.gain(parameters, piece)
            figures.append(torch.stack([gain.sum(), divergence.sum(), reverse.sum(), divergence.max()]))
        of_pieces = torch.stack(figures)
        everyones = ranks.gathered(torch.cat([of_pieces[:, :3].sum(0), of_pieces[:, 3:].amax(0)]))
        improvement, kl, kl_reverse = (everyones[:, :3].sum(0) / self.samples).tolist()
        return Evaluation(improvement, kl, kl_reverse, float(everyones[:, 3].max()))

    def gradient(self) -> Tensor:
        """Return g (P,), the gradient of the surrogate at θ_old."""
        return self._mean_and_gradient(self.gain)[1]

    def kl_and_gradient(self) -> tuple[float, Tensor]:
        """Return K(θ_old) and ∇K(θ_old) (P,): both zero if the batch's old parameters are those of θ_old.

        To the bit where all rows are one micro-batch, the pass that `make_batch` took them from. With several the
        parameters are off by their rounding, a relative ε of the network's dtype, so ∇K is of order ε, K of order ε².
        """
        return self._mean_and_gradient(self.divergence)

    def fisher_product(self, v: Tensor) -> Tensor:
        """Return Fv (P,), undamped."""
        product = torch.zeros_like(v)
        for piece in self.pieces:
            product += self._linearized(piece)(v) * (len(piece.old_parameters) / self.samples)
        return ranks.total(product)

    def _mean_and_gradient(self, rowwise: Callable[[Tensor, Piece], Tensor]) -> tuple[float, Tensor]:
        value_and_gradient = torch.zeros(1 + len(self.theta), dtype=torch.float64, device=self.theta.device)
        for piece in self.pieces:
            mean = rowwise(self._parameters_at_theta(piece), piece).sum() / self.samples
            (gradient,) = torch.autograd.grad(mean, self.theta, retain_graph=len(self.pieces) == 1)
            value_and_gradient += torch.cat([mean.detach().view(1), gradient.double()])
        value_and_gradient = ranks.total(value_and_gradient)
        return float(value_and_gradient[0]), value_and_gradient[1:].to(self.theta.dtype)

    def _linearized(self, piece: Piece) -> Product:
        return self._kept_product if len(self.pieces) == 1 else self._linearize(piece)

    def _linearize(self, piece: Piece) -> Product:
        parameters = self._parameters_at_theta(piece)
        if self.fisher == "hessian":
            return hessian_product(self.divergence(parameters, piece).mean(), self.theta)
        return gauss_newton_product(parameters, self.theta, self.distribution.metric(parameters.detach()))

    def _parameters_at_theta(self, piece: Piece) -> Tensor:
        if len(self.pieces) == 1:
            return self._kept_parameters
        return self.parameters(self.theta, piece.observations)

    @cached_property
    def _kept_parameters(self) -> Tensor:
        return self.parameters(self.theta, self.pieces[0].observations)

    @cached_property
    def _kept_product(self) -> Product:
        return self._linearize(self.pieces[0])


def evenly_spread(batch: Batch, fraction: float) -> Tensor:
    """Return the indices of round(fraction · N) rows of a batch, at least one; always the same ones.

    They are of all times and of all environments; with memory those of as large a share of its segments.
    """
    segments = whole_segments(batch.observations)
    samples = len(batch.old_parameters) if segments is None else len(segments)
    count = max(1, round(fraction * samples))
    chosen = spread(samples, count, batch.old_parameters.device)
    return chosen if segments is None else torch.cat([segments[i] for i in chosen.tolist()])
