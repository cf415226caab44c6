"""The trust-region step in a loop of your own: a contextual bandit, no environment, no trainer, no configuration files.

A context s in [−1, 1] asks for the action a = 2s; the reward is −(a − 2s)². Run it: python scripts/custom_loop.py
"""

import torch

from trpo import Batch, GaussianPolicy, TrustRegionConfig, trust_region_step

SAMPLES = 1_000
ITERATIONS = 20


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
        step = trust_region_step(policy, batch, config)
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
