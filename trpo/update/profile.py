"""One policy step seen along its ray, the KL and the surrogate that it faced, and by halves of its batch."""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.networks import Policy
from trpo.numerics.conjugate_gradient import dot
from trpo.numerics.krylov import ritz_values
from trpo.numerics.taylor import taylor_terms
from trpo.system import ranks
from trpo.update.halves import compare_halves
from trpo.update.objective import Objective
from trpo.update.step_info import StepInfo
from trpo.update.surrogates import Score, Surrogate

FRACTIONS = tuple(k / 10 for k in range(21))  # of the full step: 0 to 2


class Profile(NamedTuple):
    """Plain data, ready for JSON, None where a number is not finite; lists over `fractions` but the last four."""

    max_kl: float  # δ, nats
    outcome: str  # the sentence
    fractions: list[float]
    kl: list[float | None]  # K(θ_old + ts), nats, exact
    kl_quadratic: list[float]  # t²·½sᵀFs
    kl_cubic: list[float]  # the same plus the term of order 3
    improvement: list[float | None]  # L(θ_old + ts) − L(θ_old), exact
    improvement_linear: list[float]  # t·gᵀs
    candidates: list[dict[str, Any]]  # what the line search tried: fraction, kl, improvement, verdict
    cg_residuals: list[float]  # ‖g − (F + damping·I)x_k‖ / ‖g‖ after k products
    curvatures: list[float]  # Ritz values minus the damping, ascending: estimates of the ends of F's spectrum
    halves: dict[str, Any] | None  # `Halves`, of the score's surrogate and two environments at least


def profile_step(
    policy: Policy, batch: Batch, step: StepInfo, config: TrustRegionConfig, surrogate: Surrogate | None = None
) -> Profile | None:
    """Return the profile of a step that `trust_region_step` took on this batch, or None if it had no ray.

    Costs one forward pass per fraction, three nested derivatives and a solve per half; the policy is not touched.
    """
    if step.theta is None or step.gradient is None or step.step is None or not (step.search and step.solution):
        return None
    surrogate = surrogate or Score(policy.distribution, batch)
    objective = Objective(
        policy, batch, surrogate, fisher=config.fisher, micro_batch=config.micro_batch, theta=step.theta
    )
    quadratic = 0.5 * dot(step.step, objective.fisher_product(step.step))
    cubic = third_order(objective, step.theta, step.step)
    evaluations = [objective.evaluate(step.theta + t * step.step) for t in FRACTIONS]
    slope = dot(step.gradient, step.step)
    halves = compare_halves(policy, batch, config, step.theta) if isinstance(surrogate, Score) else None
    return Profile(
        max_kl=step.max_kl,
        outcome=step.outcome.value,
        fractions=list(FRACTIONS),
        kl=[finite(evaluation.kl) for evaluation in evaluations],
        kl_quadratic=[quadratic * t**2 for t in FRACTIONS],
        kl_cubic=[quadratic * t**2 + cubic * t**3 for t in FRACTIONS],
        improvement=[finite(evaluation.improvement) for evaluation in evaluations],
        improvement_linear=[t * slope for t in FRACTIONS],
        candidates=[
            {
                "fraction": candidate.fraction,
                "kl": finite(candidate.evaluation.kl),
                "improvement": finite(candidate.evaluation.improvement),
                "verdict": candidate.verdict.name.lower(),
            }
            for candidate in step.search.candidates
        ],
        cg_residuals=step.solution.residuals,
        curvatures=(ritz_values(step.solution) - (step.damping or 0.0)).tolist(),
        halves=None if halves is None else halves._asdict(),
    )


def third_order(objective: Objective, theta: Tensor, step: Tensor) -> float:
    """Return the KL's Taylor term of order 3 along a step, micro-batch by micro-batch."""
    shares = [taylor_terms(partial(objective.share_of_kl, piece=piece), theta, step) for piece in objective.pieces]
    return float(ranks.total(torch.tensor(sum(terms[3] for terms in shares), dtype=torch.float64)))


def finite(value: float) -> float | None:
    """Return the value, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
