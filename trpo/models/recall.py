"""What an agent with memory carries from step to step, beside the environments that it acts in."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trpo.config import Config
from trpo.models.censored_gaussian import CensoredGaussian
from trpo.models.distributions import Categorical, Distribution
from trpo.models.observations import (
    CRITIC_STATE,
    POLICY_STATE,
    PREVIOUS_ACTION,
    PREVIOUS_REWARD,
    SEGMENT,
    Kind,
    Leaf,
    Observations,
    leaves_of,
    tree,
)

VECTORS = {"none": 0, "gru": 1, "lstm": 2}  # in a state: an LSTM's is h and c, side by side


class Remembered(NamedTuple):
    """What an agent carries from step to step, by its sizes; 0 for what it does not.

    An action is carried as its own numbers, a discrete one as 1 of n for each dimension.
    """

    policy: int  # numbers in a state
    critic: int
    action: int
    reward: int
    distribution: Distribution

    def leaves(self) -> dict[str, Leaf]:
        """Return what it adds to the parts of an observation."""
        sizes = {POLICY_STATE: self.policy, CRITIC_STATE: self.critic}
        inputs = {PREVIOUS_ACTION: self.action, PREVIOUS_REWARD: self.reward}
        return (
            {name: Leaf(Kind.STATE, (size,)) for name, size in sizes.items() if size}
            | {name: Leaf(Kind.VECTOR, (size,)) for name, size in inputs.items() if size}
            | {SEGMENT: Leaf(Kind.SEGMENT, (1,), bytes=8)}
        )

    def of_policy(self) -> dict[str, int]:
        """Return what the policy acts on of it, by name, and how many numbers that is."""
        sizes = {POLICY_STATE: self.policy, PREVIOUS_ACTION: self.action, PREVIOUS_REWARD: self.reward}
        return {name: size for name, size in sizes.items() if size}

    def after(self, state: Tensor | None, actions: Tensor) -> dict[str, Tensor]:
        """Return what the policy leaves to its next step: its state (B, H*) and its actions (B, A) as numbers."""
        news = {} if state is None else {POLICY_STATE: state}
        return news | ({PREVIOUS_ACTION: self._as_numbers(actions)} if self.action else {})

    def _as_numbers(self, actions: Tensor) -> Tensor:
        if isinstance(self.distribution, CensoredGaussian):
            return self.distribution.sent(actions)  # or what cannot be told from what is sent would change what follows
        if not isinstance(self.distribution, Categorical):
            return actions
        parts = zip(actions.long().unbind(-1), self.distribution.sizes, strict=True)
        return torch.cat([nn.functional.one_hot(action, size) for action, size in parts], dim=-1)


def remembered(config: Config, distribution: Distribution) -> Remembered | None:
    """Return what the configured agent carries, or None if it has no memory."""
    policy, critic = config.policy, config.critic
    if {policy.memory, critic.memory} == {"none"}:
        return None
    discrete = isinstance(distribution, Categorical)
    actions = distribution.parameter_size if discrete else distribution.action_size
    return Remembered(
        policy=policy.memory_size * VECTORS[policy.memory],
        critic=critic.memory_size * VECTORS[critic.memory],
        action=actions if "action" in policy.memory_inputs else 0,
        reward=int("reward" in policy.memory_inputs),
        distribution=distribution,
    )


class Recall:
    """What B environments' agents carry from step to step: put into what they observe next, dropped where they end.

    Args:
        sizes: of what is carried.
        rows: B.
    """

    def __init__(self, sizes: Remembered, rows: int) -> None:
        self.sizes = sizes
        widths = {name: leaf.size for name, leaf in sizes.leaves().items() if name != SEGMENT}
        self.carried = {name: torch.zeros(rows, width) for name, width in widths.items()}

    def seen(self, observations: Observations, rows: Any = slice(None)) -> Observations:
        """Return observations (B, …), of some `rows` only, with what is carried; each is a segment of its own."""
        count = len(observations)
        carried = {name: leaf[rows].clone() for name, leaf in self.carried.items()}  # which is written over
        return tree({**leaves_of(observations), **carried, SEGMENT: torch.arange(count)}, (count,))

    def remember(self, state: Tensor | None, actions: Tensor, rewards: Tensor, rows: Any = slice(None)) -> None:
        """Take in a step: the policy's state after it (B, H*), its actions (B, A) and rewards (B,)."""
        news = {**self.sizes.after(state, actions), PREVIOUS_REWARD: rewards[:, None]}
        for name, carried in self.carried.items():  # the critic's state is data only where a rollout starts
            new = news.get(name)
            carried[rows] = 0.0 if new is None else new.to(carried)

    def forget(self, where: Tensor) -> None:
        """Drop everything where an episode has ended (B,)."""
        for carried in self.carried.values():
            carried[where] = 0.0

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what is carried."""
        return {name: part.clone() for name, part in self.carried.items()}

    def restore(self, carried: Any) -> None:
        """Go back to what was carried."""
        for name, part in self.carried.items():
            part.copy_(carried[name])


class NoRecall:
    """What an agent without memory carries."""

    def seen(self, observations: Observations, rows: Any = None) -> Observations:  # noqa: ARG002
        """Return the observations as they are."""
        return observations

    def remember(self, state: Tensor | None, actions: Tensor, rewards: Tensor, rows: Any = None) -> None:
        """Take in nothing."""

    def forget(self, where: Tensor) -> None:
        """Drop nothing."""

    def state(self) -> None:
        """Return nothing."""

    def restore(self, carried: Any) -> None:
        """Go back to nothing."""


NOTHING = NoRecall()
