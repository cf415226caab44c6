"""The Taylor expansion of a scalar function along a step, and how far each truncation is off."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trpo.numerics.fisher import Product

ORDERS = 4  # 0 to 3


class Point(NamedTuple):
    """One point θ + t·s on the ray: the exact value and the four truncated expansions there."""

    fraction: float  # t
    value: float  # f(θ + ts)
    predictions: tuple[float, ...]  # Σ_{j ≤ k} t^j term_j for k = 0 … 3

    @property
    def errors(self) -> tuple[float, ...]:
        """f(θ + ts) minus each prediction; the k-th is O(t^{k+1})."""
        return tuple(self.value - prediction for prediction in self.predictions)


def taylor_terms(
    function: Callable[[Tensor], Tensor], theta: Tensor, step: Tensor, *, product: Product | None = None
) -> tuple[float, ...]:
    """Return the terms of orders 0 to 3 of f(θ + s): f, ∇fᵀs, ½sᵀHs, ⅙ Σ ∂³f s s s, all at θ.

    With φ(t) = f(θ + ts) the term of order k is φ⁽ᵏ⁾(0) / k!, one more derivative of a scalar with respect to
    a scalar each. A `product` v ↦ Hv, such as the Fisher product of an update, replaces the second one: what is then
    compared with the exact value is the very quadratic form that the update used.

    Args:
        function: f, differentiable three times at θ.
        theta: θ (P,).
        step: s (P,).
        product: v (P,) ↦ Hv (P,), if the curvature should come from elsewhere than from f.
    """
    t = torch.zeros((), dtype=theta.dtype, device=theta.device, requires_grad=True)
    derivative = function(theta + t * step)
    terms, factorial = [float(derivative.detach())], 1
    for order in range(1, ORDERS):
        factorial *= order
        if derivative.requires_grad:  # else f is a polynomial of lower order, and the rest is zero
            (derivative,) = torch.autograd.grad(derivative, t, create_graph=True, materialize_grads=True)
        else:
            derivative = torch.zeros_like(derivative)
        terms.append(float(derivative.detach()) / factorial)
    if product is not None:
        terms[2] = 0.5 * float(step.double() @ product(step).double())
    return tuple(terms)


@torch.no_grad()
def along(
    function: Callable[[Tensor], Tensor],
    theta: Tensor,
    step: Tensor,
    terms: Sequence[float],
    fractions: Sequence[float],
) -> list[Point]:
    """Return f and its truncated expansions at θ + t·s for every fraction t."""
    points = []
    for t in fractions:
        scaled = [term * t**order for order, term in enumerate(terms)]
        predictions = tuple(sum(scaled[: order + 1]) for order in range(len(scaled)))
        points.append(Point(t, float(function(theta + t * step)), predictions))
    return points


def fitted_order(fractions: Sequence[float], errors: Sequence[float]) -> float:
    """Return the slope of log|error| over log t by least squares: p where the error behaves as tᵖ."""
    x = torch.tensor(fractions, dtype=torch.float64).log()
    y = torch.tensor(errors, dtype=torch.float64).abs().log()
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / (x @ x))
