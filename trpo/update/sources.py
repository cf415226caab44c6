"""Where the surrogate of an iteration comes from: its batch alone, or action values that live through all of them."""

from collections import deque
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trpo.batch import Batch, Rollout
from trpo.config import ActionValuesConfig, Config, UserError
from trpo.models.action_values import ActionValues
from trpo.models.agent import Agent
from trpo.models.bounds import Bounds
from trpo.system import ranks, seeds
from trpo.update.action_values import (
    ActionValueFit,
    Reader,
    Recorded,
    Samples,
    assess,
    beside,
    fit_action_values,
    make_optimizer,
    recorded,
    samples_of,
)
from trpo.update.pathwise import Expected, Pathwise
from trpo.update.surrogates import Score, Surrogate

PESSIMISM, DISCRETE_PESSIMISM = 0.5, 1.0  # found, not derived: docs/pathwise.md


class Source(Protocol):
    """Makes the surrogate of each iteration, and keeps what that needs in between."""

    def surrogate(self, agent: Agent, rollout: Rollout, batch: Batch, iteration: int, /) -> Surrogate | None:
        """Return what this iteration's policy step maximises, or None while there is nothing to maximise yet."""
        ...

    def figures(self) -> dict[str, float]:
        """Return what is logged of the latest call, by tag."""
        ...

    @property
    def learned(self) -> nn.Module | None:
        """What it learns and every rank must have alike."""
        ...

    def state(self, replay: bool, /) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what decides the future: what is the same on all ranks, and what only this one knows.

        Without `replay`, what learning needs and acting does not is left out.
        """
        ...

    def restore(self, state: dict[str, Any], own: dict[str, Any], /) -> None:
        """Go back to a saved state."""
        ...


class ScoreSource:
    """The paper's surrogate: the batch's own advantages, nothing kept."""

    def surrogate(self, agent: Agent, _rollout: Rollout, batch: Batch, _iteration: int) -> Surrogate | None:
        """Return the score function's surrogate."""
        return Score(agent.policy.distribution, batch)

    learned = None

    def figures(self) -> dict[str, float]:
        """Return nothing."""
        return {}

    def state(self, _replay: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return nothing."""
        return {}, {}

    def restore(self, _state: dict[str, Any], _own: dict[str, Any]) -> None:
        """Do nothing."""


class PathwiseSource:
    """Action values, the last rollouts and their fit.

    Args:
        values: the networks.
        config: the fit.
        bounds: how continuous actions come inside them, in the policy's units.
        gamma: γ.
        seed: of the run.
        environments: the numbers of this rank's environments.
        num_envs: the number of all of them.
        micro_batch: the most states in one pass of a policy step; 0 for all.
    """

    def __init__(
        self,
        values: ActionValues,
        config: ActionValuesConfig,
        bounds: Bounds | None,
        *,
        gamma: float,
        seed: int,
        environments: range,
        num_envs: int,
        micro_batch: int = 0,
    ) -> None:
        self.values, self.config, self.bounds, self.gamma, self.seed = values, config, bounds, gamma, seed
        self.learned = values
        self.environments, self.num_envs, self.micro_batch = environments, num_envs, micro_batch
        self.optimizer = make_optimizer(values, config)
        self.replay: deque[Recorded] = deque(maxlen=config.rollouts)
        self.fit: ActionValueFit | None = None

    def surrogate(self, agent: Agent, rollout: Rollout, batch: Batch, iteration: int) -> Surrogate | None:
        """Fit the action values to rollouts, this one among them, and return the surrogate that they give."""
        self.replay.append(recorded(rollout, batch, agent.policy.distribution))
        reader = Reader(self.values, agent, self.bounds, self._pessimism())
        self.fit = self._fit(reader, iteration)
        if iteration < self.config.warm_up:
            return None
        if self.bounds is None:
            return Expected(agent.policy.distribution, self.values, batch)
        noise = self._noise(rollout, iteration)
        return Pathwise(self.values, batch, noise, self.bounds, micro_batch=self.micro_batch)

    def _fit(self, reader: Reader, iteration: int) -> ActionValueFit:
        """Compute the targets of the rollouts that are drawn, fit, and say how it went on the fresh one."""
        config = self.config
        generator = self._generator(seeds.Role.ACTION_VALUES, iteration, ranks.number())
        settings = {"gamma": self.gamma, "trace": config.trace}
        *earlier, newest = self._drawn(generator)
        alike = groupby(earlier, key=lambda record: len(record.log_probs))
        several = [beside(list(some)) for _, some in alike]  # in one pass: a tenth to a sixth less time
        parts = [
            samples_of(one, reader, generator, draws=config.target_noise, **settings) for one in [*several, newest]
        ]
        samples, fresh = Samples(*(torch.cat(columns) for columns in zip(*parts, strict=True))), parts[-1]
        before = assess(self.values, fresh)
        fit_action_values(self.values, self.optimizer, samples, config, generator)
        after = assess(self.values, fresh)
        beyond = self.values.head.beyond(samples.targets).double().mean()
        shares = torch.stack([samples.traces.double().mean(), self._clipped_share(), beyond])
        assessed = (before.loss, after.loss, before.explained_variance, after.disagreement)
        return ActionValueFit(*assessed, *ranks.mean(shares, len(samples.traces)).tolist())

    def _pessimism(self) -> float:
        """Return that of the configuration, or else of the kind of actions."""
        if self.config.pessimism is not None:
            return self.config.pessimism
        return DISCRETE_PESSIMISM if self.bounds is None else PESSIMISM

    def _drawn(self, generator: torch.Generator) -> list[Recorded]:
        """Return some of the rollouts, the newest last: targets for all of them would cost more than the fit."""
        *earlier, newest = self.replay
        order = torch.randperm(len(earlier), generator=generator)[: self.config.drawn - 1]
        return [*(earlier[index] for index in order.tolist()), newest]

    def _clipped_share(self) -> Tensor:
        """Return the share of the fresh rollout's action components that lie outside their bounds."""
        rollout = self.replay[-1].rollout
        actions = rollout.actions[rollout.valid]
        if self.bounds is None:
            return torch.zeros((), dtype=torch.float64, device=actions.device)
        return self.bounds.outside(actions).double().mean()

    def _noise(self, rollout: Rollout, iteration: int) -> Tensor:
        """Return ε (N, K, A), drawn for the environments of all ranks: the same whichever rank steps them."""
        steps, size = len(rollout.rewards), rollout.actions.shape[-1]
        generator = self._generator(seeds.Role.SURROGATE_NOISE, iteration)
        noise = torch.randn(steps, self.num_envs, self.config.noise, size, generator=generator)
        own = noise[:, self.environments.start : self.environments.stop].to(rollout.actions.device)
        return own[rollout.valid]

    def _generator(self, role: seeds.Role, *path: int) -> torch.Generator:
        return seeds.generator(self.seed, role, *path)

    def figures(self) -> dict[str, float]:
        """Return how the latest fit went."""
        return {} if self.fit is None else {f"action_values/{name}": v for name, v in self.fit.figures().items()}

    def state(self, replay: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return networks and optimiser as copies, and the rollouts as they are: nothing writes to those."""
        if not replay:
            return {}, {}
        optimizer = {name: value.clone() for name, value in self.optimizer.state[self.values.theta].items()}
        own = [{"rollout": one.rollout.state(), "log_probs": one.log_probs} for one in self.replay]
        return {"theta": self.values.theta.detach().clone(), "optimizer": optimizer}, {"replay": own}

    def restore(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        """Go back to a saved state. Raises `UserError` if that is only enough to act."""
        if "theta" not in state:
            raise UserError("the checkpoint holds no action values: its agent can be evaluated, not trained further")
        device = self.values.theta.device
        self.values.theta.copy_(state["theta"])
        self.optimizer.state[self.values.theta] = {
            name: value.to(device, copy=True) for name, value in state["optimizer"].items()
        }
        moved = [
            Recorded(Rollout.from_state(one["rollout"]).to(device), one["log_probs"].to(device))
            for one in own["replay"]
        ]
        self.replay = deque(moved, maxlen=self.config.rollouts)


def make_source(
    config: Config, values: ActionValues | None, bounds: Bounds | None, environments: range, device: torch.device
) -> Source:
    """Return where the surrogates of a run come from; without action values from each batch alone."""
    if values is None:
        return ScoreSource()
    return PathwiseSource(
        values.to(device),
        config.action_values,
        bounds,
        gamma=config.advantage.gamma,
        seed=config.seed,
        environments=environments,
        num_envs=config.env.num_envs,
        micro_batch=config.trust_region.micro_batch,
    )
