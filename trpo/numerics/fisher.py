"""Products with the Fisher information matrix of a policy, without ever forming it.

At θ_old the Hessian of E_s[KL(π_old ‖ π_θ)] is the Fisher matrix F = E_s[JᵀMJ] (Schulman et al. 2015, TRPO,
arXiv:1502.05477, appendix C.1), J = ∂y/∂θ the Jacobian of the distribution parameters y and M = ∂²KL/∂y² the
distribution's own metric. Both forms are here; both differentiate twice through the network by autograd.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def gauss_newton_product(parameters: Tensor, theta: Tensor, metric_product: Product) -> Product:
    """Return v ↦ JᵀMJv / N, summed over the N rows of `parameters`.

    The graph of ``vjp(w) = Jᵀw`` is built once, with a cotangent w that is a variable. It is linear in w, so its own
    derivative along v is Jv, and every product is two backward passes, v → Jv → MJv → JᵀMJv, with no second
    derivatives of the network and no forward pass. Positive semi-definite by construction.

    Args:
        parameters: y(θ) (N, D), with its graph.
        theta: θ (P,), the leaf that the graph starts from.
        metric_product: u (N, D) ↦ Mu (N, D), the metric at θ_old.

    >>> import torch
    >>> import trpo
    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> parameters = torch.stack([3 * theta, theta])  # J is diag(3, 3) in one row and the identity in the other
    >>> trpo.gauss_newton_product(parameters, theta, lambda u: u)(torch.tensor([1.0, 0.0])).tolist()
    [5.0, 0.0]
    """
    cotangent = torch.zeros_like(parameters, requires_grad=True)
    (vjp,) = torch.autograd.grad(parameters, theta, cotangent, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (jv,) = torch.autograd.grad(vjp, cotangent, v, retain_graph=True)
        (jt_mjv,) = torch.autograd.grad(parameters, theta, metric_product(jv), retain_graph=True)
        return jt_mjv / len(parameters)

    return product


def hessian_product(mean_kl: Tensor, theta: Tensor) -> Product:
    """Return v ↦ (∂²KL/∂θ²)v for a scalar `mean_kl` with its graph from the leaf `theta` (P,).

    The textbook form: ∇(∇KL · v). Equal to `gauss_newton_product` at θ_old only, where the KL's own gradient with
    respect to y is zero and the second derivatives of the network drop out.

    >>> import torch
    >>> import trpo
    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> trpo.hessian_product((theta**2).sum() + theta.prod(), theta)(torch.tensor([1.0, 0.0])).tolist()
    [2.0, 1.0]
    """
    (gradient,) = torch.autograd.grad(mean_kl, theta, create_graph=True)

    def product(v: Tensor) -> Tensor:
        (hv,) = torch.autograd.grad(gradient, theta, v, retain_graph=True)
        return hv

    return product
