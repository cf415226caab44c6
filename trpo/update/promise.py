"""What a policy step promised, and what the next batch finds that it kept.

A step is chosen by the noise of its own batch as much as by what is true, so that its surrogate gain says little of the
improvement of the policy. The batch after it is drawn from the new policy π_{k+1} and knows nothing of that noise:

    (1 − γ)(J_{k+1} − J_k) ≈ Σ_s d_{k+1}(s) Σ_a (π_{k+1} − π_k)(a|s) A^{k+1}(s, a) = −E_{k+1}[(π_k/π_{k+1} − 1) Â]

(TRPO, arXiv:1502.05477, equation 2, of π_k over π_{k+1}, with the states of π_{k+1}: the error is of second order in
the step). The mean of Â is taken off, which changes nothing in expectation and much of the noise.
"""

import math
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trpo.batch import Batch
from trpo.models.networks import Policy
from trpo.numerics.params import forward_at
from trpo.numerics.ratio import ratio_of_sums
from trpo.system import ranks
from trpo.update.step_info import StepInfo
from trpo.update.surrogates import Score, pieces

WINDOW = 100  # judged steps in the running means


class Promise(NamedTuple):
    """An accepted step that no batch has judged yet."""

    theta: Tensor  # θ_k (P,), before the step
    improvement: float  # the surrogate's gain in scaled reward per environment step
    kl: float  # spent on it, nats
    reward_std: float  # what rewards were divided by


class Judgement(NamedTuple):
    """A step and what the batch after it says; gains in scaled reward per environment step, as rewards are scaled now.

    A gain grows with √KL and with the spread of the advantages, so √nats · standard deviations is what it is weighed
    against.
    """

    improvement_kept: float
    improvement_promised: float
    judged_kl: float
    advantage_std: float  # of this batch's advantages, before they were standardised

    @property
    def spent(self) -> float:
        """√KL · std(Â)."""
        return math.sqrt(self.judged_kl) * self.advantage_std


@torch.no_grad()
def judge(
    policy: Policy, batch: Batch, promise: Promise, *, reward_std: float = 1.0, micro_batch: int = 0
) -> Judgement | None:
    """Return what the policy's own batch says of the step that led to it; None where its ratios overflow.

    One forward pass with θ_k, over observations as they are normalised now, so that a move of the normaliser is not
    counted; one message between ranks.
    """
    score = Score(policy.distribution, batch)
    sums = torch.zeros(5, dtype=torch.float64, device=promise.theta.device)
    for piece in pieces(batch, score, micro_batch=micro_batch):
        change = score.change(forward_at(policy, promise.theta, piece.observations), piece).double()  # π_k/π_{k+1} − 1
        advantages = piece.columns["advantages"].double()
        terms = torch.stack([torch.ones_like(change), change, advantages, change * advantages, advantages**2])
        sums += terms.sum(1)
    samples, *rest = ranks.total(sums).tolist()
    change, mean, product, square = (value / samples for value in rest)
    kept = -(product - change * mean) * batch.advantage_scale
    if not math.isfinite(kept):
        return None
    return Judgement(
        improvement_kept=kept,
        improvement_promised=promise.improvement * promise.reward_std / reward_std,
        judged_kl=promise.kl,
        advantage_std=math.sqrt(max(square - mean**2, 0.0)) * batch.advantage_scale,
    )


def promise_of(step: StepInfo, *, scale: float, reward_std: float = 1.0, bonus: float = 0.0) -> Promise | None:
    """Return what a step promised, or None if it was not taken.

    `scale` is that of its surrogate, and `bonus` the part of its improvement that is no reward.
    """
    if not step.accepted or step.theta is None:
        return None
    return Promise(step.theta, (step.improvement - bonus) * scale, step.kl, reward_std)


class Judge:
    """Keeps the last step's promise until its batch comes, and what became of those before.

    Owned by the trainer, like an optimiser: its state goes into checkpoints, so that a resumed run says the same.
    """

    def __init__(self) -> None:
        self.promise: Promise | None = None
        self.window: deque[Judgement] = deque(maxlen=WINDOW)
        self.sums = {"improvement_kept_sum": 0.0, "improvement_promised_sum": 0.0}  # of the whole run

    def judge(self, policy: Policy, batch: Batch, *, reward_std: float = 1.0, micro_batch: int = 0) -> dict[str, float]:
        """Return what is known of the last step by now, and the running means; nothing if there was none."""
        if self.promise is None:
            return {}
        judgement = judge(policy, batch, self.promise, reward_std=reward_std, micro_batch=micro_batch)
        self.promise = None
        if judgement is None:
            return {}
        self.window.append(judgement)
        self.sums["improvement_kept_sum"] += judgement.improvement_kept
        self.sums["improvement_promised_sum"] += judgement.improvement_promised
        return {**judgement._asdict(), **self.sums, **self.running()}

    def running(self) -> dict[str, float]:
        """Return the gains per √nat and standard deviation of the window, two standard errors around what was kept."""
        spent = [judgement.spent for judgement in self.window]
        promised = ratio_of_sums([judgement.improvement_promised for judgement in self.window], spent)
        kept = ratio_of_sums([judgement.improvement_kept for judgement in self.window], spent)
        if promised is None or kept is None:
            return {}
        figures = {"promised_per_root_nat": promised[0], "kept_per_root_nat": kept[0]}
        if kept[1] is not None:
            figures["kept_per_root_nat_low"] = kept[0] - 2 * kept[1]
            figures["kept_per_root_nat_high"] = kept[0] + 2 * kept[1]
        return figures

    def state(self) -> dict[str, Any]:
        """Return everything as tensors and plain data."""
        promise = None if self.promise is None else self.promise._asdict()
        return {"promise": promise, "window": [list(judgement) for judgement in self.window], "sums": dict(self.sums)}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go back to a saved state."""
        saved = state["promise"]
        self.promise = None if saved is None else Promise(**{**saved, "theta": saved["theta"].to(device)})
        self.window = deque((Judgement(*figures) for figures in state["window"]), maxlen=WINDOW)
        self.sums = dict(state["sums"])
