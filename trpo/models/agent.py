"""The agent: everything that evaluation needs and a checkpoint saves."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trpo.config import Config, CriticConfig, PolicyConfig, UserError
from trpo.models.bounds import BOUNDS, Clip
from trpo.models.distributions import DiagonalGaussian, Distribution
from trpo.models.encoders import Encoder, as_asked, make_encoder
from trpo.models.gaussian_policies import GAUSSIANS
from trpo.models.memory import Memory
from trpo.models.networks import Actor, Critic, LogitPolicy, Policy
from trpo.models.normalizer import LeafNormalizers, Normalizer, ObservationNormalizer, RewardScale, make_normalizer
from trpo.models.observations import CRITIC_STATE, POLICY_STATE, Kind, Observations, Spec, named
from trpo.models.own import make_own_critic, make_own_policy
from trpo.models.recall import NOTHING, NoRecall, Recall, Remembered, remembered
from trpo.system import seeds

Acting = Callable[[Observations, Tensor | None], tuple[Tensor, Tensor | None]]


class Agent(nn.Module):
    """A policy, a critic and their running statistics, as one module with one `state_dict`.

    >>> import torch
    >>> import trpo
    >>> agent = trpo.train("CartPole-v1", total_steps=2_048, **{"run.evaluation_episodes": 0}).agent.agent
    >>> act = agent.actor()  # raw observations (B, O) and noise, or None for the mode, to actions (B, A)
    >>> act(torch.zeros(3, 4), None).shape, agent.critic(agent.normalize(torch.zeros(3, 4))).shape
    (torch.Size([3, 1]), torch.Size([3]))
    """

    def __init__(
        self,
        policy: Policy,
        critic: Critic,
        normalizer: Normalizer | None,
        reward_scale: RewardScale | None,
        memory: Remembered | None = None,
        bounds: Clip | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.critic = critic
        self.normalizer = normalizer
        self.reward_scale = reward_scale
        self.memory = memory  # what it carries from step to step, if anything
        self.bounds = bounds  # of continuous actions, in the policy's units, and how they come inside

    def normalize(self, observations: Observations) -> Observations:
        """Return raw observations (N, …) as the networks see them."""
        return observations if self.normalizer is None else self.normalizer(observations)

    def sent(self, actions: Tensor) -> Tensor:
        """Return drawn actions (B, A) as they go to the environment's decoder."""
        return actions if self.bounds is None else self.bounds.sent(actions)

    @property
    def has_statistics(self) -> bool:
        """Whether observations are normalised by statistics that move."""
        return any(isinstance(module, ObservationNormalizer) for module in self.modules())

    @property
    def reward_std(self) -> float:
        """What rewards are divided by; 1 if they are not scaled."""
        return 1.0 if self.reward_scale is None else float(self.reward_scale.moments.std())

    def actor(self) -> Actor:
        """Return the map of raw observations (B, …) to actions (B, A): sampled with noise, or the mode without.

        It is that of the agent as it is now, valid until a parameter changes.
        """
        policy = self.policy.actor()
        normalize = self.normalize if self.normalizer is None else self.normalizer.snapshot()
        return lambda observations, noise: policy(normalize(observations), noise)

    def acting(self) -> Acting:
        """Return `actor`, whose map gives besides the actions the policy's state after them (B, H*), or None."""
        memory = getattr(self.policy, "encoder", None)
        if not isinstance(memory, Memory):
            act = self.actor()
            return lambda observations, noise: (act(observations, noise), None)
        states: list[Tensor] = []

        def encode(observations: Observations) -> Tensor:
            features, state = memory.advance(observations)
            states[:] = [state]
            return features

        policy, normalize = (
            self.policy.actor(encode),
            self.normalize if self.normalizer is None else self.normalizer.snapshot(),
        )
        return lambda observations, noise: (policy(normalize(observations), noise), states[0])

    def recall(self, rows: int) -> Recall | NoRecall:
        """Return what this agent carries in so many environments: nothing yet."""
        return NOTHING if self.memory is None else Recall(self.memory, rows)


def make_agent(config: Config, observations: Spec, distribution: Distribution, limits: Tensor | None = None) -> Agent:
    """Return a fresh agent for these observations and actions, its weights drawn from the configured seed.

    `limits` are those of continuous actions (2, A), in the policy's units.

    Raises `UserError` where the configuration names an observation that is not there.
    """
    generator = seeds.generator(config.seed, seeds.Role.NETWORKS)
    bounds = None if limits is None else BOUNDS[config.policy.bounds](limits)
    distribution = distribution if bounds is None else bounds.distribution()
    observations, memory = with_carried(observations, config, distribution)
    agent = Agent(
        critic=make_critic(config.critic, observations, generator),
        policy=make_policy(config.policy, observations, distribution, generator),
        normalizer=make_normalizer(observations) if config.normalize.observations else None,
        reward_scale=RewardScale() if config.normalize.rewards else None,
        memory=memory,
        bounds=bounds,
    )
    if isinstance(agent.normalizer, LeafNormalizers):
        for module in agent.modules():
            if isinstance(module, Encoder):
                module.rescale(agent.normalizer.shared())
    return agent


def with_carried(observations: Spec, config: Config, distribution: Distribution) -> tuple[Spec, Remembered | None]:
    """Return the leaves that any network sees, those that memory adds with them, and what is carried.

    Raises `UserError` where the environment has a part of the same name.
    """
    asked, memory = as_asked(observations, config), remembered(config, distribution)
    if memory is None:
        return asked, None
    leaves, added = named(asked), memory.leaves()
    if both := ", ".join(sorted(leaves.keys() & added.keys())):
        raise UserError(f"the observation has a part named {both}, which policy.memory keeps there: rename it")
    return {**leaves, **added}, memory


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


def make_critic(config: CriticConfig, observations: Spec, generator: torch.Generator) -> Critic:
    """Return the value function, which may see other parts of an observation than the policy does."""
    if config.network:
        own: Critic = make_own_critic(config.network, observations, config.network_kwargs, generator)
        return own
    encoder = with_memory(config, CRITIC_STATE, observations, generator)
    return Critic(
        width(encoder, observations),
        hidden_sizes=config.hidden_sizes,
        activation=config.activation,
        generator=generator,
        encoder=encoder,
    )


def make_policy(
    config: PolicyConfig, observations: Spec, distribution: Distribution, generator: torch.Generator
) -> Policy:
    """Return the policy that goes with a distribution. Raises `UserError` for what only another one has."""
    if not isinstance(distribution, DiagonalGaussian):
        check_discrete(config)
    if config.network:
        return make_own_policy(config.network, observations, distribution, config.network_kwargs, generator)
    encoder = with_memory(config, POLICY_STATE, observations, generator)
    network: dict[str, Any] = {
        "hidden_sizes": config.hidden_sizes,
        "activation": config.activation,
        "generator": generator,
        "encoder": encoder,
    }
    if isinstance(distribution, DiagonalGaussian):
        return GAUSSIANS[config.std](
            width(encoder, observations),
            distribution.action_size,
            distribution=distribution,
            initial_log_std=config.initial_log_std,
            min_log_std=config.min_log_std,
            **network,
        )
    masked = any(leaf.kind is Kind.MASK for leaf in named(observations).values())
    return LogitPolicy(width(encoder, observations), distribution, masked=masked, **network)


def check_discrete(config: PolicyConfig) -> None:
    """Raise `UserError` for a setting that only continuous actions have."""
    for name, off in {"noise_correlation": 0, "bounds": "clip", "std": "shared", "final_std_scale": 1}.items():
        if getattr(config, name) != off:
            raise UserError(f"policy.{name} must be {off} here: only continuous actions have Gaussian noise")


def with_memory(
    config: PolicyConfig | CriticConfig, leaf: str, observations: Spec, generator: torch.Generator
) -> Encoder | Memory | None:
    """Return what encodes observations, and remembers them if that is asked for, or None for one vector."""
    encoder = make_encoder(observations, config.observations, generator=generator)
    if config.memory == "none" or encoder is None:
        return encoder
    size, kind = config.memory_size, config.memory
    return Memory(encoder, encoder.size, size=size, kind=kind, leaf=leaf, generator=generator)


def width(encoder: Encoder | Memory | None, observations: Spec) -> int:
    """Return how many numbers a perceptron takes: what an encoder gives, or those of the one vector without."""
    return encoder.size if encoder else sum(leaf.size for leaf in named(observations).values())
