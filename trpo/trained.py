"""A trained agent away from where it was trained: loaded from its files alone, asked for actions."""

from pathlib import Path
from typing import Any

import torch

from trpo.config import Config, UserError
from trpo.keys import nested
from trpo.models.agent import Agent, load_agent
from trpo.models.encoders import chosen
from trpo.models.observations import PREVIOUS_REWARD
from trpo.models.recall import NoRecall, Recall
from trpo.record import checkpoint
from trpo.sampling.description import space_of
from trpo.sampling.interface import Interface, make_interface
from trpo.sampling.observing import Observer, one_for_each
from trpo.trainer import agent_for


class TrainedAgent:
    """An agent with the way from raw observations to an environment's actions; no environment is made.

    Args:
        agent: policy, critic and statistics.
        config: of its run.
        interface: what it observes and answers; a mask of valid actions is a part called `action_mask`.
        env_steps: how long it was trained.
        seed: of sampled actions.

    >>> import numpy as np
    >>> import trpo
    >>> run = trpo.train("Pendulum-v1", total_steps=2_048, **{"run.evaluation_episodes": 0})
    >>> agent = trpo.load(run.directory)
    >>> agent.act(np.zeros(3, np.float32)).shape, agent.act(np.zeros((5, 3), np.float32), stochastic=True).shape
    ((1,), (5, 1))
    >>> agent.observation_space.shape, agent.env_steps >= 2_048
    ((3,), True)
    """

    def __init__(
        self,
        agent: Agent,
        config: Config,
        *,
        interface: Interface,
        env_steps: int,
        seed: int = 0,
    ) -> None:
        self.agent = agent
        self.config, self.env_steps = config, env_steps
        self.interface = interface
        self.observation_space, self.action_space = interface.observation_space, interface.action_space
        self.generator = torch.Generator().manual_seed(seed)
        policy = config.policy
        names = () if policy.network else policy.observations  # a network of one's own is given what any of them sees
        self.observer = Observer(interface, [*chosen(interface.observations, names)])

    def act(self, observation: Any, *, stochastic: bool = False, mask: Any = None) -> Any:
        """Return the action for a raw observation, or an array of actions for a batch: the mode, or a sample.

        Args:
            observation: as the environment gives it, one or a batch (B, …). Parts that the policy does not see may be
                left out.
            stochastic: whether to sample.
            mask: of valid actions, (n,) or (B, n), where it is no part of the observation: `info["action_mask"]`.

        Raises `UserError` for what is no observation of its space, for a mask that is missing or allows nothing, and
        for an agent with memory.
        """
        if self.agent.memory is not None:
            raise UserError("this agent has a memory: use predict, which takes and returns what it remembers")
        return self.predict(observation, deterministic=not stochastic, mask=mask)[0]

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        mask: Any = None,
        reward: Any = None,
    ) -> tuple[Any, Any]:
        """Return (action, state), with the arguments of Stable-Baselines3's `predict`.

        Args:
            observation: as of `act`.
            state: what `predict` returned a step before; None at the start, and always for an agent without memory.
            episode_start: whether an episode begins, one truth or B: what was remembered is dropped there.
            deterministic: the mode rather than a sample.
            mask: as of `act`.
            reward: of the step before, a number or one for each of a batch, for an agent that sees it.

        Raises `UserError` as `act` does, if a reward is missing, and for a state, truths or rewards of another batch.
        """
        rows, many = self.observer.rows(observation, mask)
        recall = self._recall(len(rows), state, episode_start, reward)
        noise = None if deterministic else self.agent.policy.distribution.noise(len(rows), self.generator)
        device = next(self.agent.parameters()).device
        drawn = None if noise is None else noise.to(device)
        acted, remembered = self.agent.acting()(recall.seen(rows).to(device), drawn)
        recall.remember(remembered, acted.cpu(), torch.zeros(len(rows)))
        actions = self.interface.decode(self.agent.sent(acted).cpu())
        return actions if many else actions[0], recall.state()

    def _recall(self, rows: int, state: Any, episode_start: Any, reward: Any) -> Recall | NoRecall:
        """Return what is remembered before a step."""
        recall = self.agent.recall(rows)
        if isinstance(recall, Recall) and state is not None:
            check_state(state, recall)
            recall.restore(state)
            if PREVIOUS_REWARD in recall.carried:
                if reward is None:
                    raise UserError(
                        "this agent sees the reward of the step before: predict(observation, state, reward=…)"
                    )
                recall.carried[PREVIOUS_REWARD][:, 0] = one_for_each(reward, rows, "the reward", torch.float32)
            if episode_start is not None:
                recall.forget(one_for_each(episode_start, rows, "episode_start", torch.bool))
        return recall


def check_state(state: Any, recall: Recall) -> None:
    """Raise `UserError` unless a state is what an agent remembers of as many observations."""
    sizes = {name: tuple(part.shape) for name, part in recall.carried.items()}
    given = {name: tuple(getattr(part, "shape", ())) for name, part in state.items()} if isinstance(state, dict) else {}
    if given != sizes:
        raise UserError(f"state must be what predict returned a step before, of as many: {sizes}, got {given or state}")


def load(path: str | Path, *, seed: int = 0) -> TrainedAgent:
    """Return the agent of a run directory (as its newest checkpoint has it) or of a checkpoint, on the CPU.

    `seed` is that of sampled actions. Raises `UserError` if there is none, or if it is of a version that did not save
    its spaces.

    >>> import trpo
    >>> run = trpo.train("CartPole-v1", total_steps=2_048, **{"run.evaluation_episodes": 0})
    >>> agent = trpo.load(run.directory)
    >>> int(agent.act([0.0, 0.0, 0.1, 0.0])) in (0, 1)
    True
    """
    file, state = checkpoint.read(Path(path))
    if "spaces" not in state:
        raise UserError(f"{file} is of an earlier version, which did not save the spaces: resume its run once")
    config: Config = nested(state["config"])
    observed, answered = (space_of(state["spaces"][name]) for name in ("observation", "action"))
    interface = make_interface(observed, answered, config.sees)
    agent = agent_for(config, interface)
    load_agent(agent.requires_grad_(False), state, str(file))
    return TrainedAgent(agent, config, interface=interface, env_steps=state["env_steps"], seed=seed)
