"""The configuration: its sections and what goes with what between them. Standard library only."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from trpo.fields import Section as Section  # with these names config speaks of keys to everybody
from trpo.fields import UserError as UserError
from trpo.fields import dotted as dotted
from trpo.fields import first_line as first_line
from trpo.fields import key
from trpo.sections import ActionValuesConfig as ActionValuesConfig
from trpo.sections import AdvantageConfig as AdvantageConfig
from trpo.sections import CriticConfig as CriticConfig
from trpo.sections import EnvConfig as EnvConfig
from trpo.sections import NormalizeConfig as NormalizeConfig
from trpo.sections import PolicyConfig as PolicyConfig
from trpo.sections import RecordConfig as RecordConfig
from trpo.sections import RunConfig as RunConfig
from trpo.sections import TrustRegionConfig as TrustRegionConfig


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """A whole run.

    >>> import trpo
    >>> config = trpo.Config(seed=3, trust_region=trpo.TrustRegionConfig(max_kl=0.02))
    >>> config.critic.epochs, config.run.total_steps
    (10, 1000000)
    """

    seed: int = key(0, "of networks, actions, environments and minibatches", at_least=0)
    device: str = key("auto", "auto, cpu, cuda or cuda:1; auto keeps small networks on the CPU")
    env: EnvConfig = dataclasses.field(default_factory=EnvConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    normalize: NormalizeConfig = dataclasses.field(default_factory=NormalizeConfig)
    advantage: AdvantageConfig = dataclasses.field(default_factory=AdvantageConfig)
    trust_region: TrustRegionConfig = dataclasses.field(default_factory=TrustRegionConfig)
    critic: CriticConfig = dataclasses.field(default_factory=CriticConfig)
    action_values: ActionValuesConfig = dataclasses.field(default_factory=ActionValuesConfig)
    record: RecordConfig = dataclasses.field(default_factory=RecordConfig)
    run: RunConfig = dataclasses.field(default_factory=RunConfig)

    def sees(self, name: str) -> bool:
        """Return whether any network sees a part of the observation: one that names none sees all."""
        return any(not names or name in names for names in (self.policy.observations, self.critic.observations))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy.noise_correlation and self.trust_region.surrogate == "pathwise":
            raise UserError(
                "policy.noise_correlation needs trust_region.surrogate=score: action values know nothing of the noise "
                "that goes on"
            )
        if self.policy.memory_inputs and {self.policy.memory, self.critic.memory} == {"none"}:
            raise UserError("policy.memory_inputs needs a memory to see them: policy.memory=gru, say")
        if self.policy.network and (self.policy.std, self.policy.final_std_scale) != ("shared", 1.0):
            raise UserError("a network of one's own has its own σ: leave policy.std and policy.final_std_scale out")
        if {self.policy.memory, self.critic.memory} != {"none"}:
            self._check_memory()

    def _check_memory(self) -> None:
        if self.trust_region.surrogate == "pathwise":
            raise UserError("policy.memory needs trust_region.surrogate=score: an action's value depends on the past")
        if self.policy.network or self.critic.network:  # of either part: both would see what a memory adds
            raise UserError("a network of one's own has no memory of ours: leave memory or network out")
