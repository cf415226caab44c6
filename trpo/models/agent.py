"""The agent: everything that evaluation needs and a checkpoint saves."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trpo.config import Config, PolicyConfig, UserError
from trpo.models.distributions import DiagonalGaussian, Distribution
from trpo.models.networks import Actor, Critic, GaussianPolicy, LogitPolicy, Policy
from trpo.models.normalizer import ObservationNormalizer, OneHotScale, RewardScale
from trpo.system import seeds


class Agent(nn.Module):
    """A policy, a critic and their running statistics, as one module with one `state_dict`."""

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        normalizer: ObservationNormalizer | OneHotScale | None,
        reward_scale: RewardScale | None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.normalizer = normalizer
        self.reward_scale = reward_scale

    def normalize(self, observations: Tensor) -> Tensor:
        """Return raw observations (N, O) as the networks see them."""
        return observations if self.normalizer is None else self.normalizer(observations)

    @property
    def reward_std(self) -> float:
        """What rewards are divided by; 1 if they are not scaled."""
        return 1.0 if self.reward_scale is None else float(self.reward_scale.moments.std())

    def actor(self) -> Actor:
        """Return the map of raw observations (B, O) to actions (B, A): sampled with noise, or the mode without.

        It is that of the agent as it is now, valid until a parameter changes.
        """
        policy = self.policy.actor()
        normalize = self.normalize if self.normalizer is None else self.normalizer.snapshot()
        return lambda observations, noise: policy(normalize(observations), noise)


def make_agent(config: Config, *, observation_size: int, one_hot: bool, distribution: Distribution) -> Agent:
    """Return a fresh agent for these observations and actions, its weights drawn from the configured seed."""
    generator = seeds.generator(config.seed, seeds.Role.NETWORKS)
    critic = Critic(
        observation_size,
        hidden_sizes=config.critic.hidden_sizes,
        activation=config.critic.activation,
        generator=generator,
    )
    normalizer_type = OneHotScale if one_hot else ObservationNormalizer
    return Agent(
        policy=make_policy(config.policy, observation_size, distribution, generator),
        critic=critic,
        normalizer=normalizer_type(observation_size) if config.normalize.observations else None,
        reward_scale=RewardScale() if config.normalize.rewards else None,
    )


def load_agent(agent: Agent, state: Mapping[str, Any], source: str) -> None:
    """Load the agent of a checkpoint's state. Raises `UserError`, naming `source`, if it is another agent's."""
    try:
        agent.load_state_dict(state["agent"])
    except (KeyError, RuntimeError) as error:
        differences = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise UserError(
            f"the agent in {source} does not fit the run's configuration: another run's, or another version's. "
            f"{differences}"
        ) from error


def make_policy(
    config: PolicyConfig, observation_size: int, distribution: Distribution, generator: torch.Generator
) -> Policy:
    """Return the policy that goes with a distribution. Raises `UserError` for what only another one has."""
    if isinstance(distribution, DiagonalGaussian):
        return GaussianPolicy(
            observation_size,
            distribution.action_size,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            initial_log_std=config.initial_log_std,
            min_log_std=config.min_log_std,
            generator=generator,
        )
    if config.noise_correlation:
        raise UserError("policy.noise_correlation must be 0 here: only continuous actions have Gaussian noise")
    return LogitPolicy(
        observation_size,
        distribution,
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        generator=generator,
    )
