"""One iteration: collect → batch → policy step → critic fit → statistics. Nothing here writes a file."""

import copy
import dataclasses
import hashlib
import logging
import time
from collections.abc import Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import nn

from trpo.batch import Batch, Rollout, make_batch
from trpo.config import Config, UserError
from trpo.models.agent import Agent, load_agent, make_agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.normalizer import ObservationNormalizer
from trpo.numerics.advantages import discounted_returns
from trpo.numerics.params import flatten
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.sampling.evaluation import Evaluation, evaluate
from trpo.sampling.interface import Interface
from trpo.system import ranks, seeds
from trpo.system.device import resolve_device
from trpo.system.laps import Laps
from trpo.system.process import set_up
from trpo.update.critic import fit_critic, make_optimizer
from trpo.update.step_info import Outcome, StepInfo
from trpo.update.trust_region import trust_region_step

log = logging.getLogger(__name__)


class Iteration(NamedTuple):
    """What an iteration leaves for the record."""

    row: dict[str, float | str]
    batch: Batch
    step: StepInfo


class Trainer:
    """Owns everything that lives longer than an iteration; holds no formula."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = resolve_device(config)
        set_up(threads=config.run.threads, deterministic=config.run.deterministic)
        self.environments = Environments(config.env, config.seed, ranks.share(config.env.num_envs))
        try:
            self._make_parts()
        except BaseException:
            self.environments.close()
            raise

    def _make_parts(self) -> None:
        config = self.config
        self.agent = agent_for(config, self.environments.interface).to(self.device)
        self.optimizer = make_optimizer(self.agent.critic, config.critic)
        rank = () if ranks.leads() else (ranks.number(),)
        self.minibatches = seeds.generator(config.seed, seeds.Role.MINIBATCHES, *rank)
        self.collector = Collector(
            self.environments,
            steps=-(-config.run.steps_per_iteration // config.env.num_envs),
            generator=seeds.generator(config.seed, seeds.Role.ACTIONS, device=self.device),
            noise_correlation=config.policy.noise_correlation,
        )
        # The discounted returns of the episodes under way (B,), for the reward scale.
        self.discounted = torch.zeros(self.environments.num_envs, dtype=torch.float64)
        self.iteration = 0
        self.env_steps = 0

    @property
    def warms_up(self) -> bool:
        """Whether there are running statistics to start."""
        return isinstance(self.agent.normalizer, ObservationNormalizer) or self.agent.reward_scale is not None

    def warm_up(self) -> None:
        """Give the running statistics one rollout of the first policy, before its first step.

        Without it they would jump after the first iteration, and the policy with them: by 1.7 to 2.8 δ.
        """
        if not self.warms_up:
            return
        rollout = self.collector.collect(self.agent)
        self.env_steps += int(ranks.total(rollout.valid.sum()))
        self._update_reward_scale(rollout)
        if isinstance(self.agent.normalizer, ObservationNormalizer):
            self.agent.normalizer.update(ranks.moments_of(rollout.observations[rollout.valid]))

    def iterate(self) -> Iteration:
        """Run one iteration; its row maps the tags of the design's contract to numbers."""
        config, agent = self.config, self.agent
        clock = Laps()
        rollout = self.collector.collect(agent)
        clock.lap("collect")
        self._update_reward_scale(rollout)
        batch = make_batch(
            agent,
            rollout,
            gamma=config.advantage.gamma,
            lam=config.advantage.lam,
            normalize=config.normalize.advantages,
        )
        step = trust_region_step(agent.policy, batch, config.trust_region, progress=self.progress)
        clock.lap("policy")
        critic = config.critic.annealed(self.progress)
        fit = fit_critic(agent.critic, self.optimizer, batch.observations, batch.returns, critic, self.minibatches)
        clock.lap("critic")
        statistics = self._update_normalizer(rollout, batch)
        samples = int(ranks.total(rollout.valid.sum()))
        self.iteration += 1
        self.env_steps += samples
        if step.outcome is not Outcome.ACCEPTED:
            log.warning("iteration %d: the policy step was rejected: %s", self.iteration, step.outcome.value)
        row: dict[str, float | str] = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_time": time.time(),
            "outcome": step.outcome.name.lower(),
            "fingerprint": fingerprint(agent.policy),
            **tagged("rollout", rollout.figures()),
            **tagged("trust_region", step.figures()),
            **statistics,
            **tagged("critic", fit.figures()),
            **tagged("time", clock.figures(samples)),
        }
        ranks.check_same(fingerprint(agent))
        return Iteration(row, batch, step)

    def evaluate(self) -> dict[str, float]:
        """Return the figures of deterministic episodes on environments of their own."""
        evaluation = evaluate(
            self.agent,
            self.config.env,
            episodes=ranks.share(self.config.run.evaluation_episodes),
            seed=self.config.seed,
            number=self.iteration,
        )
        returns, lengths = zip(*ranks.everyones(tuple(evaluation)), strict=True)
        return Evaluation(list(chain(*returns)), list(chain(*lengths))).figures()

    @property
    def progress(self) -> float:
        """The share of the run's steps that is done, at most 1."""
        return min(self.env_steps / self.config.run.total_steps, 1.0)

    @property
    def finished(self) -> bool:
        """Whether the steps are done; there is at least one iteration, however few were asked for."""
        return self.iteration > 0 and self.env_steps >= self.config.run.total_steps

    def due(self, every: int, previous: int) -> bool:
        """Return whether what is done `every` so many steps (0: at the end) is due, having been at `previous`."""
        return self.finished or (every > 0 and self.env_steps // every > previous // every)

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def state(self) -> dict[str, Any]:
        """Return a copy of everything that decides the future, as tensors and plain data.

        `ranks` holds what only this rank knows; a checkpoint has that of all.
        """
        return {
            "config": dataclasses.asdict(self.config),
            "device": self.device.type,
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "agent": copy.deepcopy(self.agent.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "ranks": [
                {
                    "minibatches": self.minibatches.get_state(),
                    "collector": self.collector.state(),
                    "discounted": self.discounted,
                }
            ],
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state; return whether everything is as it was, to the bit."""
        if state["device"] != self.device.type:
            raise UserError(f"the run was on {state['device']}, this machine gives {self.device}: set device=")
        if len(state["ranks"]) != ranks.count():
            raise UserError(f"the run was on {len(state['ranks'])} rank(s), these are {ranks.count()}")
        self.iteration, self.env_steps = state["iteration"], state["env_steps"]
        load_agent(self.agent, state, "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        own = state["ranks"][ranks.number()]
        self.minibatches.set_state(own["minibatches"])
        self.discounted = own["discounted"]
        exact = self.collector.restore(own["collector"])
        return ranks.largest(int(not exact)) == 0

    def _update_reward_scale(self, rollout: Rollout) -> None:
        """Take in rewards before they are scaled: the policy does not see the scale, so nothing is frozen."""
        if self.agent.reward_scale is None:
            return
        ended = rollout.terminated | rollout.truncated
        sums, self.discounted = discounted_returns(
            rollout.rewards, ended, rollout.valid, self.discounted, gamma=self.config.advantage.gamma
        )
        self.agent.reward_scale.moments.update(ranks.moments_of(sums.unsqueeze(-1)))

    @torch.no_grad()
    def _update_normalizer(self, rollout: Rollout, batch: Batch) -> dict[str, float]:
        """Move the observation statistics; return the policy's figures and the KL that the move caused."""
        policy, normalizer = self.agent.policy, self.agent.normalizer
        before = policy(batch.observations)
        means = {"policy/entropy": policy.distribution.entropy(before).double().mean()}
        if isinstance(normalizer, ObservationNormalizer):
            observations = rollout.observations[rollout.valid]
            normalizer.update(ranks.moments_of(observations))
            after = policy(normalizer(observations))
            means["trust_region/normalizer_kl"] = policy.distribution.kl(before, after).mean()
        averaged = ranks.mean(torch.stack(list(means.values())), len(before))
        figures = dict(zip(means, averaged.tolist(), strict=True))
        if isinstance(policy.distribution, DiagonalGaussian):
            std = before.chunk(2, dim=-1)[1].exp()
            figures |= {"policy/std_mean": float(std.mean()), "policy/std_min": float(std.min())}
        return figures


def agent_for(config: Config, interface: Interface) -> Agent:
    """Return a fresh agent for environments with this interface."""
    return make_agent(
        config,
        observation_size=interface.observation_size,
        one_hot=interface.one_hot,
        distribution=interface.distribution,
    )


def fingerprint(module: nn.Module) -> str:
    """Return a hash of θ: equal in two runs up to the first iteration in which they differ in a single bit."""
    return hashlib.sha256(flatten(module).cpu().numpy().tobytes()).hexdigest()[:16]


def tagged(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures under `group/name`."""
    return {f"{group}/{name}": value for name, value in figures.items()}
