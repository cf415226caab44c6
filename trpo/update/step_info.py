"""What is known about one policy step: how it ended, and every figure that is logged."""

import math
from enum import Enum
from typing import Any, NamedTuple

from torch import Tensor

from trpo.numerics.conjugate_gradient import Solution, dot
from trpo.numerics.krylov import ritz_values
from trpo.numerics.line_search import Search, Verdict
from trpo.update.objective import Objective


class Outcome(Enum):
    """How a step ended; the value is the sentence a person reads. Only ACCEPTED changes the policy.

    >>> import trpo
    >>> trpo.Outcome.ACCEPTED.name, trpo.Outcome["ACCEPTED"] is trpo.Outcome.ACCEPTED
    ('ACCEPTED', True)
    """

    ACCEPTED = "accepted"
    WARMING_UP = "the action values are fitted first"
    ZERO_GRADIENT = "the surrogate's gradient is zero: all advantages are equal, or no action can matter"
    NON_FINITE_GRADIENT = "the surrogate's gradient holds NaN or infinity: look at advantages and log-probs"
    NON_FINITE_PRODUCT = "a Fisher product holds NaN or infinity: look at the policy's parameters"
    NON_POSITIVE_CURVATURE = (
        "the Fisher matrix is not positive along the step: the policy hardly depends on its parameters"
    )
    NON_FINITE_CANDIDATE = "the last candidate's surrogate or KL was not finite: the step is far too long"
    KL_TOO_LARGE = "the last candidate broke the KL bound: raise trust_region.max_backtracks or damping"
    NO_IMPROVEMENT = (
        "the last candidate did not improve the surrogate: the gradient is noise, or the solve is too loose"
    )


FATAL = (Outcome.NON_FINITE_GRADIENT, Outcome.NON_FINITE_PRODUCT)  # no later batch will mend these
REJECTIONS = {
    Verdict.KL_TOO_LARGE: Outcome.KL_TOO_LARGE,
    Verdict.NO_IMPROVEMENT: Outcome.NO_IMPROVEMENT,
    Verdict.NON_FINITE: Outcome.NON_FINITE_CANDIDATE,
}


class StepInfo(NamedTuple):
    """What one policy step did. A figure that does not exist in a step is None.

    s is the full step and f the fraction of it that was taken: 0 if the step was rejected, and then `kl`,
    `kl_quadratic` and all that belongs to the taken step is 0 as well, being that of the policy in force.

    >>> import trpo
    >>> info = trpo.StepInfo.without_a_step(trpo.Outcome.WARMING_UP)
    >>> info.accepted, info.kl, info.step_fraction
    (False, 0.0, 0.0)
    """

    outcome: Outcome
    max_kl: float  # δ, nats
    gradient_norm: float | None = None  # ‖g‖
    kl_zeroth_order: float | None = None  # K(θ_old): 0, in micro-batches of order ε²
    kl: float = 0.0  # K(θ), nats, exact
    kl_quadratic: float = 0.0  # ½(fs)ᵀF(fs), undamped, whole batch: what the approximation predicted
    kl_error: float = 0.0  # kl − kl_quadratic
    kl_error_relative: float | None = None  # kl_error / kl
    kl_first_order: float | None = None  # ∇K(θ_old)ᵀs: 0, in micro-batches of order ε
    kl_full_step: float | None = None  # K(θ_old + s)
    kl_quadratic_full_step: float | None = None  # ½sᵀFs: δ up to rounding, or less where λ is its floor
    kl_quadratic_damped: float = 0.0  # ½(fs)ᵀ(F + damping·I)(fs)
    kl_reverse: float = 0.0  # mean KL(π_θ ‖ π_old), nats
    kl_max_state: float = 0.0  # the largest KL(π_old ‖ π_θ) of any one state
    multiplier: float | None = None  # λ, the Lagrange multiplier: surrogate per nat at the full step
    step_norm: float = 0.0  # ‖fs‖
    step_fraction: float = 0.0  # f
    backtracks: int = 0  # candidates after the first
    accepted: bool = False
    expected_improvement: float = 0.0  # gᵀ(fs)
    improvement: float = 0.0  # L(θ) − L(θ_old), exact
    improvement_ratio: float | None = None  # improvement / expected_improvement
    cg_iterations: int = 0
    damping: float | None = None  # added to F in the solve, the share of the curvature included
    cg_residual: float | None = None  # ‖g − (F + damping·I)x‖ / ‖g‖
    curvature_max: float | None = None  # largest Ritz value minus the damping
    curvature_min: float | None = None  # smallest Ritz value minus the damping
    theta: Tensor | None = None  # θ_old (P,)
    gradient: Tensor | None = None  # g (P,)
    step: Tensor | None = None  # s (P,), the full step
    solution: Solution | None = None  # the whole solve
    search: Search | None = None  # every candidate

    @classmethod
    def without_a_step(cls, outcome: Outcome) -> "StepInfo":
        """Return what is known where no step was tried: nothing."""
        return cls(outcome, max_kl=0.0)

    def figures(self) -> dict[str, float]:
        """Return every scalar that exists, by name; none of a step that was not tried."""
        if self.outcome is Outcome.WARMING_UP:
            return {}
        return {name: float(value) for name, value in self._asdict().items() if isinstance(value, int | float)}


def solver_figures(
    objective: Objective, gradient: Tensor, solution: Solution, damping: float, max_kl: float
) -> dict[str, Any]:
    """Return what is known before the line search: all there is, if there is no step."""
    norm = math.sqrt(dot(gradient, gradient))
    figures = {
        "max_kl": max_kl,
        "gradient_norm": norm if math.isfinite(norm) else None,
        "cg_iterations": solution.iterations,
        "theta": objective.theta.detach(),
        "gradient": gradient,
        "solution": solution,
    }
    if solution.iterations == 0:
        return figures
    curvatures = ritz_values(solution)
    return figures | {
        "damping": damping,
        "cg_residual": solution.residuals[-1],
        "curvature_max": float(curvatures[-1]) - damping,
        "curvature_min": float(curvatures[0]) - damping,
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
        "step": step,
        "search": search,
    }


def taken_step_figures(
    search: Search, step: Tensor, gradient: Tensor, full_quadratic: float, damping: float
) -> dict[str, Any]:
    """Return what the accepted step fs did, exactly and as predicted: ½(fs)ᵀF(fs) = f² · ½sᵀFs."""
    fraction, evaluation, _ = search.last
    quadratic = fraction**2 * full_quadratic
    expected = fraction * dot(gradient, step)
    return {
        **evaluation._asdict(),
        "kl_quadratic": quadratic,
        "kl_error": evaluation.kl - quadratic,
        "kl_error_relative": (evaluation.kl - quadratic) / evaluation.kl if evaluation.kl > 0 else None,
        "kl_quadratic_damped": quadratic + 0.5 * damping * fraction**2 * dot(step, step),
        "step_norm": fraction * math.sqrt(dot(step, step)),
        "step_fraction": fraction,
        "accepted": True,
        "expected_improvement": expected,
        "improvement_ratio": evaluation.improvement / expected if expected > 0 else None,
    }
