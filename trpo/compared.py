"""A trained agent and its file side by side: whether they give the same for random observations and memories."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trpo.config import UserError
from trpo.models.distributions import Bernoulli, Categorical, Distribution
from trpo.models.observations import POLICY_STATE, PREVIOUS_ACTION, PREVIOUS_REWARD
from trpo.record.exports import Run
from trpo.sampling.inputs import ACTION, Inputs, after, drawn
from trpo.trained import TrainedAgent

CHECKED = 1_000  # random observations
TOLERANCE = 1e-5  # of actions, and of logits: two that are nearer are one to rounding
STATE_TOLERANCE = 1e-4  # what a gate takes is a sum over all features, and as large as that rounds


def difference(agent: TrainedAgent, run: Run, inputs: Callable[[Any, dict[str, Tensor]], Inputs]) -> float:
    """Return the largest difference between what an agent and its file give for random observations and memories.

    Discrete actions are compared where the agent tells the best from the second. Raises `UserError` if they differ by
    more than rounding, or in name, type or shape.

    Args:
        agent: an agent.
        run: what its file makes of inputs.
        inputs: the file's, of a batch of raw observations and what is carried to it.
    """
    raw, carried = drawn(agent.interface, CHECKED, seed=1), drawn_memory(agent, CHECKED, seed=1)
    expected, found = answers(agent, raw, carried), run(inputs(raw, carried))
    if [*found] != [*expected]:
        raise UserError(f"the file gives {', '.join(found)}, the agent {', '.join(expected)}")
    kept = np.full(CHECKED, True), STATE_TOLERANCE
    decided = told_apart(agent, raw, carried), TOLERANCE
    return max(
        furthest(expected[name], found[name], *(kept if name == after(POLICY_STATE) else decided)) for name in expected
    )


def answers(agent: TrainedAgent, raw: Any, carried: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Return what an agent gives for a batch of raw observations and what it carries to them, as its file names it."""
    rewards = carried.get(PREVIOUS_REWARD)
    reward = None if rewards is None else rewards[:, 0]
    actions, left = agent.predict(raw, carried, deterministic=True, reward=reward)
    names = [name for name in carried if name in (POLICY_STATE, PREVIOUS_ACTION)]
    return {ACTION: actions, **{after(name): left[name].numpy() for name in names}}


def furthest(expected: np.ndarray, found: np.ndarray, rows: np.ndarray, tolerance: float) -> float:
    """Return the largest difference in some rows. Raises `UserError` if it is more than rounding, or of another shape.

    Args:
        expected: of the agent (N, …).
        found: of the file.
        rows: which are compared (N,).
        tolerance: of numbers up to 1; of larger ones it is as much larger.
    """
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise UserError(f"the file gives {found.dtype} {found.shape}, the agent {expected.dtype} {expected.shape}")
    most = float(apart(expected, found)[rows].max(initial=0.0))
    if not most <= rounding(expected, tolerance):
        raise UserError(f"the file and its agent differ by {most:.2g}, which is more than rounding: nothing written")
    return most


def apart(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return |expected − found|, 0 where they are the same infinity or both are no number."""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.abs(np.subtract(one, other, where=~same, out=np.zeros_like(one)))


def rounding(numbers: np.ndarray, tolerance: float) -> float:
    """Return by how much numbers may differ that are computed in another order: integers not at all."""
    if not np.issubdtype(numbers.dtype, np.floating):
        return 0.0
    largest = float(np.nanmax(np.abs(numbers), initial=1.0))
    return largest * max(tolerance, float(np.finfo(numbers.dtype).eps))


@torch.no_grad()
def told_apart(agent: TrainedAgent, raw: Any, carried: dict[str, Tensor]) -> np.ndarray:
    """Return for which of a batch of raw observations the best action is further from the second than rounding."""
    policy, observations = agent.agent.policy, agent.interface.encode(raw)
    recall = agent.agent.recall(len(observations))
    recall.restore(carried)
    parameters = policy(agent.agent.normalize(recall.seen(observations)))
    return (gap(policy.distribution, parameters) > TOLERANCE).numpy()


def gap(distribution: Distribution, parameters: Tensor) -> Tensor:
    """Return by how much the best logit leads the second, in the dimension where it does least (N,); else infinity."""
    if isinstance(distribution, Bernoulli):
        return parameters.abs().min(dim=-1).values
    if not isinstance(distribution, Categorical):
        return torch.full((len(parameters),), torch.inf)
    choices = [
        nn.functional.pad(logits, (0, 1), value=-torch.inf) for logits in parameters.split(distribution.sizes, -1)
    ]
    best = torch.stack([logits.topk(2, dim=-1).values for logits in choices])  # (A, N, 2)
    return (best[..., 0] - best[..., 1]).min(dim=0).values


def drawn_memory(agent: TrainedAgent, rows: int, seed: int) -> dict[str, Tensor]:
    """Return random numbers from [−1, 1] in the place of all that an agent carries (B, n), by name."""
    generator = torch.Generator().manual_seed(seed)
    carried = agent.agent.recall(rows).state() or {}
    return {name: 2 * torch.rand(part.shape, generator=generator) - 1 for name, part in carried.items()}
