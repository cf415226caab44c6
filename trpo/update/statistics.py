"""Running statistics taken further by a rollout, and what that does to the policy."""

import torch
from torch import Tensor

from trpo.batch import Batch, Rollout
from trpo.models.agent import Agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.normalizer import Normalizer
from trpo.models.observations import Observations
from trpo.numerics.advantages import discounted_returns
from trpo.system import ranks


def update_reward_scale(agent: Agent, rollout: Rollout, discounted: Tensor, *, gamma: float) -> Tensor:
    """Take in rewards before they are scaled; takes and returns discounted returns of the episodes under way (B,)."""
    if agent.reward_scale is None:
        return discounted
    ended = rollout.terminated | rollout.truncated
    sums, discounted = discounted_returns(rollout.rewards, ended, rollout.valid, discounted, gamma=gamma)
    agent.reward_scale.moments.update(ranks.moments_of(sums.unsqueeze(-1)))
    return discounted


def take_in(normalizer: Normalizer, observations: Observations) -> None:
    """Move the observation statistics by raw observations (N, …) of all ranks: one message for each that has them."""
    for part, rows in normalizer.learning(observations):
        part.update(ranks.moments_of(rows))


@torch.no_grad()
def update_normalizer(agent: Agent, rollout: Rollout, batch: Batch) -> dict[str, float]:
    """Move the observation statistics; return the policy's figures and the KL that the move caused."""
    policy, normalizer = agent.policy, agent.normalizer
    before = policy(batch.observations)
    means = {"policy/entropy": policy.distribution.entropy(before).double().mean()}
    if normalizer is not None and agent.has_statistics:
        observations = rollout.observations[rollout.valid]
        take_in(normalizer, observations)
        after = policy(normalizer(observations))
        means["trust_region/normalizer_kl"] = policy.distribution.kl(before, after).mean()
    averaged = ranks.mean(torch.stack(list(means.values())), len(before))
    figures = dict(zip(means, averaged.tolist(), strict=True))
    if isinstance(policy.distribution, DiagonalGaussian):
        std = before.chunk(2, dim=-1)[1].exp()
        figures |= {"policy/std_mean": float(std.mean()), "policy/std_min": float(std.min())}
    return figures
