"""The step of TRPO against a numerical solver of the same constrained problem; printed by kl_taylor.py."""

import math
from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np
import torch
from scipy.optimize import NonlinearConstraint, minimize
from torch import Tensor

from trpo import Batch, GaussianPolicy
from trpo.numerics.conjugate_gradient import conjugate_gradient
from trpo.numerics.taylor import fitted_order
from trpo.update.objective import Objective

BOUNDS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # δ, nats


class Optimum(NamedTuple):
    """TRPO's step and the exact one for one δ."""

    max_kl: float
    step: np.ndarray  # √(2δ / gᵀF⁻¹g) F⁻¹g
    exact: np.ndarray  # argmax L(θ_old + Δ) subject to K(θ_old + Δ) ≤ δ

    @property
    def difference(self) -> float:
        """‖step − exact‖ / ‖exact‖."""
        return float(np.linalg.norm(self.step - self.exact) / np.linalg.norm(self.exact))


def lagrange_step(hessian: Tensor, gradient: Tensor, max_kl: float) -> tuple[Tensor, float]:
    """Return the maximiser of gᵀΔ subject to ½ΔᵀHΔ ≤ δ and its multiplier, in closed form.

    Δ = √(2δ / gᵀH⁻¹g) H⁻¹g and λ = √(gᵀH⁻¹g / 2δ), from g = λHΔ and an active constraint.
    """
    solution = conjugate_gradient(lambda v: hessian @ v, gradient, max_iterations=10 * len(gradient), tolerance=1e-12).x
    multiplier = math.sqrt(float(gradient @ solution) / (2 * max_kl))
    return solution / multiplier, multiplier


def quadratic_optimum() -> tuple[Tensor, float, np.ndarray, float]:
    """Return step and multiplier in closed form and from SciPy, for a random quadratic problem."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    hessian, gradient = root @ root.T + torch.eye(5), torch.randn(5, generator=generator, dtype=torch.float64)
    max_kl = 0.01
    step, multiplier = lagrange_step(hessian, gradient, max_kl)
    H, g = hessian.numpy(), gradient.numpy()
    constraint = NonlinearConstraint(
        lambda d: 0.5 * d @ H @ d, -np.inf, max_kl, jac=lambda d: H @ d, hess=lambda _, v: v[0] * H
    )
    found = minimize(
        lambda d: -g @ d,
        np.zeros(5),
        jac=lambda _: -g,
        hess=lambda _: np.zeros((5, 5)),
        constraints=constraint,
        method="trust-constr",
        options={"gtol": 1e-12, "xtol": 1e-14, "barrier_tol": 1e-12, "maxiter": 5_000},
    )
    return step, multiplier, found.x, float(found.v[0][0])


def exact_optima(objective: Objective) -> list[Optimum]:
    """Return TRPO's step and SciPy's solution of the exact problem, for every δ in `BOUNDS`."""
    gradient = objective.gradient()
    size = len(gradient)
    fisher = torch.stack([objective.fisher_product(unit) for unit in torch.eye(size, dtype=gradient.dtype)])
    optima = []
    for max_kl in BOUNDS:
        step = lagrange_step(fisher, gradient, max_kl)[0].numpy()
        optima.append(Optimum(max_kl, step, solve_exactly(objective, max_kl, step)))
    return optima


def solve_exactly(objective: Objective, max_kl: float, start: np.ndarray) -> np.ndarray:
    """Return argmax L(θ_old + Δ) subject to K(θ_old + Δ) ≤ δ by SLSQP, from `start`.

    In units of √δ for Δ and L and of δ for K the problem looks the same for every δ.
    """
    theta, scale = objective.theta.detach(), math.sqrt(max_kl)

    def scaled(function: Callable[[Tensor], Tensor], unit: float) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        def value_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
            at = (theta + scale * torch.from_numpy(u)).requires_grad_()
            value = function(at) / unit
            (gradient,) = torch.autograd.grad(value, at)
            return float(value.detach()), scale * gradient.numpy()

        return value_and_gradient

    loss = scaled(lambda at: -objective.surrogate_gain(at), scale)
    kl = scaled(objective.kl, max_kl)
    bound = {"type": "ineq", "fun": lambda u: 1 - kl(u)[0], "jac": lambda u: -kl(u)[1]}
    options = {"ftol": 1e-15, "maxiter": 500}
    found = minimize(loss, start / scale, jac=True, constraints=[bound], method="SLSQP", options=options)
    return np.asarray(scale * found.x)


def pendulum_objective(hidden_sizes: tuple[int, ...]) -> Objective:
    """Return the objective of a float64 policy on 256 real observations, away from its symmetric start."""
    generator = torch.Generator().manual_seed(0)
    policy = GaussianPolicy(
        3, 1, hidden_sizes=hidden_sizes, activation="tanh", initial_log_std=-0.5, min_log_std=-5.0, generator=generator
    ).double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
        observations = pendulum_observations(256)
        parameters = policy(observations)
        noise = policy.distribution.noise(len(parameters), generator, parameters.dtype)
        actions = policy.distribution.sample(parameters, noise)
    advantages = -(actions.squeeze(-1) - observations[:, 1]).square()
    advantages = (advantages - advantages.mean()) / advantages.std()
    return Objective(policy, Batch(observations, actions, parameters, advantages, advantages))


def pendulum_observations(count: int) -> Tensor:
    """Return observations (count, 3) of Pendulum under uniformly random actions."""
    env = gymnasium.make("Pendulum-v1")
    env.action_space.seed(0)
    rows = [env.reset(seed=0)[0]]
    while len(rows) < count:
        observation, _, _, truncated, _ = env.step(env.action_space.sample())
        rows.append(env.reset()[0] if truncated else observation)
    env.close()
    return torch.from_numpy(np.array(rows)).double()


def print_quadratic_optimum() -> None:
    """Print the closed form beside the numerical solver's answer."""
    step, multiplier, found, found_multiplier = quadratic_optimum()
    print("Quadratic problem, max gᵀΔ subject to ½ΔᵀHΔ ≤ δ, five random dimensions, δ = 0.01:")
    print(f"  closed form  Δ = {np.round(step.numpy(), 6)}   multiplier λ = {multiplier:.6f}")
    print(f"  SciPy        Δ = {np.round(found, 6)}   multiplier λ = {found_multiplier:.6f}")


def print_exact_optima(optima: list[Optimum]) -> None:
    """Print how the steps differ as δ shrinks."""
    print("\nExact problem, max L(θ) subject to KL(old ‖ θ) ≤ δ, a Gaussian policy on Pendulum:")
    print("  δ          ‖step of TRPO − exact step‖ / ‖exact step‖")
    for optimum in optima:
        print(f"  {optimum.max_kl:<10.0e} {optimum.difference:.6f}")
    order = fitted_order([one.max_kl for one in optima], [one.difference for one in optima])
    print(f"  falls as δ^{order:.3f}: halve the radius √δ and TRPO is twice as close to the exact answer")
