"""Action values fitted to the last rollouts, whichever policies they are of.

The data are off-policy, and Retrace weighs them; the trust region is not: its states are those of the fresh batch. The
targets are computed once in an iteration from the networks as they are then, so no second set of networks lags behind.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trpo.batch import Batch, Rollout
from trpo.config import ActionValuesConfig
from trpo.models.action_values import ActionValues, joint_actions, joint_log_probs
from trpo.models.agent import Agent
from trpo.models.bounds import Bounds
from trpo.models.distributions import Distribution
from trpo.numerics.ensemble import FitGradient
from trpo.numerics.retrace import retrace
from trpo.system import ranks
from trpo.update.adam import AdamW

WEIGHT_DECAY = 1e-4


class Recorded(NamedTuple):
    """A rollout, and how probable its actions were when they were taken. Never written to, so it is shared freely."""

    rollout: Rollout  # raw
    log_probs: Tensor  # (T, B) of the policy that acted, observations normalised as they were then


class Samples(NamedTuple):
    """What action values are fitted to: n rows of rollouts that count as steps."""

    inputs: Tensor  # (n, I)
    outputs: Tensor  # (n,) which output is meant
    targets: Tensor  # (n,)
    traces: Tensor  # (n,) min(1, π/μ)


class ActionValueFit(NamedTuple):
    """The action values on the fresh rollout before and after the fit, in scaled reward."""

    loss_before: float  # mean squared error, of all networks
    loss_after: float
    explained_variance: float | None  # before the fit
    disagreement: float  # root mean square of how far a network is from their mean, after the fit
    trace_mean: float  # mean of min(1, π/μ) over the rollouts that were drawn
    clipped_share: float  # of the sampled components of actions, those outside their bounds
    beyond_share: float  # of the targets, those that lie beyond the bins

    def figures(self) -> dict[str, float]:
        """Return every scalar that exists, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def recorded(rollout: Rollout, batch: Batch, distribution: Distribution) -> Recorded:
    """Return a rollout with the log-probs of its actions under the policy that acted; 0 in rows that are not valid."""
    log_probs = torch.zeros_like(rollout.rewards)
    log_probs[rollout.valid] = distribution.log_prob(batch.old_parameters, batch.actions).to(log_probs.dtype)
    return Recorded(rollout, log_probs)


def beside(records: Sequence[Recorded]) -> Recorded:
    """Return rollouts of one length as one of all their environments; of its episodes it knows nothing."""
    rollouts = [record.rollout for record in records]
    columns: dict[str, Any] = {
        name: torch.cat([getattr(rollout, name) for rollout in rollouts], dim=1)
        for name in ("observations", "actions", "rewards", "terminated", "truncated", "valid")
    }
    last, finals = (
        torch.cat([getattr(rollout, name) for rollout in rollouts])
        for name in ("last_observations", "final_observations")
    )
    cuts = torch.cat([rollout.truncated.nonzero() for rollout in rollouts])  # the time of each final observation
    order = cuts[:, 0].argsort(stable=True)  # row-major in the wide one: by time, then by rollout
    wide = Rollout(
        **columns,
        last_observations=last,
        final_observations=finals[order],
        episode_returns=[],
        episode_lengths=[],
    )
    return Recorded(wide, torch.cat([record.log_probs for record in records], dim=1))


class Reader:
    """What the networks are asked about: the same for targets, fit and step.

    Args:
        values: the networks.
        agent: the policy, and the statistics as they are now.
        bounds: how continuous actions come inside them.
        pessimism: standard deviations of the networks' values that are taken off their mean.
    """

    def __init__(self, values: ActionValues, agent: Agent, bounds: Bounds | None, pessimism: float) -> None:
        self.values, self.agent, self.bounds, self.pessimism = values, agent, bounds, pessimism
        self.distribution = agent.policy.distribution
        self.joint = joint_actions(self.distribution)

    def inputs(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the networks' inputs (n, I) for normalised observations and actions, and which outputs are meant."""
        observations = self.values.features(observations)
        if self.joint is None:
            assert self.bounds is not None
            rows = torch.cat([observations, self.bounds.inside(actions)], dim=-1)
            return rows, torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        return observations, joint_index(actions, self.joint)

    def worth(self, inputs: Tensor) -> Tensor:
        """Return what targets take for the values of inputs (N, M)."""
        return self.values.cautious(inputs, self.pessimism)

    def of_actions(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return Q(s, a) (n,)."""
        rows, outputs = self.inputs(observations, actions)
        return self.worth(rows).gather(1, outputs.unsqueeze(1)).squeeze(1)

    def of_states(self, observations: Tensor, noise: Iterable[Tensor]) -> Tensor:
        """Return V(s) = E_π Q(s, ·) (n,): the sum over all actions, or the mean over drawn ones."""
        parameters = self.agent.policy(observations)
        if self.joint is not None:
            log_probs = joint_log_probs(self.distribution, parameters, self.joint.to(parameters.device))
            return (log_probs.exp() * self.worth(self.values.features(observations))).sum(1)
        drawn = [self.of_actions(observations, self.distribution.sample(parameters, one)) for one in noise]
        return torch.stack(drawn).mean(0)


def joint_index(actions: Tensor, joint: Tensor) -> Tensor:
    """Return the row of the table of joint actions (M, A) that each action (n, A) is."""
    sizes = (joint.amax(0) + 1).long()
    strides = torch.cat([sizes[1:].flip(0).cumprod(0).flip(0), sizes.new_ones(1)]).to(actions.device)
    return (actions.long() * strides).sum(1)


@torch.no_grad()
def samples_of(
    record: Recorded, reader: Reader, generator: torch.Generator, *, gamma: float, trace: float, draws: int
) -> Samples:
    """Return a rollout's rows with Retrace's targets, by the present policy under the present statistics."""
    rollout, agent = record.rollout, reader.agent
    steps, envs = rollout.rewards.shape
    following = torch.cat([rollout.observations[1:], rollout.last_observations.unsqueeze(0)])
    if len(rollout.final_observations):
        following = following.clone()
        following[rollout.truncated] = rollout.final_observations
    observations, following = (agent.normalize(raw.flatten(0, 1)) for raw in (rollout.observations, following))
    actions = rollout.actions.flatten(0, 1)
    count = draws if reader.joint is None else 0  # all actions are summed over where they can be counted
    noise = [reader.distribution.noise(len(actions), generator).to(actions.device) for _ in range(count)]
    log_probs = reader.distribution.log_prob(agent.policy(observations), actions).view(steps, envs)
    ratios = (log_probs - record.log_probs).exp()
    inputs, outputs = reader.inputs(observations, actions)
    targets = retrace(
        rollout.rewards / agent.reward_std,
        reader.of_states(following, noise).view(steps, envs),
        reader.worth(inputs).gather(1, outputs.unsqueeze(1)).view(steps, envs),
        ratios,
        rollout.terminated,
        rollout.truncated,
        rollout.valid,
        gamma=gamma,
        trace=trace,
    )
    valid = rollout.valid.flatten()
    return Samples(inputs[valid], outputs[valid], targets.flatten()[valid], ratios.clamp(max=1.0).flatten()[valid])


@torch.no_grad()
def fit_action_values(
    values: ActionValues,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    config: ActionValuesConfig,
    generator: torch.Generator,
) -> None:
    """Take minibatch steps on the error of the networks' head in place; ranks together, each with its share of one.

    Raises `FloatingPointError`, and leaves the networks as they were, if they diverged.
    """
    before, wanted = values.theta.clone(), values.head.wanted(samples.targets)
    error = FitGradient(values.theta, values.networks, values.sizes, values.head.error_backward)
    values.theta.grad = error.gradient
    rows = max(1, len(ranks.share(config.minibatch_size)))
    order = torch.randint(len(samples.targets), (config.minibatches, rows), generator=generator)
    for chosen in order.to(samples.targets.device):
        error.differentiate(samples.inputs, samples.outputs, wanted, chosen)
        if ranks.count() > 1:
            error.gradient.copy_(ranks.mean(error.gradient, rows))
        optimizer.step()
    moments = (optimizer.state[values.theta][name] for name in ("exp_avg", "exp_avg_sq"))
    if not all(torch.isfinite(numbers).all() for numbers in (values.theta, *moments)):
        values.theta.copy_(before)
        raise FloatingPointError(
            f"the action values diverged: their targets reach {float(samples.targets.abs().max()):.3g}; check the "
            "rewards' scale, turn on normalize.rewards or lower action_values.learning_rate"
        )


def make_optimizer(values: ActionValues, config: ActionValuesConfig) -> torch.optim.Optimizer:
    """Return the optimiser whose state lives as long as the networks."""
    return AdamW([values.theta], lr=config.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


class Assessment(NamedTuple):
    """How well the networks know the targets of some samples."""

    loss: float  # mean squared error, of all networks
    explained_variance: float | None  # by their mean; None where the targets are all the same
    disagreement: float  # root mean square of how far a network is from their mean


@torch.no_grad()
def assess(values: ActionValues, samples: Samples) -> Assessment:
    """Return how well the networks know these samples of all ranks: one message.

    In float64, where the squares of targets that can still be fitted are finite.
    """
    chosen, targets = samples.outputs.view(1, -1, 1).expand(values.networks, -1, -1), samples.targets.double()
    q = values(samples.inputs).gather(2, chosen).squeeze(2).double()  # (K, n)
    columns = [targets - q.mean(0), targets, (q - targets).square().mean(0), q.var(0, correction=0)]
    _, mean, variance = ranks.moments_of(torch.stack(columns, dim=1))
    unexplained, whole = variance[:2].tolist()
    explained = 1 - unexplained / whole if whole > 0 else None
    return Assessment(float(mean[2]), explained, float(mean[3].sqrt()))
