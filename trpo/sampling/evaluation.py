"""Returns of an agent as it is, on environments and generators of its own."""

from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from trpo.config import EnvConfig
from trpo.models.agent import Agent
from trpo.models.observations import are_finite
from trpo.sampling.interface import make_interface
from trpo.sampling.making import make_env
from trpo.sampling.watching import make_recorded_env, make_shown_env
from trpo.system import seeds
from trpo.system.threads import single_thread

MOST_ENVIRONMENTS = 16  # stepped side by side
MOST_STEPS = 100_000  # per episode: some environments without a time limit never end


class Evaluation(NamedTuple):
    """Raw, undiscounted episode returns and lengths, in the order of the episodes."""

    returns: list[float]
    lengths: list[int]

    def figures(self) -> dict[str, float]:
        """Return the evaluation tags: mean and (population) standard deviation over episodes."""
        return {
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns)),
            "length_mean": float(np.mean(self.lengths)),
        }


def evaluate(
    agent: Agent,
    config: EnvConfig,
    *,
    episodes: range,
    seed: int,
    number: int = 0,
    stochastic: bool = False,
    video: Path | None = None,
    shown: bool = False,
) -> Evaluation:
    """Return the outcome of whole episodes of the agent's mode, or of independent samples if `stochastic`.

    Nothing of the training is touched: no statistics, no environment, no generator. Episode i of evaluation
    `number` starts from a seed of its own, whichever others run, and however many side by side. With `video`,
    episodes run one by one and are written there as MP4 files; with `shown`, one by one on the screen.
    """
    if video or shown:
        width, envs = 1, [make_recorded_env(config, video) if video else make_shown_env(config)]
    else:
        width = min(len(episodes), MOST_ENVIRONMENTS)
        envs = [make_env(config) for _ in range(width)]
    device = next(agent.parameters()).device
    generator = seeds.generator(seed, seeds.Role.EVALUATION_ACTIONS, number, device=device) if stochastic else None
    starts = [seeds.integer(seed, seeds.Role.EVALUATION_ENVIRONMENTS, number, i) for i in episodes]
    outcomes: list[tuple[float, int]] = []
    try:
        for first in range(0, len(starts), max(width, 1)):
            outcomes += run_episodes(agent, envs, starts[first : first + width], generator)
    finally:
        for env in envs:
            env.close()
    return Evaluation([total for total, _ in outcomes], [length for _, length in outcomes])


@single_thread()
def run_episodes(
    agent: Agent, envs: list[gymnasium.Env], starts: list[int], generator: torch.Generator | None
) -> list[tuple[float, int]]:
    """Return (return, length) of one episode in each of the first environments, one per seed in `starts`."""
    interface = make_interface(envs[0].observation_space, envs[0].action_space)
    device = next(agent.parameters()).device
    observations = [env.reset(seed=start)[0] for env, start in zip(envs, starts, strict=False)]
    returns, lengths = np.zeros(len(starts)), np.zeros(len(starts), dtype=int)
    active, act = list(range(len(starts))), agent.actor()
    while active:
        seen = interface.encode([observations[i] for i in active]).to(device)
        if not (are_finite(seen) and np.isfinite(returns).all()):
            raise FloatingPointError(f"an evaluation environment gave NaN or infinity at step {lengths[active[0]]}")
        noise = None if generator is None else agent.policy.distribution.noise(len(active), generator)
        actions = interface.decode(act(seen, noise).cpu())
        going = []
        for i, action in zip(active, actions, strict=True):
            observations[i], reward, terminated, truncated, _ = envs[i].step(action)
            returns[i] += float(reward)
            lengths[i] += 1
            if not (terminated or truncated or lengths[i] >= MOST_STEPS):
                going.append(i)
        active = going
    if not np.isfinite(returns).all():
        raise FloatingPointError(f"an evaluation environment gave rewards that add up to {returns}")
    return list(zip(returns.tolist(), lengths.tolist(), strict=True))
