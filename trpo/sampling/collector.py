"""Rollouts: the policy acts, nothing else happens."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo.batch import Rollout
from trpo.models.agent import Agent
from trpo.models.observations import Observations
from trpo.models.recall import NOTHING, NoRecall, Recall
from trpo.sampling.environments import Environments
from trpo.sampling.remembering import remembered
from trpo.sampling.transition import Transition
from trpo.system.threads import single_thread


class Collector:
    """Steps environments with a policy and keeps count of their episodes, across rollouts."""

    def __init__(
        self,
        environments: Environments,
        *,
        steps: int,
        generator: torch.Generator,
        noise_correlation: float = 0.0,
        recall: Recall | NoRecall = NOTHING,
    ) -> None:
        self.environments = environments
        self.infos = environments.infos
        self.steps = steps  # T
        self.generator = generator
        self.noise_correlation = noise_correlation  # ρ
        self.noise: Tensor | None = None  # ε of the last step, if it matters for the next
        self.recall = recall  # what the agent carries into the next rollout
        self.returns = np.zeros(environments.num_envs)  # raw, of the episodes under way
        self.lengths = np.zeros(environments.num_envs, dtype=np.int64)

    @single_thread()
    def collect(self, agent: Agent) -> Rollout:
        """Return T steps of every environment, on the agent's device.

        One torch thread: the passes are too small to share.
        """
        device = next(agent.parameters()).device
        observations, actions, transitions, finals = self._play(agent, device)
        self.environments.watch(observations)
        truncated = [torch.from_numpy(transition.truncated) for transition in transitions]
        episodes, told = self._count(transitions)
        rollout = Rollout(
            observations=observations.to(device),
            actions=actions.to(device),
            rewards=stacked([transition.rewards for transition in transitions]).to(device),
            terminated=stacked([transition.terminated for transition in transitions]).to(device),
            truncated=torch.stack(truncated).to(device),
            valid=stacked([transition.valid for transition in transitions]).to(device),
            last_observations=self._seen().to(device),
            final_observations=torch.cat([self._seen()[:0], *finals]).to(device),
            episode_returns=[episode_return for episode_return, _ in episodes],
            episode_lengths=[length for _, length in episodes],
            episode_infos=self.infos.columns(told),
            first_environment=self.environments.numbers.start,
        )
        return remembered(agent, rollout, self.recall) if isinstance(self.recall, Recall) else rollout

    def _play(
        self, agent: Agent, device: torch.device
    ) -> tuple[Observations, Tensor, list[Transition], list[Observations]]:
        """Return T steps: what was acted on (T, B, …), actions (T, B, A), what they led to, and what rows were cut at.

        Each step asks the policy for actions and for nothing else; values, log-probs and distribution parameters are
        computed afterwards in one pass. Noise is drawn before: between two steps a draw takes five times as long.
        """
        act, noise = agent.acting(), [self._noise(agent) for _ in range(self.steps)]
        observations: list[Observations] = []
        actions: list[Tensor] = []
        transitions: list[Transition] = []
        finals: list[Observations] = []  # what truncated rows really ended in
        while len(transitions) < self.steps or not any(transition.valid.any() for transition in transitions):
            observations.append(self._seen())
            drawn = noise[len(actions)] if len(actions) < self.steps else self._noise(agent)
            acted, state = act(observations[-1].to(device), drawn)
            actions.append(acted.cpu())
            transitions.append(self.environments.step(agent.sent(acted).cpu()))
            finals += self._carry_on(state, actions[-1], transitions[-1])
        return torch.stack(observations), torch.stack(actions), transitions, finals

    def _seen(self) -> Observations:
        """Return what the agent sees now (B, …), with what it carries."""
        return self.recall.seen(self.environments.observations)

    def _carry_on(self, state: Tensor | None, actions: Tensor, transition: Transition) -> list[Observations]:
        """Carry what is remembered over a step, and return what truncated environments ended in, if any are."""
        self.recall.remember(state, actions, torch.from_numpy(transition.rewards))
        finals = []
        if transition.truncated.any():
            finals.append(self.recall.seen(transition.next_observations)[torch.from_numpy(transition.truncated)])
        self.recall.forget(torch.from_numpy(transition.ended | ~transition.valid))
        return finals

    def _noise(self, agent: Agent) -> Tensor:
        """Draw for the environments of all ranks and return the rows of ours: they are the same on any rank.

        But for a rank that had to go on alone, as all of its rows were resets: it has drawn more than the others since.

        With a correlation, ε ← ρε + √(1 − ρ²)ξ, ξ drawn anew, on through the ends of episodes. Each ε is standard
        normal, so log-probs and KL stay those of the policy; the gradient overlooks what a state tells about ε
        (Hollenstein, Martius and Piater 2023, arXiv:2312.11091, likewise, with other spectra).
        """
        numbers, rho = self.environments.numbers, self.noise_correlation
        noise = agent.policy.distribution.noise(self.environments.config.num_envs, self.generator)
        if rho:
            noise = self.noise = noise if self.noise is None else rho * self.noise + math.sqrt(1 - rho**2) * noise
        return noise[numbers.start : numbers.stop]

    def state(self) -> dict[str, Any]:
        """Return everything that decides the next rollout, but for the agent."""
        return {
            "environments": self.environments.state(),
            "generator": self.generator.get_state(),
            "noise": self.noise,
            "returns": torch.from_numpy(self.returns.copy()),
            "lengths": torch.from_numpy(self.lengths.copy()),
            "recall": self.recall.state(),
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state; return whether the environments could be brought there to the bit."""
        self.generator.set_state(state["generator"])
        noise = state.get("noise")  # older checkpoints have none
        self.noise = None if noise is None else noise.to(self.generator.device)
        self.recall.restore(state.get("recall"))
        self.returns, self.lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()
        return self.environments.restore(state["environments"])

    def _count(self, transitions: list[Transition]) -> tuple[list[tuple[float, int]], np.ndarray]:
        """Add steps to the episodes under way; return (return, length) and figures (E, K) of those that ended."""
        finished: list[tuple[float, int]] = []
        told = [np.empty((0, len(self.infos.keys)))]
        for transition in transitions:
            self.returns += np.where(transition.valid, transition.rewards, 0.0)
            self.lengths += transition.valid
            ended = transition.ended
            if ended.any():
                whole = ended & ~transition.interrupted
                finished += zip(self.returns[whole].tolist(), self.lengths[whole].tolist(), strict=True)
                told.append(transition.infos[whole])
                self.returns[ended] = 0.0
                self.lengths[ended] = 0
        return finished, np.concatenate(told)


def stacked(rows: list[np.ndarray]) -> Tensor:
    """Return T rows of numbers (B,) as one tensor (T, B)."""
    return torch.from_numpy(np.stack(rows))
