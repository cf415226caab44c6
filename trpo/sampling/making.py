"""Environments from their configuration; every mistake in it is one line."""

import contextlib
import functools
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import gymnasium
import mujoco
from gymnasium.error import UnregisteredEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from trpo.config import EnvConfig, UserError, first_line
from trpo.models.observations import MASK
from trpo.sampling.infos import told
from trpo.sampling.interface import Interface, make_interface
from trpo.sampling.masks import MASKABLE, SOURCES, with_mask
from trpo.sampling.missing import import_package, why
from trpo.sampling.pool import Pool, has
from trpo.sampling.pool_env import PoolEnv, only_in_envpool
from trpo.sampling.wrapping import check_backend, wrapped
from trpo.system.imports import look_here_too

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)


def make_env(config: EnvConfig, **kwargs: Any) -> gymnasium.Env:
    """Return one environment in its wrappers, the mask of its valid actions in its observations, if it has one.

    Raises `UserError` if the id, its arguments or a wrapper are wrong, in one line.
    """
    if not config.id:
        raise UserError(
            "no environment: choose a task (task=cartpole) or an environment (env.id=CartPole-v1); "
            "--help lists the tasks"
        )
    check_backend(config)
    mujoco.set_mju_user_warning(log_once)
    look_here_too()
    if config.backend == "envpool" and only_in_envpool(config.id):
        return PoolEnv(config, **kwargs)
    env = wrapped(make_with_gymnasium(config, **kwargs), config.wrappers)
    key = repr((config.id, config.arguments, config.wrappers))
    return with_mask(env, key, lambda: wrapped(make_with_gymnasium(config), config.wrappers))


def make_with_gymnasium(config: EnvConfig, **kwargs: Any) -> gymnasium.Env:
    """Return one environment as Gymnasium makes it. Raises `UserError` if it cannot."""
    try:
        import_package(config.id)
        return gymnasium.make(config.id, disable_env_checker=True, **config.arguments, **kwargs)
    except Exception as error:
        said = why(config.id, error) + in_envpool(config, error)
        raise UserError(f"env.id={config.id} cannot be made: {said}") from error


@contextlib.contextmanager
def registered(function: Callable[..., gymnasium.Env]) -> Iterator[str]:
    """Let Gymnasium make by an id, which is given, what a function makes, until the end of the block."""
    name = re.sub(r"\W+", "-", getattr(function, "__name__", type(function).__name__)).strip("-") or "function"
    id = f"function/{name}-v0"
    gymnasium.register(id, entry_point=function)
    try:
        yield id
    finally:
        del gymnasium.registry[id]


def in_envpool(config: EnvConfig, error: Exception) -> str:
    """Return what to say about EnvPool in the refusal of an id that Gymnasium does not know."""
    if not isinstance(error, UnregisteredEnv):
        return ""
    if config.backend == "envpool":
        return "; EnvPool does not know it either"
    return "; EnvPool has it: env.backend=envpool" if find_spec("envpool") and has(config.id) else ""


@functools.cache
def log_once(message: str) -> None:
    """Log a warning of MuJoCo, which would else print it for every model and leave a file where the person is."""
    log.info("MuJoCo: %s", message)


class WithLastInfo(gymnasium.Wrapper):
    """Drops what nobody reads: merging the infos of all environments takes a tenth of a MuJoCo step.

    Args:
        env: is stepped.
        keys: of the figures that remain of the last info of an episode.
    """

    def __init__(self, env: gymnasium.Env, keys: tuple[str, ...]) -> None:
        super().__init__(env)
        self.keys = keys

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns, with what is left of the info."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        left: dict[str, Any] = dict(told(info, self.keys)) if terminated or truncated else {}
        return observation, reward, terminated, truncated, left


def make_vector_env(
    config: EnvConfig, keys: tuple[str, ...] = (), *, worker: Callable[[EnvConfig], gymnasium.Env]
) -> VectorEnv:
    """Return `num_envs` environments on the configured backend, with `keys` in their last infos.

    `worker` makes those with a process of their own.
    """
    log_once.cache_clear()  # once per run
    if config.backend == "vector":
        return make_vector_entry_point(config)
    if config.backend == "envpool":
        with contextlib.closing(make_env(config)) as env:
            return Pool(config, env)
    if config.backend == "async":
        workers = [lambda: WithLastInfo(worker(config), keys)] * config.num_envs
        return AsyncVectorEnv(workers, autoreset_mode=AutoresetMode.DISABLED)
    functions = [lambda: WithLastInfo(make_env(config), keys)] * config.num_envs
    return SyncVectorEnv(functions, copy=False, autoreset_mode=AutoresetMode.DISABLED)


def make_vector_entry_point(config: EnvConfig) -> VectorEnv:
    """Return the environment's own vector implementation, which must reset on the step after an end."""
    try:
        import_package(config.id)
        envs = gymnasium.make_vec(
            config.id, num_envs=config.num_envs, vectorization_mode="vector_entry_point", **config.arguments
        )
    except Exception as error:
        raise UserError(f"env.backend=vector: {config.id} cannot be made so: {first_line(error)}") from error
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.NEXT_STEP:
        raise UserError(f"env.backend=vector: {config.id} autoresets as {mode}, only NEXT_STEP is supported")
    return envs


def check_environment(config: EnvConfig) -> Interface:
    """Return the interface of the configured environment, made once and closed, or raise `UserError`."""
    SOURCES.clear()  # an id may name another environment than it did in the last run of this process
    with warnings_if_made(), contextlib.closing(make_env(config)) as env:
        if config.backend == "vector":
            with contextlib.closing(make_vector_entry_point(config)) as envs:
                check_unmasked(config.id, envs)
                return make_interface(envs.single_observation_space, envs.single_action_space)
        if config.backend == "envpool":
            with contextlib.closing(Pool(config, env)) as pool:
                pool.reset(seed=[0] * config.num_envs)
        return make_interface(env.observation_space, env.action_space)


def check_unmasked(id: str, envs: VectorEnv) -> None:
    """Raise `UserError` if a vector entry point says masks in its info, where nobody would see them."""
    if isinstance(envs.single_action_space, MASKABLE) and MASK in envs.reset(seed=0)[1]:
        raise UserError(f"env.backend=vector: {id} says {MASK} in its info, which sync and async environments read")


@contextlib.contextmanager
def warnings_if_made() -> Iterator[None]:
    """Hold back warnings until everything could be made: that an id is out of date, its refusal says in one line."""
    with warnings.catch_warnings(record=True) as held:
        yield
    for warning in held:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
