"""One TRPO policy step: maximise the surrogate inside KL(π_old ‖ π_θ) ≤ δ (arXiv:1502.05477, appendix C).

1  g = ∇L(θ_old)
2  x ≈ (F + damping·I)⁻¹ g                      by conjugate gradient
3  λ = √(xᵀFx / 2δ),  s = x / λ                 the quadratic model of the KL is δ at s
4  θ = θ_old + fraction · s                     the first fraction whose exact KL ≤ δ and surrogate improves
"""

import math
from enum import Enum
from typing import Any, NamedTuple

from torch import Tensor

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.networks import Policy
from trpo.numerics.conjugate_gradient import Solution, Stop, conjugate_gradient, dot, ritz_values
from trpo.numerics.line_search import Search, Verdict, line_search
from trpo.numerics.params import assign
from trpo.objective import Objective, subsample


class Outcome(Enum):
    """How a step ended; the value is the sentence a person reads. Only ACCEPTED changes the policy."""

    ACCEPTED = "accepted"
    ZERO_GRADIENT = "the surrogate's gradient is zero: all advantages are equal, or no action can matter"
    NON_FINITE_GRADIENT = "the surrogate's gradient holds NaN or infinity: look at advantages and log-probs"
    NON_FINITE_PRODUCT = "a Fisher product holds NaN or infinity: look at the policy's parameters"
    NON_POSITIVE_CURVATURE = "the Fisher matrix is not positive along the step: raise trust_region.damping"
    NON_FINITE_CANDIDATE = "the last candidate's surrogate or KL was not finite: the step is far too long"
    KL_TOO_LARGE = "every candidate broke the KL bound: raise trust_region.max_backtracks or damping"
    NO_IMPROVEMENT = "no candidate improved the surrogate: the gradient is noise, or cg_tolerance is too loose"


REJECTIONS = {
    Verdict.KL_TOO_LARGE: Outcome.KL_TOO_LARGE,
    Verdict.NO_IMPROVEMENT: Outcome.NO_IMPROVEMENT,
    Verdict.NON_FINITE: Outcome.NON_FINITE_CANDIDATE,
}


class StepInfo(NamedTuple):
    """What one policy step did. A figure that does not exist in a step is None.

    s is the full step and f the fraction of it that was taken: 0 if the step was rejected, and then `kl`,
    `kl_quadratic` and all that belongs to the taken step is 0 as well, being that of the policy in force.
    """

    outcome: Outcome
    max_kl: float  # δ, nats
    gradient_norm: float  # ‖g‖
    kl_zeroth_order: float | None = None  # K(θ_old): 0
    kl: float = 0.0  # K(θ), nats, exact
    kl_quadratic: float = 0.0  # ½(fs)ᵀF(fs), undamped, whole batch: what the approximation predicted
    kl_error: float = 0.0  # kl − kl_quadratic
    kl_error_relative: float | None = None  # kl_error / kl
    kl_first_order: float | None = None  # ∇K(θ_old)ᵀs: 0
    kl_full_step: float | None = None  # K(θ_old + s)
    kl_quadratic_full_step: float | None = None  # ½sᵀFs: δ up to rounding
    kl_quadratic_damped: float = 0.0  # ½(fs)ᵀ(F + damping·I)(fs)
    kl_reverse: float = 0.0  # mean KL(π_θ ‖ π_old), nats
    kl_max_state: float = 0.0  # the largest KL(π_old ‖ π_θ) of any one state
    multiplier: float | None = None  # λ, the Lagrange multiplier: surrogate per nat at the bound
    step_norm: float = 0.0  # ‖fs‖
    step_fraction: float = 0.0  # f
    backtracks: int = 0  # candidates after the first
    accepted: bool = False
    expected_improvement: float = 0.0  # gᵀ(fs)
    improvement: float = 0.0  # L(θ) − L(θ_old), exact
    improvement_ratio: float | None = None  # improvement / expected_improvement
    cg_iterations: int = 0
    cg_residual: float | None = None  # ‖g − (F + damping·I)x‖ / ‖g‖
    curvature_max: float | None = None  # largest Ritz value minus the damping
    curvature_min: float | None = None  # smallest Ritz value minus the damping
    solution: Solution | None = None  # the whole solve
    search: Search | None = None  # every candidate

    def figures(self) -> dict[str, float]:
        """Return every scalar that exists, by name."""
        left_out = {"outcome", "solution", "search"}
        return {
            name: float(value) for name, value in self._asdict().items() if name not in left_out and value is not None
        }


def trust_region_step(policy: Policy, batch: Batch, config: TrustRegionConfig) -> StepInfo:
    """Take one trust-region step on `policy` and return what happened.

    The policy is written once, on acceptance; with any other outcome its parameters keep their bits. The step
    length comes from the undamped curvature of the whole batch (appendix C scales by the matrix of the solve,
    damping included, and so spends a part of δ that depends on the damping): the quadratic model then predicts
    exactly δ at the full step, and `kl_error` measures the approximation and nothing else.

    Args:
        policy: changed in place, on acceptance only.
        batch: its `old_parameters` must be those of `policy` on its `observations`.
        config: δ, solver and line search.
    """
    objective = Objective(policy, batch, fisher=config.fisher, micro_batch=config.micro_batch)
    gradient = objective.gradient()
    solution = solve(policy, batch, objective, gradient, config)
    curvature = dot(solution.x, objective.fisher_product(solution.x))  # xᵀFx
    solved = solver_figures(gradient, solution, config)
    if outcome := failure(solution, gradient, curvature):
        return StepInfo(outcome, **solved)

    multiplier = math.sqrt(curvature / (2 * config.max_kl))  # λ
    step = solution.x / multiplier  # s
    theta = objective.theta.detach()
    search = line_search(
        lambda fraction: objective.evaluate(theta + fraction * step),
        max_kl=config.max_kl,
        max_backtracks=config.max_backtracks,
        backtrack_factor=config.backtrack_factor,
    )
    full = full_step_figures(objective, step, multiplier, curvature, search)
    if not search.accepted:
        return StepInfo(REJECTIONS[search.last.verdict], **solved, **full)
    assign(policy, theta + search.last.fraction * step)
    return StepInfo(Outcome.ACCEPTED, **solved, **full, **taken_step_figures(search, step, gradient, config))


def solve(policy: Policy, batch: Batch, objective: Objective, gradient: Tensor, config: TrustRegionConfig) -> Solution:
    """Return x ≈ (F + damping·I)⁻¹g, with F over the `fisher_fraction` of the batch: the same rows throughout."""
    if config.fisher_fraction < 1.0:
        rows = subsample(batch, config.fisher_fraction)
        objective = Objective(policy, rows, fisher=config.fisher, micro_batch=config.micro_batch)
    return conjugate_gradient(
        lambda v: objective.fisher_product(v) + config.damping * v,
        gradient,
        max_iterations=config.cg_iterations,
        tolerance=config.cg_tolerance,
    )


def failure(solution: Solution, gradient: Tensor, curvature: float) -> Outcome | None:
    """Return why there is no step to search along, or None if there is one."""
    if not math.isfinite(dot(gradient, gradient)):
        return Outcome.NON_FINITE_GRADIENT
    if solution.stop is Stop.ZERO_RIGHT_HAND_SIDE:
        return Outcome.ZERO_GRADIENT
    if solution.stop is Stop.NON_FINITE or not math.isfinite(curvature):
        return Outcome.NON_FINITE_PRODUCT
    return None if curvature > 0.0 else Outcome.NON_POSITIVE_CURVATURE


def solver_figures(gradient: Tensor, solution: Solution, config: TrustRegionConfig) -> dict[str, Any]:
    """Return what is known before the line search: all there is, if there is no step."""
    figures = {
        "max_kl": config.max_kl,
        "gradient_norm": math.sqrt(dot(gradient, gradient)),
        "cg_iterations": solution.iterations,
        "solution": solution,
    }
    if solution.iterations == 0:
        return figures
    curvatures = ritz_values(solution)
    return figures | {
        "cg_residual": solution.residuals[-1],
        "curvature_max": float(curvatures[-1]) - config.damping,
        "curvature_min": float(curvatures[0]) - config.damping,
    }


def full_step_figures(
    objective: Objective, step: Tensor, multiplier: float, curvature: float, search: Search
) -> dict[str, Any]:
    """Return the Taylor terms of the KL along the full step s and how the search went."""
    zeroth_order, kl_gradient = objective.kl_and_gradient()
    first = search.candidates[0]
    return {
        "multiplier": multiplier,
        "kl_zeroth_order": zeroth_order,
        "kl_first_order": dot(kl_gradient, step),
        "kl_quadratic_full_step": 0.5 * curvature / multiplier**2,
        "kl_full_step": None if first.verdict is Verdict.NON_FINITE else first.evaluation.kl,
        "backtracks": search.backtracks,
        "search": search,
    }


def taken_step_figures(search: Search, step: Tensor, gradient: Tensor, config: TrustRegionConfig) -> dict[str, Any]:
    """Return what the accepted step fs did, exactly and as predicted: ½(fs)ᵀF(fs) = f²δ, as ½sᵀFs = δ."""
    fraction, evaluation, _ = search.last
    quadratic = fraction**2 * config.max_kl
    expected = fraction * dot(gradient, step)
    return {
        **evaluation._asdict(),
        "kl_quadratic": quadratic,
        "kl_error": evaluation.kl - quadratic,
        "kl_error_relative": (evaluation.kl - quadratic) / evaluation.kl if evaluation.kl > 0 else None,
        "kl_quadratic_damped": quadratic + 0.5 * config.damping * fraction**2 * dot(step, step),
        "step_norm": fraction * math.sqrt(dot(step, step)),
        "step_fraction": fraction,
        "accepted": True,
        "expected_improvement": expected,
        "improvement_ratio": evaluation.improvement / expected if expected > 0 else None,
    }
