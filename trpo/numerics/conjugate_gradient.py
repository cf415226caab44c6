"""Conjugate gradient for (A + damping·I)x = b with a symmetric A known only by its products."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor


class Stop(Enum):
    """Why conjugate gradient stopped; the value is what a person reads."""

    CONVERGED = "the relative residual reached the tolerance"
    MAX_ITERATIONS = "the iterations ran out before the tolerance was reached"
    ZERO_RIGHT_HAND_SIDE = "the right-hand side is zero, and so is the solution"
    NON_POSITIVE_CURVATURE = "a search direction had pᵀAp ≤ 0: the matrix is not positive definite"
    NON_FINITE = "a product, the right-hand side or the solution held NaN or infinity"


class Solution(NamedTuple):
    """The last good iterate and how it was reached."""

    x: Tensor  # (P,)
    product: Tensor  # Ax (P,), undamped, put together from the products that were made
    stop: Stop
    residuals: list[float]  # ‖b − (A + damping·I)x_k‖ / ‖b‖ by recurrence, k = 0 … iterations
    alphas: list[float]  # step lengths, one per iteration
    betas: list[float]  # direction updates, one per iteration
    basis: Sequence[Tensor] = ()  # b − (A + damping·I)x_k (P,) before each iteration, if asked for

    @property
    def iterations(self) -> int:
        """Iterations that moved x."""
        return len(self.alphas)


def dot(a: Tensor, b: Tensor) -> float:
    """Return aᵀb summed in float64, where a float32 sum of squares could overflow, underflow or round."""
    return float(a.double() @ b.double())


def conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    damping: float = 0.0,
    max_iterations: int,
    tolerance: float,
    keep_basis: bool = False,
) -> Solution:
    """Return x ≈ (A + damping·I)⁻¹b from at most `max_iterations` products (Nocedal & Wright 2006, algorithm 5.2).

    Differs from the textbook in how it ends, not in what it computes. The start is x = 0 (so x never holds
    anything that is not in the Krylov space of b), the tolerance is relative to ‖b‖, and no epsilon props up a
    division: a curvature ≤ 0 or a non-finite number stops with its own reason and the iterate before it. The first
    product is one with b itself. Ax = Σ α_k Ap_k comes with x, so that nobody needs another product for xᵀAx.
    Inputs are not modified; the same inputs give the same bits. With `keep_basis` the residuals are kept: they span the
    Krylov space, in which `krylov` solves for other dampings as well.

    >>> import torch
    >>> import trpo
    >>> A = torch.tensor([[2.0, 0.0], [0.0, 4.0]])
    >>> solution = trpo.conjugate_gradient(lambda v: A @ v, torch.tensor([2.0, 2.0]), max_iterations=2, tolerance=1e-6)
    >>> [round(number, 5) for number in solution.x.tolist()]
    [1.0, 0.5]
    """
    x, Ax, r, p = torch.zeros_like(b), torch.zeros_like(b), b, b
    r_squared = dot(r, r)
    b_norm = r_squared**0.5
    residuals: list[float] = [1.0]
    alphas: list[float] = []
    betas: list[float] = []
    basis: list[Tensor] = []
    stop = Stop.MAX_ITERATIONS
    if not math.isfinite(r_squared):
        return Solution(x, Ax, Stop.NON_FINITE, [], alphas, betas)
    if r_squared == 0.0:
        return Solution(x, Ax, Stop.ZERO_RIGHT_HAND_SIDE, [0.0], alphas, betas)
    for _ in range(max_iterations):
        Ap = product(p)
        damped = Ap + damping * p
        curvature = dot(p, damped)
        if not math.isfinite(curvature):  # any NaN or infinity in Ap makes the sum one
            stop = Stop.NON_FINITE
            break
        if curvature <= 0.0:
            stop = Stop.NON_POSITIVE_CURVATURE
            break
        alpha = r_squared / curvature
        following = x + alpha * p
        if not math.isfinite(dot(following, following)):
            stop = Stop.NON_FINITE
            break
        x, Ax = following, Ax + alpha * Ap
        if keep_basis:
            basis.append(r)
        r = r - alpha * damped
        previous, r_squared = r_squared, dot(r, r)
        alphas.append(alpha)
        betas.append(r_squared / previous)
        residuals.append(r_squared**0.5 / b_norm)
        if residuals[-1] <= tolerance:
            stop = Stop.CONVERGED
            break
        p = r + betas[-1] * p
    return Solution(x, Ax, stop, residuals, alphas, betas, basis)
