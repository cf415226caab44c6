"""Half of a batch judges the step that the other half would take: how much of what it promises is noise.

The step of each half is chosen as `trust_region_step` chooses it, for a grid of dampings from one solve. It promises
the gain of its own surrogate; what it keeps is the gain that the score function's estimate on the other half sees,
which is independent of the noise that chose it. Both to first order, per √nat: for s = x√(2δ / xᵀFx) the gain gᵀs is
√2 gᵀx / √(xᵀFx) times √δ.
"""

import math
from typing import NamedTuple

from torch import Tensor

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.networks import Policy
from trpo.numerics.conjugate_gradient import conjugate_gradient, dot
from trpo.numerics.krylov import lanczos_matrix, shifted_solutions
from trpo.system import ranks
from trpo.update.objective import Objective
from trpo.update.surrogates import Score, Surrogate

RELATIVE_DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # times gᵀFg / gᵀg of the half


class Halves(NamedTuple):
    """Gains per √nat, in standard deviations of the advantage, the mean of both ways round; ready for JSON."""

    relative_dampings: list[float]
    promised: list[float]
    kept: list[float]
    cosine: float  # of the two halves' gradients


def compare_halves(
    policy: Policy, batch: Batch, surrogate: Surrogate, config: TrustRegionConfig, theta: Tensor
) -> Halves | None:
    """Return what each half promises and the other one confirms; environments of even and odd numbers are the halves.

    None if there are not two environments, if a half has no gradient or no step, or if advantages are all alike.
    """
    if batch.environments is None:
        return None
    std = math.sqrt(float(ranks.moments_of(batch.advantages.unsqueeze(-1)).variance))
    rows = [(batch.environments % 2 == parity).nonzero().flatten() for parity in (0, 1)]
    score = Score(policy.distribution, batch)

    def objective(of: Surrogate, half: Tensor) -> Objective:
        return Objective(
            policy, batch, of, fisher=config.fisher, micro_batch=config.micro_batch, theta=theta, rows=half
        )

    halves = [objective(surrogate, half) for half in rows]
    if not all(half.samples for half in halves) or std == 0.0:
        return None
    gradients = [half.gradient() for half in halves]
    judges = [objective(score, half).gradient() for half in rows]
    if not all(0.0 < dot(g, g) < math.inf for g in (*gradients, *judges)):
        return None
    ways = [
        one_way(halves[own], gradients[own], judges[1 - own], config.cg_iterations, surrogate.scale / score.scale)
        for own in (0, 1)
    ]
    if ways[0] is None or ways[1] is None:
        return None
    promised, kept = ([sum(pair) / 2 / std for pair in zip(*two, strict=True)] for two in zip(*ways, strict=True))
    cosine = dot(*gradients) / math.sqrt(dot(gradients[0], gradients[0]) * dot(gradients[1], gradients[1]))
    return Halves(list(RELATIVE_DAMPINGS), promised, kept, cosine)


def one_way(
    half: Objective, gradient: Tensor, judge: Tensor, iterations: int, unit: float
) -> tuple[list[float], list[float]] | None:
    """Return what one half promises per √nat, in the judge's unit, and what the judge's gradient (P,) says of it."""
    solution = conjugate_gradient(
        half.fisher_product, gradient, max_iterations=iterations, tolerance=0.0, keep_basis=True
    )
    if solution.iterations == 0:
        return None
    along_gradient = float(lanczos_matrix(solution)[0, 0])  # gᵀFg / gᵀg
    solved = shifted_solutions(solution, 0.0, [relative * along_gradient for relative in RELATIVE_DAMPINGS])
    if not all(one.curvature > 0.0 for one in solved):
        return None
    lengths = [math.sqrt(2 / one.curvature) for one in solved]
    promised = [unit * length * dot(gradient, one.x) for one, length in zip(solved, lengths, strict=True)]
    kept = [length * dot(judge, one.x) for one, length in zip(solved, lengths, strict=True)]
    return promised, kept
