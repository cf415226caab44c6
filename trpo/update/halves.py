"""Half of a batch judges the step that the other half would take: how much of what it promises is noise.

Of the paper's surrogate alone: action values have seen both halves. The step of each half is chosen as
`trust_region_step` chooses it, for a grid of dampings from one solve. It promises the gain on its own half; what it
keeps is the gain on the other one, which is independent of the noise that chose it. Both to first order, per √nat: for
s = x√(2δ / xᵀFx) the gain gᵀs is √2 gᵀx / √(xᵀFx) times √δ.
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

RELATIVE_DAMPINGS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # times gᵀFg / gᵀg of the half


class Halves(NamedTuple):
    """Gains per √nat, in standard deviations of the advantage, the mean of both ways round; ready for JSON."""

    relative_dampings: list[float]
    promised: list[float]
    kept: list[float]
    cosine: float  # of the two halves' gradients


def compare_halves(policy: Policy, batch: Batch, config: TrustRegionConfig, theta: Tensor) -> Halves | None:
    """Return what each half promises and the other one confirms; environments of even and odd numbers are the halves.

    None if there are not two environments, if a half has no gradient or no step, or if advantages are all alike.
    """
    if batch.environments is None:
        return None
    std = math.sqrt(float(ranks.moments_of(batch.advantages.unsqueeze(-1)).variance))
    settings = {"fisher": config.fisher, "micro_batch": config.micro_batch, "theta": theta}
    rows = [(batch.environments % 2 == parity).nonzero().flatten() for parity in (0, 1)]
    halves = [Objective(policy, batch, rows=half, **settings) for half in rows]  # type: ignore[arg-type]
    if not all(half.samples for half in halves) or std == 0.0:
        return None
    even, odd = (half.gradient() for half in halves)
    if not all(0.0 < dot(g, g) < math.inf for g in (even, odd)):
        return None
    ways = [one_way(halves[0], even, odd, config.cg_iterations), one_way(halves[1], odd, even, config.cg_iterations)]
    if ways[0] is None or ways[1] is None:
        return None
    promised, kept = ([sum(pair) / 2 / std for pair in zip(*two, strict=True)] for two in zip(*ways, strict=True))
    cosine = dot(even, odd) / math.sqrt(dot(even, even) * dot(odd, odd))
    return Halves(list(RELATIVE_DAMPINGS), promised, kept, cosine)


def one_way(
    half: Objective, gradient: Tensor, judge: Tensor, iterations: int
) -> tuple[list[float], list[float]] | None:
    """Return what one half promises per √nat, and what the other one's gradient (P,) says of it."""
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
    promised = [length * dot(gradient, one.x) for one, length in zip(solved, lengths, strict=True)]
    kept = [length * dot(judge, one.x) for one, length in zip(solved, lengths, strict=True)]
    return promised, kept
