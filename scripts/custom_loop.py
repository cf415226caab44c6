"""The trust-region step in a loop of your own: a contextual bandit, no environment, no trainer, no configuration files.

A context s in [−1, 1] asks for the action a = 2s; the reward is −(a − 2s)². The first steps maximise the paper's
surrogate, which only knows how good the sampled actions were. The last ones maximise one of our own that knows the
reward as a function, and so learns from where the action should have gone. Run it: python scripts/custom_loop.py
"""

import torch
from torch import Tensor

from trpo import Batch, GaussianPolicy, Piece, TrustRegionConfig, trust_region_step

SAMPLES = 1_000
ITERATIONS = 20
OWN = 6  # of them with the surrogate below


class KnownReward:
    """E[r(s, a)] with a = μ + σε and ε fixed, differentiated through the action."""

    scale = 1.0  # the reward is in its own unit

    def __init__(self, batch: Batch, generator: torch.Generator) -> None:
        noise = torch.randn(batch.actions.shape, generator=generator)
        self.columns = {"contexts": batch.observations, "noise": noise}

    def gain(self, parameters: Tensor, piece: Piece) -> Tensor:
        """Return the change of each sample's reward (n,)."""
        new, old = (self.reward(both, piece.columns) for both in (parameters, piece.old_parameters))
        return (new - old).double()

    def reward(self, parameters: Tensor, columns: dict[str, Tensor]) -> Tensor:
        """Return the reward of the actions (n,) that these parameters give with the noise."""
        mean, log_std = parameters.chunk(2, dim=-1)
        actions = mean + log_std.exp() * columns["noise"]
        return -(actions - 2 * columns["contexts"]).square().squeeze(-1)


def main() -> None:
    """Print what every other step spent, what the Fisher approximation predicted, and the reward."""
    generator = torch.Generator().manual_seed(0)
    policy = GaussianPolicy(
        observation_size=1,
        action_size=1,
        hidden_sizes=(32,),
        activation="tanh",
        initial_log_std=0.0,
        min_log_std=-5.0,
        generator=generator,
    )
    config = TrustRegionConfig(max_kl=0.02)
    print("iteration   reward   KL spent   KL predicted   relative error   outcome")
    for iteration in range(1, ITERATIONS + 1):
        batch, reward = sample_batch(policy, generator)
        own = KnownReward(batch, generator) if iteration > ITERATIONS - OWN else None
        step = trust_region_step(policy, batch, config, surrogate=own)
        if iteration % 2 == 0:
            error = "–" if step.kl_error_relative is None else f"{step.kl_error_relative:+.2%}"
            print(
                f"{iteration:9} {reward:8.3f} {step.kl:10.5f} {step.kl_quadratic:14.5f} {error:>16}   "
                f"{step.outcome.value}"
            )


@torch.no_grad()
def sample_batch(policy: GaussianPolicy, generator: torch.Generator) -> tuple[Batch, float]:
    """Return one batch of contexts, actions and advantages under the policy, and its mean reward."""
    contexts = 2 * torch.rand(SAMPLES, 1, generator=generator) - 1
    parameters = policy(contexts)
    noise = policy.distribution.noise(len(parameters), generator)
    actions = policy.distribution.sample(parameters, noise)
    rewards = -(actions - 2 * contexts).square().squeeze(-1)
    batch = Batch(
        observations=contexts,
        actions=actions,
        old_parameters=parameters,
        advantages=(rewards - rewards.mean()) / rewards.std(),
        returns=rewards,
    )
    return batch, float(rewards.mean())


if __name__ == "__main__":
    main()
