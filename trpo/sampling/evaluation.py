"""Returns of an agent as it is, on environments and generators of its own."""

from itertools import chain
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np
import torch

from trpo.batch import info_figures
from trpo.config import EnvConfig
from trpo.models.agent import Agent
from trpo.models.observations import are_finite
from trpo.sampling.checks import NOTHING_VALID
from trpo.sampling.encoding import Kept, everything
from trpo.sampling.infos import Infos, told
from trpo.sampling.interface import Interface, make_interface
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
    infos: list[dict[str, float]] = []  # noqa: RUF012  what was told at the ends of those that told anything

    def figures(self) -> dict[str, float]:
        """Return the evaluation tags: mean and (population) standard deviation over so many episodes; what was told."""
        told = {key: [info[key] for info in self.infos if key in info] for info in self.infos for key in info}
        return info_figures({key: (sum(values), len(values)) for key, values in told.items()}) | {
            "return_mean": float(np.mean(self.returns)),
            "return_std": float(np.std(self.returns)),
            "length_mean": float(np.mean(self.lengths)),
            "episodes": len(self.returns),  # what is asked for may change when a run goes on
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
    info_keys: tuple[str, ...] = (),
    shown: bool = False,
    kept: Kept = everything,
) -> Evaluation:
    """Return the outcome of whole episodes of the agent's mode, or of independent samples if `stochastic`.

    Nothing of the training is touched: no statistics, no environment, no generator. Episode i of evaluation
    `number` starts from a seed of its own, whichever others run, and however many side by side. With `video`,
    episodes run one by one and are written there as MP4 files; with `shown`, one by one on the screen. Of observations
    with several parts those are read that are `kept`, by name.
    """
    if not episodes:  # the share of a rank where there are more ranks than episodes
        return Evaluation([], [])
    if video or shown:
        width, envs = 1, [make_recorded_env(config, video) if video else make_shown_env(config)]
    else:
        width = min(len(episodes), MOST_ENVIRONMENTS)
        envs = [make_env(config) for _ in range(width)]
    device = next(agent.parameters()).device
    generator = seeds.generator(seed, seeds.Role.EVALUATION_ACTIONS, number, device=device) if stochastic else None
    starts = [seeds.integer(seed, seeds.Role.EVALUATION_ENVIRONMENTS, number, i) for i in episodes]
    groups = [starts[first : first + width] for first in range(0, len(starts), width)]
    keys = Infos(info_keys).keys
    try:
        interface = make_interface(envs[0].observation_space, envs[0].action_space, kept)
        outcomes = [run_episodes(agent, envs, interface, group, generator, keys) for group in groups]
    finally:
        for env in envs:
            env.close()
    return united(outcomes)


def united(parts: list[Evaluation]) -> Evaluation:
    """Return one evaluation of the episodes of several, in their order."""
    returns, lengths, infos = zip(*parts, strict=True)
    return Evaluation(list(chain(*returns)), list(chain(*lengths)), list(chain(*infos)))


@single_thread()
def run_episodes(
    agent: Agent,
    envs: list[gymnasium.Env],
    interface: Interface,
    starts: list[int],
    generator: torch.Generator | None,
    info_keys: tuple[str, ...] = (),
) -> Evaluation:
    """Return the outcome of one episode in each of the first environments, one per seed in `starts`."""
    device = next(agent.parameters()).device
    observations = [env.reset(seed=start)[0] for env, start in zip(envs, starts, strict=False)]
    returns, lengths = np.zeros(len(starts)), np.zeros(len(starts), dtype=int)
    infos: list[dict[str, float]] = [{} for _ in starts]
    active, act, recall = list(range(len(starts))), agent.acting(), agent.recall(len(starts))
    while active:
        seen = interface.encode([observations[i] for i in active])
        step = lengths[active[0]]
        if not (are_finite(seen) and np.isfinite(returns).all()):
            raise FloatingPointError(f"an evaluation environment gave NaN or infinity at step {step}")
        if interface.masked and interface.forbidding(seen).any():
            raise RuntimeError(f"an evaluation environment allows no action at step {step}: {NOTHING_VALID}")
        noise = None if generator is None else agent.policy.distribution.noise(len(active), generator)
        acted, state = act(recall.seen(seen, active).to(device), noise)
        actions = interface.decode(agent.sent(acted).cpu())
        rewards = torch.zeros(len(active))
        going = []
        for row, (i, action) in enumerate(zip(active, actions, strict=True)):
            observations[i], reward, terminated, truncated, info = envs[i].step(action)
            returns[i] += float(reward)
            rewards[row] = float(reward)
            lengths[i] += 1
            if not (terminated or truncated or lengths[i] >= MOST_STEPS):
                going.append(i)
            else:
                infos[i] = told(info, info_keys)
        recall.remember(state, acted, rewards, active)
        active = going
    if not np.isfinite(returns).all():
        raise FloatingPointError(f"an evaluation environment gave rewards that add up to {returns}")
    return Evaluation(returns.tolist(), lengths.tolist(), [info for info in infos if info])
