"""What the coefficients and residuals of a conjugate-gradient run say about its matrix, free of further products."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trpo.numerics.conjugate_gradient import Solution


def lanczos_matrix(solution: Solution) -> Tensor:
    """Return VᵀAV + damping·I (k, k), float64, of k iterations; V: the normalised residuals, every other one negated.

    Tridiagonal, spelt out by the coefficients (Golub & Van Loan 2013, section 11.3.5; Saad 2003, section 6.7.3):
    T_kk = 1/α_k + β_{k−1}/α_{k−1}, T_{k,k+1} = √β_k / α_k.
    """
    alphas = torch.tensor(solution.alphas, dtype=torch.float64)
    betas = torch.tensor(solution.betas, dtype=torch.float64)
    diagonal = 1 / alphas
    diagonal[1:] += betas[:-1] / alphas[:-1]
    off_diagonal = betas[:-1].sqrt() / alphas[:-1]
    return torch.diag(diagonal) + torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)


def ritz_values(solution: Solution) -> Tensor:
    """Return estimates of the eigenvalues of A + damping·I, ascending (iterations,).

    The extreme ones approach those of the matrix from inside as far as b excites them.
    """
    if solution.iterations == 0:
        return torch.empty(0, dtype=torch.float64)
    eigenvalues: Tensor = torch.linalg.eigvalsh(lanczos_matrix(solution))
    return eigenvalues


class Shifted(NamedTuple):
    """The solution for another damping, from the same Krylov space."""

    x: Tensor  # (P,), float64
    curvature: float  # xᵀAx, undamped


def shifted_solutions(solution: Solution, damping: float, dampings: Sequence[float]) -> list[Shifted]:
    """Return (A + d·I)⁻¹b for each d, as conjugate gradient would after as many iterations.

    The Krylov space of b is the same for every shift of A, and so is its Lanczos basis V; with T the Lanczos matrix
    x = V(T + (d − damping)I)⁻¹Vᵀb. The solution must have been made with this damping, and its basis kept.
    """
    r = torch.stack([*solution.basis]).double()
    signs = torch.tensor([(-1.0) ** k for k in range(len(r))], dtype=torch.float64, device=r.device)
    norms = r.norm(dim=1)
    V = r * (signs / norms).unsqueeze(1)  # (k, P)
    T = lanczos_matrix(solution).to(r.device)
    identity = torch.eye(len(T), dtype=T.dtype, device=T.device)
    solutions = []
    for shift in dampings:
        y = torch.linalg.solve(T + (shift - damping) * identity, norms[0] * identity[0])
        solutions.append(Shifted(y @ V, float(y @ (T - damping * identity) @ y)))
    return solutions
