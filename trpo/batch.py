"""What flows between the rooms: a `Rollout` as the environments gave it, a `Batch` as the updates take it."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from trpo.models.agent import Agent
from trpo.models.memory import groups
from trpo.models.observations import Observations, from_plain, is_rows, is_tree, leaves_of, plain
from trpo.numerics.advantages import gae
from trpo.numerics.params import flatten, forward_at
from trpo.system import ranks

SUCCESS = ("is_success", "success")  # what environments call it in the last info of an episode


class Rollout(NamedTuple):
    """T steps of B environments under one policy, raw.

    A row that is not `valid` is the reset that some backends report as a step: it has an observation and nothing
    else, and it enters nothing.
    """

    observations: Observations  # (T, B, …) what was acted on, before normalisation
    actions: Tensor  # (T, B, A) as sampled, before scaling and clipping
    rewards: Tensor  # (T, B)
    terminated: Tensor  # (T, B) bool
    truncated: Tensor  # (T, B) bool
    valid: Tensor  # (T, B) bool
    last_observations: Observations  # (B, …) after the last row
    final_observations: Observations  # (K, …) what the K truncated rows really ended in, in row-major order
    episode_returns: list[float]  # raw, of the episodes that ended in this rollout
    episode_lengths: list[int]
    episode_infos: Mapping[str, list[float]] = MappingProxyType({})  # what their last infos told, by key
    first_environment: int = 0  # the number of column 0 among the environments of all ranks

    @property
    def size(self) -> int:
        """N, the environment steps in it."""
        return int(self.valid.sum())

    def to(self, device: torch.device) -> Self:
        """Return the rollout on a device."""
        moved: dict[str, Any] = {name: column.to(device) for name, column in self._asdict().items() if is_rows(column)}
        return self._replace(**moved)

    def state(self) -> dict[str, Any]:
        """Return it as tensors and plain data, by reference."""
        return {name: plain(value) for name, value in self._asdict().items()}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Return what `state` was taken of."""
        values: dict[str, Any] = {name: from_plain(value) for name, value in state.items()}
        return cls(**values)

    def figures(self) -> dict[str, float]:
        """Return the rollout tags: means over the episodes that ended on any rank, absent if none did."""
        told = [number for values in self.episode_infos.values() for number in (sum(values), len(values))]
        sums = [sum(self.episode_returns), sum(self.episode_lengths), len(self.episode_returns), *told]
        returns, lengths, episodes, *told = ranks.total(torch.tensor(sums, dtype=torch.float64)).tolist()
        if episodes == 0:
            return {"episodes": 0}
        means = {"episode_return": returns / episodes, "episode_length": lengths / episodes, "episodes": episodes}
        pairs = zip(self.episode_infos, told[::2], told[1::2], strict=True)
        return means | info_figures({key: (total, int(count)) for key, total, count in pairs})


def info_figures(told: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Return the means of what episodes told, from sums and counts: `info_KEY`, or `success_rate` of the first such."""
    means = {key: total / count for key, (total, count) in told.items() if count}
    successes = [means.pop(key) for key in SUCCESS if key in means]
    rate = {"success_rate": successes[0]} if successes else {}
    return rate | {f"info_{key}": value for key, value in means.items()}


class Batch(NamedTuple):
    """N samples for one update; `observations` are normalised, as the networks see them.

    >>> import torch
    >>> import trpo
    >>> generator = torch.Generator().manual_seed(0)
    >>> policy = trpo.GaussianPolicy(
    ...     3, 2, hidden_sizes=(8,), activation="tanh", initial_log_std=-1.0, min_log_std=-2.3, generator=generator
    ... )
    >>> observations = torch.randn(64, 3, generator=generator)
    >>> parameters = policy(observations).detach()  # [μ, log σ] of the policy that acts
    >>> actions = policy.distribution.sample(parameters, policy.distribution.noise(64, generator))
    >>> advantages, returns = -actions[:, 0].square(), torch.zeros(64)
    >>> batch = trpo.Batch(observations, actions, parameters, advantages, returns)
    >>> sorted(batch.columns)
    ['actions', 'advantages', 'observations', 'old_parameters', 'returns']
    """

    observations: Observations  # (N, …)
    actions: Tensor  # (N, A)
    old_parameters: Tensor  # (N, D) of the policy that acted
    advantages: Tensor  # (N,)
    returns: Tensor  # (N,) λ-returns, the critic's targets
    advantage_scale: float = 1.0  # what the advantages were divided by
    environments: Tensor | None = None  # (N,) the number of each sample's environment, if there are any

    @property
    def columns(self) -> dict[str, Tensor]:
        """What has a row per sample."""
        return {name: column for name, column in self._asdict().items() if is_rows(column)}

    def observation_arrays(self) -> dict[str, Tensor]:
        """Return the observations by name: `observations`, or one of `observations.NAME` for each of their parts."""
        if not is_tree(self.observations):
            return {"observations": self.observations}
        return {f"observations.{name}": leaf for name, leaf in leaves_of(self.observations).items()}

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Return the batch with a function applied to every column."""
        mapped: dict[str, Any] = {name: function(column) for name, column in self.columns.items()}
        return self._replace(**mapped)


@torch.no_grad()
def make_batch(
    agent: Agent, rollout: Rollout, *, gamma: float, lam: float, normalize: bool, micro_batch: int = 0
) -> Batch:
    """Return the batch of a rollout: one pass of each network over all its observations, or over `micro_batch` at once.

    The old parameters come from the very pass that the update differentiates: all rows at once, with weights that are
    views into θ. The acting passes over B rows differ from it in the last bits, as do the update's own in
    micro-batches: BLAS sums in an order that depends on the number of rows and on where the operands lie in memory.
    So at θ_old the ratio is 1 and the KL 0 to the bit, or in micro-batches up to rounding.
    """
    steps, envs = rollout.rewards.shape
    observations = agent.normalize(rollout.observations.flatten(0, 1))
    values = by_parts(agent.critic, observations, micro_batch).view(steps, envs)
    rewards = rollout.rewards if agent.reward_scale is None else agent.reward_scale(rollout.rewards)
    advantages = gae(
        rewards,
        values,
        next_values(agent, rollout, values),
        rollout.terminated,
        rollout.truncated,
        gamma=gamma,
        lam=lam,
    )
    check_finite(rollout, values, advantages)
    valid = rollout.valid.flatten()
    observations, advantages = observations[valid], advantages.flatten()[valid]
    standardized, scale = standardize(advantages) if normalize else (advantages, 1.0)
    environments = torch.arange(envs, device=valid.device) + rollout.first_environment
    return Batch(
        observations=observations,
        actions=rollout.actions.flatten(0, 1)[valid],
        old_parameters=by_parts(partial(forward_at, agent.policy, flatten(agent.policy)), observations, micro_batch),
        advantages=standardized,
        returns=advantages + values.flatten()[valid],
        advantage_scale=scale,
        environments=environments.repeat(steps)[valid],
    )


def by_parts(network: Callable[[Observations], Tensor], observations: Observations, micro_batch: int) -> Tensor:
    """Return what a network gives for observations (N, …), at most `micro_batch` of them in a pass; 0 for all."""
    if parts := groups(observations, micro_batch):
        found = torch.cat([network(observations[part]) for part in parts])
        return torch.empty_like(found).index_copy(0, torch.cat(parts), found)
    return torch.cat([network(part) for part in observations.split(micro_batch or max(len(observations), 1))])


def next_values(agent: Agent, rollout: Rollout, values: Tensor) -> Tensor:
    """Return V(s_{t+1}) (T, B) of the true next observations: where a row was truncated, of its final one."""
    last = agent.critic(agent.normalize(rollout.last_observations))
    following = torch.cat([values[1:], last.unsqueeze(0)])
    if len(rollout.final_observations):
        following[rollout.truncated] = agent.critic(agent.normalize(rollout.final_observations))
    return following


def check_finite(rollout: Rollout, values: Tensor, advantages: Tensor) -> None:
    """Raise `FloatingPointError` naming the first value or advantage (T, B) that is not finite, if one is not."""
    for name, column in (("the critic's value", values), ("the advantage", advantages)):
        wrong = ~torch.isfinite(column) & rollout.valid
        if wrong.any():
            step, here = wrong.nonzero()[0].tolist()
            raise FloatingPointError(
                f"{name} of environment {rollout.first_environment + here} is {float(column[step, here])} at step "
                f"{step} of the rollout: the rewards are too large for float32, or the critic diverged"
            )


def standardize(advantages: Tensor) -> tuple[Tensor, float]:
    """Return advantages (N,) with zero mean and unit variance over all ranks, and what they were divided by.

    Where they are all the same they become zeros.
    """
    _, mean, variance = ranks.moments_of(advantages.unsqueeze(-1))
    std = variance.sqrt()
    if std <= 1e-6 * mean.abs():
        return torch.zeros_like(advantages), 1.0
    return ((advantages.double() - mean) / std).to(advantages.dtype), float(std)
