"""Rollouts: the policy acts, nothing else happens."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo.batch import Rollout
from trpo.models.agent import Agent
from trpo.sampling.environments import Environments, Transition


@contextmanager
def single_thread() -> Iterator[None]:
    """Use one torch thread meanwhile."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Collector:
    """Steps environments with a policy and keeps count of their episodes, across rollouts."""

    def __init__(
        self, environments: Environments, *, steps: int, generator: torch.Generator, noise_correlation: float = 0.0
    ) -> None:
        self.environments = environments
        self.steps = steps  # T
        self.generator = generator
        self.noise_correlation = noise_correlation  # ρ
        self.noise: Tensor | None = None  # ε of the last step, if it matters for the next
        self.returns = np.zeros(environments.num_envs)  # raw, of the episodes under way
        self.lengths = np.zeros(environments.num_envs, dtype=np.int64)

    @single_thread()
    def collect(self, agent: Agent) -> Rollout:
        """Return T steps of every environment, on the agent's device.

        Each step asks the policy for actions and for nothing else; values, log-probs and distribution parameters
        are computed afterwards in one pass. One torch thread: the passes are too small to share.
        """
        device, act = next(agent.parameters()).device, agent.actor()
        observations: list[Tensor] = []
        actions: list[Tensor] = []
        transitions: list[Transition] = []
        finals: list[Tensor] = [self.environments.observations[:0]]  # or there may be nothing to concatenate
        episodes: list[tuple[float, int]] = []
        while len(transitions) < self.steps or not any(transition.valid.any() for transition in transitions):
            observations.append(self.environments.observations)
            actions.append(act(observations[-1].to(device), self._noise(agent)).cpu())
            transition = self.environments.step(actions[-1])
            transitions.append(transition)
            if transition.truncated.any():
                finals.append(transition.next_observations[torch.from_numpy(transition.truncated)])
            episodes += self._count(transition)
        return Rollout(
            observations=torch.stack(observations).to(device),
            actions=torch.stack(actions).to(device),
            rewards=stacked([transition.rewards for transition in transitions]).to(device),
            terminated=stacked([transition.terminated for transition in transitions]).to(device),
            truncated=stacked([transition.truncated for transition in transitions]).to(device),
            valid=stacked([transition.valid for transition in transitions]).to(device),
            last_observations=self.environments.observations.to(device),
            final_observations=torch.cat(finals).to(device),
            episode_returns=[episode_return for episode_return, _ in episodes],
            episode_lengths=[length for _, length in episodes],
        )

    def _noise(self, agent: Agent) -> Tensor:
        """Draw for the environments of all ranks and return the rows of ours: they are the same on any rank.

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
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to a saved state; return whether the environments could be brought there to the bit."""
        self.generator.set_state(state["generator"])
        noise = state.get("noise")  # older checkpoints have none
        self.noise = None if noise is None else noise.to(self.generator.device)
        self.returns, self.lengths = state["returns"].numpy().copy(), state["lengths"].numpy().copy()
        return self.environments.restore(state["environments"])

    def _count(self, transition: Transition) -> list[tuple[float, int]]:
        """Add a step to the episodes under way; return (return, length) of those that ended with it."""
        self.returns += np.where(transition.valid, transition.rewards, 0.0)
        self.lengths += transition.valid
        ended = transition.ended
        if not ended.any():
            return []
        whole = ended & ~transition.interrupted
        finished = list(zip(self.returns[whole].tolist(), self.lengths[whole].tolist(), strict=True))
        self.returns[ended] = 0.0
        self.lengths[ended] = 0
        return finished


def stacked(rows: list[np.ndarray]) -> Tensor:
    """Return T rows of numbers (B,) as one tensor (T, B)."""
    return torch.from_numpy(np.stack(rows))
