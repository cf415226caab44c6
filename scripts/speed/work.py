"""The work that everybody gets: one policy, one critic, one batch, of HalfCheetah's shape."""

from typing import NamedTuple

import torch
from torch import Tensor

from trpo import Batch, Config, CriticConfig, Policy
from trpo.config import PolicyConfig
from trpo.models.agent import make_agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.networks import Critic
from trpo.models.observations import Kind, Leaf

OBSERVATION_SIZE, ACTION_SIZE = 17, 6
CHUNK = 16_384  # rows of one forward pass while a batch is made: the memory of a large one is for the update


class Work(NamedTuple):
    """What one update is done on."""

    policy: Policy
    critic: Critic
    batch: Batch


def make_work(samples: int, hidden_sizes: tuple[int, ...], device: torch.device) -> Work:
    """Return networks with these hidden layers and a batch with advantages that an action can earn."""
    generator = torch.Generator().manual_seed(0)
    config = Config(policy=PolicyConfig(hidden_sizes=hidden_sizes), critic=CriticConfig(hidden_sizes=hidden_sizes))
    agent = make_agent(
        config, observations=Leaf(Kind.VECTOR, (OBSERVATION_SIZE,)), distribution=DiagonalGaussian(ACTION_SIZE)
    )
    policy, critic = agent.policy, agent.critic
    observations = torch.randn(samples, OBSERVATION_SIZE, generator=generator)
    parameters = old_parameters(policy, observations)
    actions = policy.distribution.sample(parameters, policy.distribution.noise(samples, generator))
    earned = (actions * observations[:, :ACTION_SIZE]).sum(-1)
    batch = Batch(observations, actions, parameters, (earned - earned.mean()) / earned.std(), returns=earned)
    return Work(policy.to(device), critic.to(device), batch.map(lambda column: column.to(device)))


@torch.no_grad()
def old_parameters(policy: Policy, observations: Tensor) -> Tensor:
    """Return the distribution parameters (N, D) of the policy as it is."""
    return torch.cat([policy(rows) for rows in observations.split(CHUNK)])
