"""One TRPO policy step: maximise the surrogate inside KL(π_old ‖ π_θ) ≤ δ (arXiv:1502.05477, appendix C).

1  g = ∇L(θ_old)
2  x ≈ (F + damping·I)⁻¹ g                      by conjugate gradient, damping in part a share of gᵀFg / gᵀg
3  λ = max(√(xᵀFx / 2δ), λ_min),  s = x / λ     the quadratic model of the KL is δ at s, or less
4  θ = θ_old + fraction · s                     the first fraction whose exact KL ≤ δ and surrogate improves
"""

import math
from collections.abc import Callable

from torch import Tensor

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.distributions import Bernoulli, Categorical
from trpo.models.networks import Policy
from trpo.numerics.conjugate_gradient import Solution, Stop, conjugate_gradient, dot
from trpo.numerics.line_search import Evaluation, Search, full_step, line_search
from trpo.numerics.params import assign
from trpo.update.objective import Objective, evenly_spread
from trpo.update.step_info import (
    REJECTIONS,
    Outcome,
    StepInfo,
    full_step_figures,
    solver_figures,
    taken_step_figures,
)
from trpo.update.surrogates import Score, Surrogate


def trust_region_step(
    policy: Policy,
    batch: Batch,
    config: TrustRegionConfig,
    *,
    surrogate: Surrogate | None = None,
    progress: float = 0.0,
) -> StepInfo:
    """Take one trust-region step on `policy` and return what happened.

    The policy is written once, on acceptance; with any other outcome its parameters keep their bits. The step
    length comes from the undamped curvature of the whole batch (appendix C scales by the matrix of the solve,
    damping included, and so spends a part of δ that depends on the damping): the quadratic model then predicts
    exactly δ at the full step, and `kl_error` measures the approximation and nothing else.

    Where a nat of KL buys less than λ_min, the step solves the penalised problem from which section 4 starts,
    max L − λ_min · KL, which lies inside: a batch in which there is nothing to win does not move the policy.
    λ_min is in the units of the surrogate times its `scale`; with 0 the step does not depend on any units.

    Args:
        policy: changed in place, on acceptance only.
        batch: its `old_parameters` must be those of `policy` on its `observations`.
        config: δ, solver and line search.
        surrogate: what is maximised; the paper's, `Score`, if none is given. `config.surrogate` only tells a trainer
            which one to make: raises `ValueError` if that is another than `score` and none is given.
        progress: the share of the run that is over, for `config.bound`.

    >>> import torch
    >>> import trpo
    >>> generator = torch.Generator().manual_seed(0)
    >>> policy = trpo.GaussianPolicy(
    ...     3, 2, hidden_sizes=(8,), activation="tanh", initial_log_std=-1.0, min_log_std=-2.3, generator=generator
    ... )
    >>> observations = torch.randn(64, 3, generator=generator)
    >>> parameters = policy(observations).detach()
    >>> actions = policy.distribution.sample(parameters, policy.distribution.noise(64, generator))
    >>> advantages, returns = -actions[:, 0].square(), torch.zeros(64)
    >>> batch = trpo.Batch(observations, actions, parameters, advantages, returns)
    >>> step = trpo.trust_region_step(policy, batch, trpo.TrustRegionConfig(max_kl=0.01))
    >>> step.accepted, 0 < step.kl <= step.max_kl == 0.01, abs(step.kl_error_relative) < 0.2
    (True, True, True)
    """
    max_kl = config.bound(progress, discrete=isinstance(policy.distribution, Categorical | Bernoulli))
    if surrogate is None and config.surrogate != "score":
        raise ValueError(f"trust_region.surrogate={config.surrogate} needs a surrogate: give trust_region_step one")
    surrogate = surrogate or Score(policy.distribution, batch)
    objective = Objective(policy, batch, surrogate, fisher=config.fisher, micro_batch=config.micro_batch)
    gradient = objective.gradient()
    solution, damping = solve(policy, batch, objective, gradient, config)
    whole = config.fisher_fraction == 1.0  # then the solve has Fx already
    curvature = dot(solution.x, solution.product if whole else objective.fisher_product(solution.x))  # xᵀFx
    solved = solver_figures(objective, gradient, solution, damping, max_kl)
    if outcome := failure(solution, gradient, curvature):
        return StepInfo(outcome, **solved)

    floor = config.min_multiplier / surrogate.scale  # in the units of the surrogate
    multiplier = max(math.sqrt(curvature / (2 * max_kl)), floor)  # λ
    step = solution.x / multiplier  # s
    theta = objective.theta.detach()
    search = searched(lambda fraction: objective.evaluate(theta + fraction * step), config, max_kl)
    full = full_step_figures(objective, step, multiplier, curvature, search)
    if not search.accepted:
        return StepInfo(REJECTIONS[search.last.verdict], **solved, **full)
    assign(policy, theta + search.last.fraction * step)
    taken = taken_step_figures(search, step, gradient, full["kl_quadratic_full_step"], damping)
    return StepInfo(Outcome.ACCEPTED, **solved, **full, **taken)


def searched(evaluate: Callable[[float], Evaluation], config: TrustRegionConfig, max_kl: float) -> Search:
    """Return the candidates that the line search tried, or without one the full step."""
    if not config.line_search:
        return full_step(evaluate)
    return line_search(
        evaluate,
        max_kl=max_kl,
        max_backtracks=config.max_backtracks,
        backtrack_factor=config.backtrack_factor,
    )


def solve(
    policy: Policy, batch: Batch, objective: Objective, gradient: Tensor, config: TrustRegionConfig
) -> tuple[Solution, float]:
    """Return x ≈ (F + damping·I)⁻¹g and the damping: F over `fisher_fraction` of the batch, always the same rows."""
    if config.fisher_fraction < 1.0:
        rows = evenly_spread(batch, config.fisher_fraction)
        objective = Objective(
            policy, batch, objective.surrogate, fisher=config.fisher, micro_batch=config.micro_batch, rows=rows
        )
    damping, known = config.damping, None
    if config.relative_damping > 0.0:
        known = objective.fisher_product(gradient)  # Fg, and with it the first product of the solve
        damping += config.relative_damping * rayleigh_quotient(gradient, known)
    solution = conjugate_gradient(
        lambda v: known if v is gradient and known is not None else objective.fisher_product(v),
        gradient,
        damping=damping,
        max_iterations=config.cg_iterations,
        tolerance=config.cg_tolerance,
    )
    return solution, damping


def rayleigh_quotient(gradient: Tensor, product: Tensor) -> float:
    """Return gᵀFg / gᵀg, the curvature along g, from g and Fg; 0 for a gradient of zero.

    Curvature differs from task to task by three orders of magnitude (1 for categorical policies, 10³ for narrow
    Gaussian ones) and grows as σ shrinks. A share of it damps all of them alike, and does not change with the units of
    the parameters. In exact arithmetic it is between 0 and the largest eigenvalue of F.
    """
    squared = dot(gradient, gradient)
    return max(dot(gradient, product) / squared, 0.0) if squared else 0.0


def failure(solution: Solution, gradient: Tensor, curvature: float) -> Outcome | None:
    """Return why there is no step to search along, or None if there is one."""
    if not math.isfinite(dot(gradient, gradient)):
        return Outcome.NON_FINITE_GRADIENT
    if solution.stop is Stop.ZERO_RIGHT_HAND_SIDE:
        return Outcome.ZERO_GRADIENT
    if solution.stop is Stop.NON_FINITE or not math.isfinite(curvature):
        return Outcome.NON_FINITE_PRODUCT
    return None if curvature > 0.0 else Outcome.NON_POSITIVE_CURVATURE
