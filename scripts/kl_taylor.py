"""Why TRPO may replace the KL divergence by a quadratic form, in numbers.

    python scripts/kl_taylor.py                     # tables, in seconds
    python scripts/kl_taylor.py --figure FILE       # and one figure

It starts from a worked example that compares the KL divergence of p = (0.3, 0.7) and q = (0.2, 0.8) with a quadratic
form in a "Fisher matrix", reproduces its printed numbers, shows what is wrong with them, and goes on to where TRPO
lives: Gaussians, softmax policies, a real policy network, and the constrained optimum itself.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from constrained_optimum import (
    Optimum,
    exact_optima,
    pendulum_objective,
    print_exact_optima,
    print_quadratic_optimum,
)
from matplotlib.figure import Figure
from torch import Tensor

from trpo.models.distributions import Categorical, DiagonalGaussian
from trpo.numerics.taylor import along, fitted_order, taylor_terms

P = np.array([0.3, 0.7])
Q = np.array([0.2, 0.8])
FRACTIONS = [10 ** (-k / 8) for k in range(8, 17)]  # one decade: small enough, and above rounding


class Series(NamedTuple):
    """Errors of one approximation along one ray."""

    name: str
    exact: list[float]  # the KL at each fraction
    errors: list[float]  # exact − approximation

    @property
    def order(self) -> float:
        """The power of the fraction that the error falls with."""
        return fitted_order(FRACTIONS, self.errors)

    @property
    def relative_error(self) -> float:
        """(approximation − exact) / exact at the smallest fraction."""
        return -self.errors[-1] / self.exact[-1]


def kl_bits(p: np.ndarray, q: np.ndarray) -> float:
    """Return Σ p log₂(p / q), in bits."""
    return float(np.sum(np.where(p != 0, p * np.log2(p / q), 0)))


def kl_nats(p: np.ndarray, q: np.ndarray) -> float:
    """Return Σ p ln(p / q), in nats."""
    return float(np.sum(p * np.log(p / q)))


def matrix_at_new(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return diag(p_i / q_i²), the Hessian of the KL in q, taken at the new point."""
    return np.diag(p / q**2)


def matrix_at_old(p: np.ndarray) -> np.ndarray:
    """Return diag(1 / p_i), the same Hessian at the old point q = p: the Fisher matrix."""
    return np.diag(1 / p)


def quadratic(matrix: np.ndarray, step: np.ndarray) -> float:
    """Return ½ΔᵀHΔ."""
    return float(1 / 2 * (step @ matrix.T @ step))


def example() -> None:
    """Print the example as it was printed, then in one unit and with the matrix at the old point."""
    heading("The example, with its own formulas")
    print(f"Fisher matrix            {np.diag(matrix_at_new(P, Q))} on the diagonal")
    print(f"KL divergence            {kl_bits(P, Q)}")
    print(f"quadratic form           {quadratic(matrix_at_new(P, Q), P - Q)}")
    print(f"difference               {kl_bits(P, Q) - quadratic(matrix_at_new(P, Q), P - Q)}")
    print("\nThe KL is in bits, the form in nats, and its matrix is taken at the new point. The slips nearly cancel.")

    heading("The same in nats, with the matrix at the old point")
    exact = kl_nats(P, Q)
    for name, matrix in (
        ("matrix at the new point", matrix_at_new(P, Q)),
        ("matrix at the old point", matrix_at_old(P)),
    ):
        form = quadratic(matrix, P - Q)
        print(f"{name}  {np.diag(matrix)}: KL {exact:.6f}, form {form:.6f}, KL − form {exact - form:+.6f}")


def first_orders() -> None:
    """Print the check that orders 0 and 1 vanish: in (q₁, q₂) only along the simplex, in logits everywhere."""
    heading("Orders 0 and 1 at q = p")
    p = torch.from_numpy(P)

    def in_probabilities(q: Tensor) -> Tensor:
        return (p * (p / q).log()).sum()

    def in_logits(logits: Tensor) -> Tensor:
        return Categorical((2,)).kl(p.log().unsqueeze(0), logits.unsqueeze(0)).sum()

    print(f"KL(p ‖ p) = {float(in_probabilities(p)):.1f}")
    for name, function, at in (("(q₁, q₂)", in_probabilities, p), ("logits", in_logits, p.log())):
        gradient = torch.autograd.functional.jacobian(function, at)
        print(f"gradient in {name:<9} autograd {show(gradient)}   finite differences {show(differences(function, at))}")
    print("Along the simplex (Δq₁ + Δq₂ = 0) the first one vanishes too: (−1, −1)·(−1, 1) = 0.")


def differences(function: Callable[[Tensor], Tensor], at: Tensor, width: float = 1e-5) -> Tensor:
    """Return the gradient by central differences."""
    units = torch.eye(len(at), dtype=at.dtype) * width
    return torch.stack([(function(at + unit) - function(at - unit)) / (2 * width) for unit in units])


def simplex_series() -> list[Series]:
    """Return the example's three forms as q → p along the simplex."""
    steps = [t * (Q - P) for t in FRACTIONS]
    bits, nats = [kl_bits(P, P + step) for step in steps], [kl_nats(P, P + step) for step in steps]
    new = [quadratic(matrix_at_new(P, P + step), step) for step in steps]
    old = [quadratic(matrix_at_old(P), step) for step in steps]
    return [
        Series("bits against nats", bits, subtract(bits, new)),
        Series("nats, matrix at the new point", nats, subtract(nats, new)),
        Series("nats, matrix at the old point", nats, subtract(nats, old)),
    ]


def gaussian_series() -> Series:
    """Return the quadratic form of a Gaussian in (μ, log σ), in a direction that moves both."""
    old = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    distribution = DiagonalGaussian(1)
    return series_along("Gaussian in (μ, log σ)", lambda y: distribution.kl(old, y.unsqueeze(0)).sum(), old[0], 0.3)


def softmax_series() -> Series:
    """Return the quadratic form of a softmax over logits at a point without symmetry."""
    old = torch.tensor([[0.2, -0.7, 1.1]], dtype=torch.float64)
    distribution = Categorical((3,))
    return series_along("softmax over logits", lambda y: distribution.kl(old, y.unsqueeze(0)).sum(), old[0], 1.0)


def network_series() -> Series:
    """Return the quadratic form of a policy network on observations of Pendulum, along a random direction."""
    objective = pendulum_objective(hidden_sizes=(16, 16))
    theta = objective.theta.detach()
    direction = torch.randn(len(theta), generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    step = direction / math.sqrt(float(direction @ objective.fisher_product(direction)))
    terms = taylor_terms(objective.kl, theta, step, product=objective.fisher_product)
    points = along(objective.kl, theta, step, terms, FRACTIONS)
    return Series("policy network on Pendulum", [p.value for p in points], [p.errors[2] for p in points])


def series_along(name: str, kl: Callable[[Tensor], Tensor], at: Tensor, length: float) -> Series:
    """Return the second-order error of `kl` along a fixed generic direction of this length."""
    direction = torch.tensor([0.8, -0.5, 0.33], dtype=at.dtype)[: len(at)]
    step = length * direction / direction.norm()
    points = along(kl, at, step, taylor_terms(kl, at, step), FRACTIONS)
    return Series(name, [p.value for p in points], [p.errors[2] for p in points])


def orders(series: Sequence[Series]) -> None:
    """Print how the error of each approximation falls as the new distribution approaches the old one."""
    heading("Errors as the new distribution approaches the old one: error ~ stepᵒʳᵈᵉʳ")
    print(f"{'':<32}{'order':>7}{'relative error':>16}    error (KL − form) at step fractions")
    print(f"{'':<32}{'':>7}{'(at the last)':>16}    " + "".join(f"{t:>12.4f}" for t in FRACTIONS[::4]))
    for one in series:
        errors = "".join(f"{error:>12.2e}" for error in one.errors[::4])
        print(f"{one.name:<32}{one.order:>7.3f}{one.relative_error:>+16.2%}    {errors}")
    print(f"\nBits against nats is no approximation: its relative error tends to ln 2 − 1 = {math.log(2) - 1:+.1%}.")
    print("The matrix at the new point gives −2 times the error of the one at the old point.")


def draw(series: Sequence[Series], optimum: Sequence[Optimum]) -> Figure:
    """Return the errors of the approximations and of the step that they lead to, on log-log axes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for one in series:
        sizes = np.abs(one.errors)
        left.loglog(FRACTIONS, sizes, marker=".", label=f"{one.name}: order {one.order:.2f}")
    left.set(xlabel="step, as a fraction of the longest", ylabel="|KL − quadratic form|")
    left.set_title("How good is the quadratic form?")
    left.legend(fontsize="small")

    bounds = [one.max_kl for one in optimum]
    right.loglog(bounds, [one.difference for one in optimum], marker="o", label="measured")
    scale = optimum[-1].difference / math.sqrt(bounds[-1])
    right.loglog(bounds, [scale * math.sqrt(bound) for bound in bounds], "k--", linewidth=1, label="∝ √δ")
    right.set(xlabel="δ, nats", ylabel="‖step of TRPO − exact step‖ / ‖exact step‖")
    right.set_title("How good is the step that TRPO takes with it?")
    right.legend()
    for panel in (left, right):
        panel.grid(alpha=0.3, which="both")
    return figure


def subtract(exact: list[float], forms: list[float]) -> list[float]:
    """Return exact − form, one by one."""
    return [a - b for a, b in zip(exact, forms, strict=True)]


def show(vector: Tensor) -> str:
    """Return a vector as text, with rounding noise as zero."""
    return "(" + ", ".join(f"{0.0 if abs(value) < 1e-9 else value:.6f}" for value in vector.tolist()) + ")"


def heading(text: str) -> None:
    """Print a section's heading."""
    print(f"\n{text}\n{'─' * len(text)}")


def main() -> None:
    """Print the tables; draw the figure if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, metavar="FILE")
    options = parser.parse_args()
    series = [*simplex_series(), gaussian_series(), softmax_series(), network_series()]
    example()
    first_orders()
    orders(series)
    heading("The constrained optimum")
    print_quadratic_optimum()
    optimum = exact_optima(pendulum_objective(hidden_sizes=()))
    print_exact_optima(optimum)
    if options.figure:
        draw(series, optimum).savefig(options.figure, dpi=120)
        print(f"\n{options.figure}")


if __name__ == "__main__":
    main()
