"""Backtracking along one direction until the exact surrogate improves inside the exact KL bound."""

import math
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple


class Evaluation(NamedTuple):
    """What a candidate θ does, exactly, averaged over the batch's states."""

    improvement: float  # L(θ) − L(θ_old), the surrogate's gain
    kl: float  # KL(π_old ‖ π_θ), nats
    kl_reverse: float  # KL(π_θ ‖ π_old), nats
    kl_max_state: float  # the largest KL(π_old ‖ π_θ) of any one state


class Verdict(Enum):
    """What the line search thought of one candidate."""

    ACCEPTED = "the surrogate improved inside the KL bound"
    KL_TOO_LARGE = "the KL bound was broken"
    NO_IMPROVEMENT = "the surrogate did not improve"
    NON_FINITE = "the surrogate or the KL was not finite"


class Candidate(NamedTuple):
    """One point that was tried."""

    fraction: float  # of the full step
    evaluation: Evaluation
    verdict: Verdict


class Search(NamedTuple):
    """Every candidate in order; the last one is the accepted one, if any is."""

    candidates: list[Candidate]

    @property
    def last(self) -> Candidate:
        """The candidate that ended the search."""
        return self.candidates[-1]

    @property
    def accepted(self) -> bool:
        """Whether a candidate was accepted."""
        return self.last.verdict is Verdict.ACCEPTED

    @property
    def backtracks(self) -> int:
        """How many shorter candidates were tried after the full step."""
        return len(self.candidates) - 1


def judge(evaluation: Evaluation, *, max_kl: float) -> Verdict:
    """Return the verdict on a candidate. An improvement of exactly zero is none; a KL of exactly δ is inside."""
    if not (math.isfinite(evaluation.improvement) and math.isfinite(evaluation.kl)):
        return Verdict.NON_FINITE
    if evaluation.improvement <= 0.0:
        return Verdict.NO_IMPROVEMENT
    return Verdict.ACCEPTED if evaluation.kl <= max_kl else Verdict.KL_TOO_LARGE


def full_step(evaluate: Callable[[float], Evaluation]) -> Search:
    """Return the full step as the only candidate, accepted wherever surrogate and KL are finite.

    So steps the natural policy gradient (Kakade 2001, "A Natural Policy Gradient"; its length from δ as in Rajeswaran
    et al. 2017, arXiv:1703.02660, equation 5): it trusts the quadratic model of the KL and the linear one of the gain.
    """
    evaluation = evaluate(1.0)
    finite = math.isfinite(evaluation.improvement) and math.isfinite(evaluation.kl)
    return Search([Candidate(1.0, evaluation, Verdict.ACCEPTED if finite else Verdict.NON_FINITE)])


def line_search(
    evaluate: Callable[[float], Evaluation], *, max_kl: float, max_backtracks: int, backtrack_factor: float
) -> Search:
    """Return the candidates tried at fractions 1, … of a step, ending with the first acceptable one.

    TRPO, appendix C, shrinks by a constant factor. We differ where a candidate broke only the KL bound: the KL is
    quadratic near θ_old, so √(δ / KL) of that fraction lands on the bound, and 0.995 of it just inside, but
    never below `backtrack_factor` of it. Most full steps miss the bound by a few per cent, and a constant
    factor would give away a third of the trust region for them.

    >>> import trpo
    >>> from trpo.numerics.line_search import Evaluation
    >>> def evaluate(fraction):  # a KL of 0.02 at the full step
    ...     return Evaluation(improvement=fraction, kl=0.02 * fraction**2, kl_reverse=0.0, kl_max_state=0.0)
    >>> search = trpo.line_search(evaluate, max_kl=0.01, max_backtracks=10, backtrack_factor=0.5)
    >>> [round(candidate.fraction, 3) for candidate in search.candidates]
    [1.0, 0.704]
    """
    fraction = 1.0
    candidates: list[Candidate] = []
    for _ in range(max_backtracks + 1):
        evaluation = evaluate(fraction)
        verdict = judge(evaluation, max_kl=max_kl)
        candidates.append(Candidate(fraction, evaluation, verdict))
        if verdict is Verdict.ACCEPTED:
            break
        shrink = backtrack_factor
        if verdict is Verdict.KL_TOO_LARGE:
            shrink = max(shrink, 0.995 * math.sqrt(max_kl / evaluation.kl))
        fraction *= shrink
    return Search(candidates)
