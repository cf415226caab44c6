"""Environments from their configuration; every mistake in it is one line."""

import contextlib
import functools
import logging
import os
import re
import sys
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
from trpo.sampling.interface import Interface, make_interface
from trpo.sampling.masks import MASKABLE, with_mask
from trpo.sampling.missing import import_package, why
from trpo.sampling.pool import Pool, has
from trpo.sampling.pool_env import PoolEnv, only_in_envpool
from trpo.sampling.wrapping import check_backend, wrapped

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


def look_here_too() -> None:
    """Let `package:Name-v0` find a module in the working directory, as `python -m trpo` does, in any process.

    At the end of the path: there a file that is called like somebody else's module does not take its place. Who asked
    Python for safe paths (`PYTHONSAFEPATH`) keeps them.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory has been removed: nothing is found in it
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


@functools.cache
def log_once(message: str) -> None:
    """Log a warning of MuJoCo, which would else print it for every model and leave a file where the person is."""
    log.info("MuJoCo: %s", message)


class WithoutInfo(gymnasium.Wrapper):
    """Drops what nobody reads: merging the infos of all environments takes a tenth of a MuJoCo step."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what `Env.step` returns, with an empty info."""
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}


def make_vector_env(config: EnvConfig, *, worker: Callable[[EnvConfig], gymnasium.Env]) -> VectorEnv:
    """Return `num_envs` environments on the configured backend; `worker` makes those with a process of their own."""
    log_once.cache_clear()  # once per run
    if config.backend == "vector":
        return make_vector_entry_point(config)
    if config.backend == "envpool":
        with contextlib.closing(make_env(config)) as env:
            return Pool(config, env)
    if config.backend == "async":
        workers = [lambda: WithoutInfo(worker(config))] * config.num_envs
        return AsyncVectorEnv(workers, autoreset_mode=AutoresetMode.DISABLED)
    functions = [lambda: WithoutInfo(make_env(config))] * config.num_envs
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
