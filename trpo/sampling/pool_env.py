"""A single environment of EnvPool, for ids that Gymnasium does not know."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from trpo.config import EnvConfig, UserError
from trpo.sampling.pool import MOST_STEPS, Pool, has, no_warnings, spaces_of, specify

SEEDS = 2**32  # how many a pool can tell apart


class PoolEnv(gymnasium.Env):
    """One environment of EnvPool behind Gymnasium's interface, with the ends and the transitions of a `Pool`.

    Its spaces and its time limit are EnvPool's own. EnvPool takes a seed only when it makes an environment, so every
    reset makes this one anew: from the seed that is given, or else from one that is drawn.
    """

    def __init__(self, config: EnvConfig, render_mode: str | None = None) -> None:
        """Take id and arguments from `config`. Raises `UserError` if EnvPool cannot make it, or to watch it."""
        if render_mode is not None:
            raise UserError(
                f"{config.id} comes from EnvPool alone, whose environments cannot be watched: no --video, no --render"
            )
        described = specify(config.id, config.arguments)
        limit = described.config.max_episode_steps
        self.spec = EnvSpec(config.id, max_episode_steps=limit if limit <= MOST_STEPS else None)
        observation_space, self.action_space = spaces_of(described)
        self.observation_space = without_placeholders(observation_space)
        self.pool = Pool(dataclasses.replace(config, num_envs=1), self)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Return the first observation and the info of a fresh environment."""
        super().reset(seed=seed, options=options)
        start = int(self.np_random.integers(SEEDS)) if seed is None else seed % SEEDS
        observations, info = self.pool.reset(seed=[start])
        return first(observations), own_info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns."""
        observations, rewards, terminated, truncated, info = self.pool.step(np.asarray(action)[None])
        return first(observations), float(rewards[0]), bool(terminated[0]), bool(truncated[0]), own_info(info)

    def close(self) -> None:
        """Release the environment and EnvPool's thread."""
        self.pool.close()


def only_in_envpool(id: str) -> bool:
    """Return whether EnvPool has an environment that Gymnasium has not. Raises `UserError` if EnvPool is not installed.

    What others have registered does not count: a run must not depend on what else is installed and imported. Nor do
    Gymnasium's versions of old, whose entry point is a function that refuses.
    """
    spec = gymnasium.registry.get(id)
    return not (spec and str(spec.entry_point).startswith("gymnasium.")) and has(id)


def first(batch: Any) -> Any:
    """Return the first row of an array (1, …), or of those in a tree."""
    return {name: first(part) for name, part in batch.items()} if isinstance(batch, dict) else batch[0, ...]


def own_info(info: dict[str, Any]) -> dict[str, Any]:
    """Return the info of the one environment, numbers as scalars, without what tells it from others of a pool."""
    return {name: values[0] for name, values in info.items() if name != "env_id" and not isinstance(values, dict)}


def without_placeholders(space: spaces.Space) -> spaces.Space:
    """Return a space without bounds where EnvPool's are the smallest and the largest of positive floating numbers.

    That is what dm_control's environments have, whose numbers are negative as often as not.
    """
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: without_placeholders(part) for name, part in space.items()})
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return space
    numbers = np.finfo(space.dtype)
    low = np.where(space.low == numbers.tiny, -np.inf, space.low)
    high = np.where(space.high == numbers.max, np.inf, space.high)
    with no_warnings():
        return spaces.Box(low, high, space.shape, space.dtype)
