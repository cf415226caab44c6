"""One iteration: collect → batch → policy step → critic fit → statistics. Nothing here writes a file."""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from trpo.batch import Batch, Rollout, make_batch
from trpo.config import Config, UserError
from trpo.models.action_values import action_values_for
from trpo.models.agent import Agent, load_agent, make_agent
from trpo.numerics.params import fingerprint
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.sampling.infos import Infos
from trpo.sampling.interface import Interface
from trpo.system import ranks, seeds
from trpo.system.device import resolve_device
from trpo.system.laps import Laps
from trpo.system.process import set_up
from trpo.update.critic import fit_critic, make_optimizer
from trpo.update.entropy import entropy_part, with_entropy
from trpo.update.profile import Profile, profile_step
from trpo.update.promise import Judge, promise_of
from trpo.update.sources import make_source
from trpo.update.statistics import restart_std, shift_std, state_kl, take_in, update_normalizer, update_reward_scale
from trpo.update.step_info import Outcome, StepInfo
from trpo.update.surrogates import Surrogate
from trpo.update.trust_region import trust_region_step

log = logging.getLogger(__name__)


class Iteration(NamedTuple):
    """What an iteration leaves for the record."""

    row: dict[str, float | str]
    batch: Batch
    surrogate: Surrogate | None  # none in an iteration without a step
    step: StepInfo
    profile: Profile | None  # of the step, if one is due


class Trainer:
    """Owns everything that lives longer than an iteration; holds no formula."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = resolve_device(config)
        set_up(threads=config.run.threads, deterministic=config.run.deterministic)
        numbers, infos = ranks.share(config.env.num_envs), Infos(config.record.info_keys)
        self.environments = Environments(config.env, config.seed, numbers, config.sees, infos)
        try:
            self._make_parts()
        except BaseException:
            self.environments.close()
            raise

    def _make_parts(self) -> None:
        config, interface = self.config, self.environments.interface
        self.agent = agent_for(config, interface).to(self.device)
        self.optimizer = make_optimizer(self.agent.critic, config.critic)
        self.judge = Judge()
        numbers = self.environments.numbers
        values = action_values_for(config, interface.observations, interface.distribution)
        self.source = make_source(config, values, self.agent.bounds, numbers, self.device)
        self.minibatches = seeds.generator(config.seed, seeds.Role.MINIBATCHES, *[ranks.number()] * (not ranks.leads()))
        self.collector = Collector(
            self.environments,
            steps=-(-config.run.steps_per_iteration // config.env.num_envs),
            generator=seeds.generator(config.seed, seeds.Role.ACTIONS, device=self.device),
            noise_correlation=config.policy.noise_correlation,
            recall=self.agent.recall(self.environments.num_envs),
        )
        self.discounted = torch.zeros(len(numbers), dtype=torch.float64)  # returns of episodes so far, for the scale
        self.iteration, self.env_steps = 0, 0
        self.warms_up = self.agent.has_statistics or self.agent.reward_scale is not None  # statistics that must start

    def adopt(self, state: Mapping[str, Any], source: str) -> None:
        """Start from the agent of another run's state: its networks and statistics, and nothing else of it.

        Raises `UserError`, naming `source`, for what does not fit.
        """
        load_agent(self.agent, state, source)
        restart_std(self.agent.policy)
        self.warms_up = False

    def warm_up(self) -> None:
        """Give the running statistics one rollout of the first policy, before its first step.

        Without it they would jump after the first iteration, and the policy with them: by 1.7 to 2.8 δ.
        """
        if not self.warms_up:
            return
        rollout = self.collect()
        self.env_steps += int(ranks.total(rollout.valid.sum()))
        if self.agent.normalizer is not None:
            take_in(self.agent.normalizer, rollout.observations[rollout.valid])

    def iterate(self) -> Iteration:
        """Run one iteration; its row maps the tags of the design's contract to numbers."""
        clock = Laps()
        rollout = self.collect()
        clock.lap("collect")
        return self.learn(rollout, clock)

    def collect(self) -> Rollout:
        """Return a rollout of the policy as it is, its rewards taken into their scale: the policy does not see that."""
        rollout = self.collector.collect(self.agent)
        gamma = self.config.advantage.gamma
        self.discounted = update_reward_scale(self.agent, rollout, self.discounted, gamma=gamma)
        return rollout

    def learn(self, rollout: Rollout, clock: Laps) -> Iteration:
        """Take a policy step and a critic fit on a rollout, and the statistics further."""
        config, agent, most = self.config, self.agent, self.config.trust_region.micro_batch
        advantage = {**dataclasses.asdict(config.advantage), "normalize": config.normalize.advantages}
        batch = make_batch(agent, rollout, **advantage, micro_batch=most)
        judged, surrogate, step = self._step(rollout, batch)
        clock.lap("policy")
        profile = self._profile(batch, surrogate, step)
        clock.leave_out()
        critic = config.critic.annealed(self.progress)
        samples = (batch.observations, batch.returns)
        fit = fit_critic(agent.critic, self.optimizer, *samples, critic, self.minibatches, micro_batch=most)
        clock.lap("critic")
        steps = int(ranks.total(rollout.valid.sum()))
        self.iteration += 1
        self.env_steps += steps
        statistics = shift_std(agent.policy, batch, math.log(config.policy.final_std_scale) * self.progress, most)
        statistics |= state_kl(agent, rollout, most) | update_normalizer(agent, rollout, batch, most)
        if step.outcome not in (Outcome.ACCEPTED, Outcome.WARMING_UP):
            log.warning("iteration %d: the policy step was rejected: %s", self.iteration, step.outcome.value)
        row: dict[str, float | str] = {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_time": time.time(),
            "outcome": step.outcome.name.lower(),
            "fingerprint": fingerprint(agent.policy),
            **tagged("rollout", rollout.figures()),
            **tagged("trust_region", {**step.figures(), **judged}),
            **statistics,
            **tagged("critic", fit.figures()),
            **self.source.figures(),
            **tagged("time", clock.figures(steps)),
        }
        for module in filter(None, (agent, self.source.learned)):
            ranks.check_same(fingerprint(module))
        return Iteration(row, batch, surrogate, step, profile)

    def _step(self, rollout: Rollout, batch: Batch) -> tuple[dict[str, float], Surrogate | None, StepInfo]:
        """Judge the last policy step by this batch, then take the next one, if there is a surrogate yet."""
        policy, settings, reward_std = self.agent.policy, self.config.trust_region, self.agent.reward_std
        judged = self.judge.judge(policy, batch, reward_std=reward_std, micro_batch=settings.micro_batch)
        surrogate = self.source.surrogate(self.agent, rollout, batch, self.iteration)
        if surrogate is None:
            return judged, None, StepInfo.without_a_step(Outcome.WARMING_UP)
        surrogate = with_entropy(surrogate, policy, batch, settings.entropy)
        step = trust_region_step(policy, batch, settings, surrogate=surrogate, progress=self.progress)
        bonus = entropy_part(surrogate, policy, batch, settings.micro_batch)
        if not self.config.policy.noise_correlation:  # given the state, noise that goes on is not the policy's
            part = sum(bonus.values())
            self.judge.promise = promise_of(step, scale=surrogate.scale, reward_std=reward_std, bonus=part)
        return judged | bonus, surrogate, step

    def _profile(self, batch: Batch, surrogate: Surrogate | None, step: StepInfo) -> Profile | None:
        """Return the step's profile if one is due, before σ and statistics move the policy from where the step was."""
        due = (every := self.config.record.profile_every) and (self.iteration + 1) % every == 0
        return profile_step(self.agent.policy, batch, step, self.config.trust_region, surrogate) if due else None

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

    def state(self, *, replay: bool = True) -> dict[str, Any]:
        """Return a copy of everything that decides the future, as tensors and plain data.

        `ranks` holds what only this rank knows; a checkpoint has that of all. Without `replay` it is enough to act.
        """
        shared, own = self.source.state(replay)
        return {
            "config": dataclasses.asdict(self.config),
            "spaces": self.environments.interface.description(),
            "device": self.device.type,
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "agent": copy.deepcopy(self.agent.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "judge": self.judge.state(),
            "source": shared,
            "ranks": [
                {
                    "minibatches": self.minibatches.get_state(),
                    "collector": self.collector.state(),
                    "discounted": self.discounted,
                    "source": own,
                }
            ],
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state; return whether everything is as it was, to the bit."""
        if state["device"] != self.device.type:
            raise UserError(f"the run was on {state['device']}, this machine gives {self.device}: set device=")
        if len(state["ranks"]) != ranks.count():
            raise UserError(f"the run was on {len(state['ranks'])} rank(s), these are {ranks.count()}")
        self.iteration, self.env_steps, self.warms_up = state["iteration"], state["env_steps"], False
        load_agent(self.agent, state, "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        if "judge" in state:  # older checkpoints have none
            self.judge.restore(state["judge"], self.device)
        own = state["ranks"][ranks.number()]
        self.source.restore(state.get("source", {}), own.get("source", {}))
        self.minibatches.set_state(own["minibatches"])
        self.discounted = own["discounted"]
        exact = self.collector.restore(own["collector"])
        return ranks.largest(int(not exact)) == 0


def agent_for(config: Config, interface: Interface) -> Agent:
    """Return a fresh agent for environments with this interface."""
    return make_agent(config, interface.observations, interface.distribution, interface.limits)


def tagged(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures under `group/name`."""
    return {f"{group}/{name}": value for name, value in figures.items()}
