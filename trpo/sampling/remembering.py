"""A rollout of an agent with memory: where its segments begin, and in which states the critic's own memory starts."""

import torch
from torch import Tensor

from trpo.batch import Rollout
from trpo.models.agent import Agent
from trpo.models.memory import Memory
from trpo.models.observations import CRITIC_STATE, SEGMENT, Observations, leaves_of, like
from trpo.models.recall import Recall


def remembered(agent: Agent, rollout: Rollout, recall: Recall) -> Rollout:
    """Return a rollout with its segments, and carry the critic's memory to its end: V has not been asked for yet.

    The critic as it is now remembers what the policy met; where the rollout ends in the middle of an episode the state
    goes on into the next one, and after a truncation it is the state in which the final observation is met.
    """
    over = rollout.terminated | rollout.truncated | ~rollout.valid
    rollout = rollout._replace(observations=replaced(rollout.observations, SEGMENT, segments(over)))
    critic = getattr(agent.critic, "encoder", None)
    if isinstance(critic, Memory):
        ends = critic.ends(agent.normalize(rollout.observations.flatten(0, 1))).unflatten(0, over.shape)
        recall.carried[CRITIC_STATE] = torch.where(over[-1, :, None], 0.0, ends[-1]).cpu()
        finals = replaced(rollout.final_observations, CRITIC_STATE, ends[rollout.truncated])
        alone = torch.arange(len(finals), device=over.device)  # an environment may have been truncated twice
        rollout = rollout._replace(final_observations=replaced(finals, SEGMENT, alone))
        carried = recall.carried[CRITIC_STATE].to(over.device)
        rollout = rollout._replace(last_observations=replaced(rollout.last_observations, CRITIC_STATE, carried))
    return rollout


def segments(over: Tensor) -> Tensor:
    """Return the number (T, B) of each row's segment: one begins with the rollout and after each row that is `over`."""
    begins = torch.cat([torch.ones_like(over[:1]), over[:-1]]).long()
    return begins.cumsum(0) + torch.arange(over.shape[1], device=over.device) * (len(over) + 1)


def replaced(observations: Observations, name: str, leaf: Tensor) -> Observations:
    """Return observations with another leaf under a name."""
    return like(observations, {**leaves_of(observations), name: leaf})
