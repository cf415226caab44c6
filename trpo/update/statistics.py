"""Running statistics taken further by a rollout, and what that does to the policy."""

import torch
from torch import Tensor

from trpo.batch import Batch, Rollout, by_parts
from trpo.models.agent import Agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.gaussian_policies import Gaussian
from trpo.models.memory import Memory
from trpo.models.networks import Policy
from trpo.models.normalizer import Normalizer
from trpo.models.observations import POLICY_STATE, Observations, leaves_of, like
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


@torch.no_grad()
def state_kl(agent: Agent, rollout: Rollout, micro_batch: int = 0) -> dict[str, float]:
    """Return the KL that the carried state makes: it is what θ_k remembers, and θ_{k+1} would remember something else.

    Nothing bounds it, as nothing bounds `normalizer_kl`. The policy as it is after the step meets the observations that
    follow the rollout once with the state that is carried there, and once with what it makes itself of the rollout,
    from the state in which that began.
    """
    memory = getattr(agent.policy, "encoder", None)
    if not isinstance(memory, Memory):
        return {}
    last = agent.normalize(rollout.last_observations)
    over = (rollout.terminated | rollout.truncated | ~rollout.valid)[-1]
    ends = by_parts(memory.ends, agent.normalize(rollout.observations.flatten(0, 1)), micro_batch)
    own_state = torch.where(over.unsqueeze(-1), 0.0, ends.unflatten(0, rollout.rewards.shape)[-1])
    own = like(last, {**leaves_of(last), POLICY_STATE: own_state})
    kl = agent.policy.distribution.kl(agent.policy(last), agent.policy(own)).mean()
    return {"trust_region/state_kl": float(ranks.mean(kl.unsqueeze(0), len(over)))}


def take_in(normalizer: Normalizer, observations: Observations) -> None:
    """Move the observation statistics by raw observations (N, …) of all ranks: one message for each that has them."""
    for part, rows in normalizer.learning(observations):
        part.update(ranks.moments_of(rows))


@torch.no_grad()
def shift_std(policy: Policy, batch: Batch, shift: float, micro_batch: int = 0) -> dict[str, float]:
    """Move what is added to log σ to `shift`; return the KL that this makes, which no bound covers, if there is one."""
    if not isinstance(policy, Gaussian) or shift == float(policy.shift):
        return {}
    before = by_parts(policy, batch.observations, micro_batch)
    policy.shift.fill_(shift)
    kl = policy.distribution.kl(before, by_parts(policy, batch.observations, micro_batch)).mean()
    return {"trust_region/sigma_kl": float(ranks.mean(kl.unsqueeze(0), len(before)))}


def restart_std(policy: Policy) -> None:
    """Take back what is added to log σ: another run has a schedule of its own."""
    if isinstance(policy, Gaussian):
        policy.shift.zero_()


def entropy(agent: Agent, parameters: Tensor, actions: Tensor) -> Tensor:
    """Return the entropy (N,) of the policy's actions, in nats, float64.

    Of squashed actions a = f(u) it is H(u) + E[log |f'(u)|], the mean over the actions that were drawn.
    """
    drawn = agent.policy.distribution.entropy(parameters).double()
    return drawn if agent.bounds is None else drawn + agent.bounds.log_slope(actions).double()


@torch.no_grad()
def update_normalizer(agent: Agent, rollout: Rollout, batch: Batch, micro_batch: int = 0) -> dict[str, float]:
    """Move the observation statistics; return the policy's figures and the KL that the move caused."""
    policy, normalizer = agent.policy, agent.normalizer
    before = by_parts(policy, batch.observations, micro_batch)
    means = {"policy/entropy": entropy(agent, before, batch.actions).mean()}
    if normalizer is not None and agent.has_statistics:
        observations = rollout.observations[rollout.valid]
        take_in(normalizer, observations)
        after = by_parts(lambda rows: policy(normalizer(rows)), observations, micro_batch)
        means["trust_region/normalizer_kl"] = policy.distribution.kl(before, after).mean()
    least = {}
    if isinstance(policy.distribution, DiagonalGaussian):
        std = before.chunk(2, dim=-1)[1].exp()
        means["policy/std_mean"] = std.double().mean()
        least["policy/std_min"] = float(ranks.gathered(std.min().unsqueeze(0)).min())
    averaged = ranks.mean(torch.stack(list(means.values())), len(before))
    return dict(zip(means, averaged.tolist(), strict=True)) | least
