"""EnvPool's environments, with the spaces, the time limits and the ends of Gymnasium's."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv

from trpo.config import EnvConfig, UserError, first_line

MOST_STEPS = 2**31 - 2  # of an environment without a time limit: EnvPool counts in 32 bits
FREE = -1  # EnvPool's word for threads that may run anywhere
SEED_SHIFT = 2**31  # our seeds are unsigned, EnvPool's signed
PAID_BY_LIMIT = re.compile(r"(MiniGrid|BabyAI)-")  # ids of environments that pay 1 − 0.9 · steps / limit at their goal
SHOWING_LIMIT = re.compile(
    r"(Jumanji/)?Sokoban-|(MuJoCoPlayground/)?AlohaHandOver-"
)  # whose observations count with it


class Pool(VectorEnv):
    """`num_envs` environments of EnvPool that reset on the step after an end, seeded by being made anew.

    EnvPool calls an end in the very step of the time limit a truncation, though the environment may have terminated
    there. So EnvPool's own limit lies one step beyond, and the true one is kept here: such an end is both, as in
    Gymnasium. An environment cut by the true limit goes one step further before it resets; the two steps after
    such an end belong to no episode. Where the limit decides what is paid or seen, EnvPool's own is the true
    one; what is paid then tells that such an end is both.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  Gymnasium's own form

    def __init__(self, config: EnvConfig, env: gymnasium.Env) -> None:
        """Take the spaces and the limit of a single one, `env`. Raises `UserError` if EnvPool's spaces differ."""
        self.id, self.num_envs, self.spec = config.id, config.num_envs, env.spec
        self.single_observation_space, self.single_action_space = env.observation_space, env.action_space
        self.limit = (env.spec and env.spec.max_episode_steps) or MOST_STEPS
        self.paid_by_limit = bool(PAID_BY_LIMIT.match(config.id))
        beyond = not (self.paid_by_limit or SHOWING_LIMIT.match(config.id))
        self.arguments = {**config.arguments, "max_episode_steps": self.limit + beyond}
        self.pin = config.pin
        self.pool: Any = None
        observation_space, action_space = spaces_of(specify(self.id, self.arguments))
        check_space("observation", env.observation_space, observation_space)
        check_space("action", env.action_space, action_space)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:  # noqa: ARG002
        """Return first observations and the info of fresh environments, one for each 32-bit seed of the list `seed`."""
        self.close_extras()
        self.pool = make_pool(self.id, seed, self.arguments, pin=self.pin)
        with no_warnings():
            observations, info = self.pool.reset()
        return observations, info

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Return what `VectorEnv.step` returns, in arrays of its own; the info is EnvPool's, its values (B, …).

        Atari's info has a `reward` and a `terminated` too: the game's own, before clipping, lives or the limit.
        """
        observations, rewards, terminated, _, info = self.pool.step(actions)
        truncated = info["elapsed_step"] >= self.limit
        if self.paid_by_limit:
            terminated = terminated | (truncated & (rewards > 0))
        return observations, rewards, terminated, truncated, info

    def close_extras(self, **_: Any) -> None:
        """Release the environments and EnvPool's threads."""
        if self.pool is not None:
            self.pool.close()
        self.pool = None


def import_envpool() -> Any:
    """Return the library, which takes a second to import. Raises `UserError` if it is not installed."""
    try:
        import envpool
    except ImportError as error:
        raise UserError(
            f"env.backend=envpool needs EnvPool: pip install 'trpo[envpool]' ({first_line(error)})"
        ) from error
    return envpool


def make_pool(id: str, seeds: Sequence[int], arguments: dict[str, Any], *, pin: bool) -> Any:
    """Return environments of EnvPool, stepped by as many threads as this process has cores."""
    own = cores()
    threads = min(len(seeds), len(own))
    try:
        return import_envpool().make(
            id,
            env_type="gymnasium",
            num_envs=len(seeds),
            num_threads=threads,
            thread_affinity_offset=own[0] if pin and can_pin(threads, own) else FREE,
            seed=[seed - SEED_SHIFT for seed in seeds],
            **arguments,
        )
    except (RuntimeError, TypeError) as error:
        raise refusal(id, error) from error


def cores() -> list[int]:
    """Return the cores that this process may use; EnvPool would count those of the machine."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def can_pin(threads: int, own: list[int]) -> bool:
    """Return whether EnvPool's threads can have a core each: it counts on from the first one.

    They wait for each other at every step. Left alone, two of them share a core now and then while another one rests:
    on two cores a rollout then takes a third longer. With fewer threads than cores there is room to move out of the way
    of other runs, and they are left alone.
    """
    return hasattr(os, "sched_setaffinity") and threads == len(own) == own[-1] - own[0] + 1


def specify(id: str, arguments: dict[str, Any]) -> Any:
    """Return EnvPool's description of an environment. Raises `UserError` if it cannot make that for one agent."""
    if not has(id):
        raise UserError(f"env.backend=envpool: EnvPool does not know {id}; env.backend=sync can step it")
    try:
        spec = import_envpool().make_spec(id, **arguments)
    except (ImportError, RuntimeError, TypeError) as error:
        raise refusal(id, error) from error
    if spec.config.max_num_players > 1:
        raise UserError(
            f"env.backend=envpool: {id} is played by {spec.config.max_num_players}, and here one agent plays"
        )
    return spec


def has(id: str) -> bool:
    """Return whether EnvPool knows an id."""
    return id in import_envpool().list_all_envs()


def spaces_of(spec: Any) -> tuple[spaces.Space, spaces.Space]:
    """Return the observation and the action space of one environment of EnvPool."""
    with no_warnings():
        return spec.gymnasium_observation_space, spec.gymnasium_action_space


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence Gymnasium where EnvPool makes spaces: it warns that bounds in float64 lose precision."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*precision lowered by casting")
        yield


def check_space(name: str, expected: spaces.Space, found: spaces.Space) -> None:
    """Raise `UserError` unless EnvPool's space is that of Gymnasium's environment, but for the type of its numbers.

    Bounds of observations may differ: those of EnvPool's Box2D environments are placeholders, and nothing uses them.
    """
    if not alike(expected, found, bounds=name != "observation"):
        raise UserError(f"env.backend=envpool: the {name} space of EnvPool's environment is {found}, not {expected}")


def alike(expected: spaces.Space, found: spaces.Space, *, bounds: bool) -> bool:
    """Return whether two spaces differ in nothing but the type of their numbers, and perhaps their bounds."""
    if isinstance(expected, spaces.Dict) and isinstance(found, spaces.Dict):
        return expected.keys() == found.keys() and all(alike(expected[k], found[k], bounds=bounds) for k in expected)
    if isinstance(expected, spaces.Box) and isinstance(found, spaces.Box):
        pairs = ((expected.low, found.low), (expected.high, found.high)) if bounds else ()
        return expected.shape == found.shape and all(np.allclose(*pair) for pair in pairs)
    if isinstance(expected, spaces.Discrete) and isinstance(found, spaces.Discrete):
        return (expected.n, expected.start) == (found.n, found.start)
    return bool(expected == found)


def refusal(id: str, error: Exception) -> UserError:
    """Return EnvPool's refusal of arguments as a person can read it."""
    said = first_line(error)
    if "incompatible constructor arguments" in said:
        said = "an argument has the wrong type"
    return UserError(f"env.backend=envpool: EnvPool cannot make {id}: {said.removeprefix('Config.__new__() ')}")
