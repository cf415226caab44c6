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
from gymnasium import spaces
from gymnasium.error import UnregisteredEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from trpo.config import EnvConfig, UserError, first_line
from trpo.models.observations import MASK
from trpo.sampling.conforming import Conforming
from trpo.sampling.infos import told
from trpo.sampling.interface import Interface, make_interface
from trpo.sampling.masks import MASKABLE, SOURCES, first_info, has_own_mask, with_mask
from trpo.sampling.missing import import_package, why
from trpo.sampling.pool import Pool, has
from trpo.sampling.pool_env import PoolEnv, only_in_envpool
from trpo.sampling.wrapping import check_backend, wrapped
from trpo.system.imports import look_here_too

FUNCTION = "function/"  # how the id begins under which a function that makes environments is registered

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
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(make_conforming(config, **kwargs)))
        masked = with_mask(env, config, lambda: make_conforming(config))
        stack.pop_all()
    return masked


def make_conforming(config: EnvConfig, **kwargs: Any) -> gymnasium.Env:
    """Return one environment in its wrappers, with the types of its spaces. Raises `UserError` if it has none."""
    env = make_with_gymnasium(config, **kwargs)
    check_spaces(env, config.id)
    env = wrapped(env, config.wrappers)
    check_spaces(env, config.id)
    return Conforming(env)


def make_with_gymnasium(config: EnvConfig, **kwargs: Any) -> gymnasium.Env:
    """Return one environment as Gymnasium makes it. Raises `UserError` if it cannot."""
    try:
        import_package(config.id)
        return gymnasium.make(config.id, disable_env_checker=True, **config.arguments, **kwargs)
    except Exception as error:
        said = why(config.id, error) + in_envpool(config, error)
        raise UserError(f"env.id={config.id} cannot be made: {said}") from error


def check_spaces(env: gymnasium.Env, id: str) -> None:
    """Raise `UserError` if an environment has not two spaces of Gymnasium's, and close it then."""
    for name in ("observation_space", "action_space"):
        space = getattr(env, name, None)
        if not isinstance(space, spaces.Space):
            env.close()
            raise UserError(f"env.id={id}: its {name} {wrong_space(space, name)}")


def wrong_space(space: Any, name: str) -> str:
    """Return what something is that is no space, and what is usually meant."""
    if space is None:
        return f"is missing or None; __init__ sets self.{name} to one of gymnasium.spaces"
    kind = type(space)
    for plain, meant in ((dict, "Dict"), (tuple, "Tuple"), (list, "Tuple")):
        if isinstance(space, plain):
            return f"is a plain {kind.__name__}; gymnasium.spaces.{meant}(…) around it makes it a space"
    old = "; it is of the old gym, and gymnasium.spaces has its like" if kind.__module__.startswith("gym.") else ""
    return f"is {kind.__module__}.{kind.__qualname__}, which is no gymnasium.spaces.Space{old}"


@contextlib.contextmanager
def registered(function: Callable[..., gymnasium.Env]) -> Iterator[str]:
    """Let Gymnasium make by an id, which is given, what a function makes, until the end of the block."""
    name = re.sub(r"\W+", "-", getattr(function, "__name__", type(function).__name__)).strip("-") or "function"
    id = f"{FUNCTION}{name}-v0"
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
                check_same_spaces(config.id, env, envs)
                return make_interface(envs.single_observation_space, envs.single_action_space)
        if config.backend == "envpool":
            with contextlib.closing(Pool(config, env)) as pool:
                pool.reset(seed=[0] * config.num_envs)
        return make_interface(env.observation_space, env.action_space)


def check_unmasked(id: str, envs: VectorEnv) -> None:
    """Raise `UserError` if a vector entry point says masks in its info, where nobody would see them."""
    if isinstance(envs.single_action_space, MASKABLE) and MASK in first_info(envs, f"env.backend=vector: {id}"):
        raise UserError(f"env.backend=vector: {id} says {MASK} in its info, which sync and async environments read")


def check_same_spaces(id: str, env: gymnasium.Env, envs: VectorEnv) -> None:
    """Raise `UserError` if a vector entry point has other spaces than the single environment, which evaluates."""
    if has_own_mask(env.observation_space) and not has_own_mask(envs.single_observation_space):
        raise UserError(
            f"env.backend=vector: the single environment of {id} says {MASK}, and its vector entry point does not; "
            "env.backend=sync or async reads it"
        )
    pairs = {
        "observation": (env.observation_space, envs.single_observation_space),
        "action": (env.action_space, envs.single_action_space),
    }
    for name, (single, vector) in pairs.items():
        if single != vector:
            raise UserError(
                f"env.backend=vector: the {name} space of {id} is {vector} in its vector entry point, and {single} in "
                "the single environment, which evaluates"
            )


@contextlib.contextmanager
def warnings_if_made() -> Iterator[None]:
    """Hold back warnings until everything could be made: that an id is out of date, its refusal says in one line."""
    with warnings.catch_warnings(record=True) as held:
        yield
    for warning in held:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
