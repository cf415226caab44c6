"""B environments stepped together, with one meaning of a step whatever the backend."""

import functools
import logging
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from trpo import seeds
from trpo.config import EnvConfig, UserError, first_line
from trpo.sampling.interface import Interface, make_interface

log = logging.getLogger(__name__)


class Transition(NamedTuple):
    """What one step of B environments gave."""

    next_observations: Tensor  # (B, O) the true next ones: where an episode ended, those it ended in
    rewards: Tensor  # (B,)
    terminated: Tensor  # (B,) bool
    truncated: Tensor  # (B,) bool
    valid: Tensor  # (B,) bool; False where the backend spent the step on a reset


class Environments:
    """B environments, the observations to act on next, and their resets.

    Sync and async environments run with autoreset disabled: an environment that ended is reset at once, with a
    seed of its own for every episode, and no step is spent on it. An environment's own vector entry point
    resets by itself on the step after an end; that step is marked as not valid. Either way an environment
    goes through the same transitions for the same actions and starts.
    """

    def __init__(self, config: EnvConfig, seed: int) -> None:
        self.seed = seed
        self.num_envs = config.num_envs
        self.envs = make_vector_env(config)
        self.interface: Interface = make_interface(self.envs.single_observation_space, self.envs.single_action_space)
        self.masked_resets = config.backend != "vector"
        self.episodes = np.zeros(self.num_envs, dtype=np.int64)  # started, per environment
        self.steps = 0
        self.resetting = torch.zeros(self.num_envs, dtype=torch.bool)
        self.observations = self._first_observations()  # (B, O) to act on next

    def step(self, actions: Tensor) -> Transition:
        """Step every environment with policy actions (B, A).

        Raises `FloatingPointError` naming the signal, environment and step of a NaN or infinity.
        """
        self.steps += 1
        raw, rewards, terminated, truncated, _ = self.envs.step(self.interface.decode(actions))
        valid = ~self.resetting
        transition = Transition(
            next_observations=self._encode(raw),
            rewards=self._finite("reward", torch.from_numpy(np.array(rewards, dtype=np.float32))),
            terminated=torch.from_numpy(np.array(terminated, dtype=bool)) & valid,
            truncated=torch.from_numpy(np.array(truncated, dtype=bool)) & valid,
            valid=valid,
        )
        ended = transition.terminated | transition.truncated
        self.observations = transition.next_observations
        if not self.masked_resets:
            self.resetting = ended
        elif ended.any():
            self.observations = self._reset(ended.numpy())
        return transition

    def close(self) -> None:
        """Close the environments and their processes."""
        self.envs.close()

    def _first_observations(self) -> Tensor:
        if self.masked_resets:
            return self._reset(np.ones(self.num_envs, dtype=bool))
        raw, _ = self.envs.reset(seed=seeds.integer(self.seed, seeds.Role.ENVIRONMENTS))
        return self._encode(raw)

    def _reset(self, ended: np.ndarray) -> Tensor:
        """Return observations (B, O) after resetting the environments that ended."""
        episode_seeds: list[int | None] = [None] * self.num_envs
        for index in np.flatnonzero(ended):
            path = (int(index), int(self.episodes[index]))
            episode_seeds[index] = seeds.integer(self.seed, seeds.Role.ENVIRONMENTS, *path)
        self.episodes += ended
        raw, _ = self.envs.reset(seed=episode_seeds, options={"reset_mask": ended})  # type: ignore[arg-type]
        return self._encode(raw)

    def _encode(self, raw: Any) -> Tensor:
        return self._finite("observation", self.interface.encode(raw))

    def _finite(self, signal: str, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            environment, *component = (~torch.isfinite(values)).nonzero()[0].tolist()
            name = signal + "".join(f"[{i}]" for i in component)
            raise FloatingPointError(
                f"{name} of environment {environment} is {float(values[environment, *component])} after its step "
                f"{self.steps} of this run: the environment is broken, or it left its numeric range"
            )
        return values


def make_env(config: EnvConfig, **kwargs: Any) -> gymnasium.Env:
    """Return one environment. Raises `UserError` if the id or its arguments are wrong, in one line."""
    if not config.id:
        raise UserError(
            "no environment: choose a task (task=cartpole) or an environment (env.id=CartPole-v1); "
            "--help lists the tasks"
        )
    mujoco.set_mju_user_warning(log_once)
    try:
        return gymnasium.make(config.id, disable_env_checker=True, **config.kwargs, **kwargs)
    except Exception as error:
        raise UserError(f"env.id={config.id} cannot be made: {first_line(error)}") from error


@functools.cache
def log_once(message: str) -> None:
    """Log a warning of MuJoCo, which would else print it for every model and leave a file where the person is."""
    log.warning("MuJoCo: %s", message)


def make_vector_env(config: EnvConfig) -> VectorEnv:
    """Return `num_envs` environments on the configured backend."""
    if config.backend == "vector":
        return make_vector_entry_point(config)
    functions = [lambda: make_env(config)] * config.num_envs
    if config.backend == "async":
        return AsyncVectorEnv(functions, autoreset_mode=AutoresetMode.DISABLED)
    return SyncVectorEnv(functions, copy=False, autoreset_mode=AutoresetMode.DISABLED)


def make_vector_entry_point(config: EnvConfig) -> VectorEnv:
    """Return the environment's own vector implementation, which must reset on the step after an end."""
    if gymnasium.spec(config.id).vector_entry_point is None:
        raise UserError(f"env.backend=vector: {config.id} has no vector entry point; use sync or async")
    envs = gymnasium.make_vec(
        config.id, num_envs=config.num_envs, vectorization_mode="vector_entry_point", **config.kwargs
    )
    mode = envs.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.NEXT_STEP:
        raise UserError(f"env.backend=vector: {config.id} autoresets as {mode}, only NEXT_STEP is supported")
    return envs


def check_environment(config: EnvConfig) -> Interface:
    """Return the interface of the configured environment, made once and closed, or raise `UserError`."""
    env = make_env(config)
    try:
        if config.backend == "vector":
            make_vector_entry_point(config).close()
        return make_interface(env.observation_space, env.action_space)
    finally:
        env.close()
