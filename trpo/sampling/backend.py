"""A vector environment whose processes can hang, die and be interrupted without taking the run along unexplained."""

import contextlib
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv

from trpo.config import EnvConfig
from trpo.sampling.making import make_env, make_vector_env

T = TypeVar("T")


class Backend:
    """The environments of one configuration: `reset` and `step` fail with a sentence, `close` always ends.

    Args:
        config: of `num_envs` environments.
        info_keys: of the figures that the last info of an episode keeps.
    """

    def __init__(self, config: EnvConfig, info_keys: tuple[str, ...] = ()) -> None:
        self.timeout = config.timeout or None
        self.envs = make_vector_env(config, info_keys, worker=functools.partial(make_worker_env, trainer=os.getpid()))
        self.broken = False

    def reset(self, *, seed: Any, options: dict[str, Any] | None = None) -> Any:
        """Return the observations after a reset. Raises `RuntimeError` if a worker hangs or died."""
        if not isinstance(self.envs, AsyncVectorEnv):
            return self._guarded(lambda: self.envs.reset(seed=seed, options=options))[0]
        envs = self.envs
        self._guarded(lambda: envs.reset_async(seed=seed, options=options))
        return self._guarded(lambda: envs.reset_wait(timeout=self.timeout))[0]

    def step(self, actions: np.ndarray) -> Any:
        """Return what `VectorEnv.step` returns. Raises `RuntimeError` if a worker hangs or died."""
        if not isinstance(self.envs, AsyncVectorEnv):
            return self._guarded(lambda: self.envs.step(actions))
        envs = self.envs
        self._guarded(lambda: envs.step_async(actions))
        return self._guarded(lambda: envs.step_wait(timeout=self.timeout))

    def close(self) -> None:
        """Close the environments; the processes of a broken backend are killed, for they may never answer."""
        if self.broken and isinstance(self.envs, AsyncVectorEnv):
            for process in self.envs.processes:
                process.kill()
                process.join()
            with contextlib.suppress(EOFError, OSError, gymnasium.error.NoAsyncCallError):
                self.envs.close(terminate=True)
            self.envs.closed = True  # or its finaliser would try again
        else:
            self.envs.close()

    def _guarded(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except BaseException as error:
            self.broken = True
            if isinstance(error, multiprocessing.TimeoutError):
                raise RuntimeError(f"an environment did not answer within env.timeout={self.timeout:g} s") from error
            if isinstance(error, EOFError | BrokenPipeError | ConnectionResetError):
                raise RuntimeError(
                    "the process of an environment died: killed from outside, or out of memory"
                ) from error
            raise


def make_worker_env(config: EnvConfig, *, trainer: int) -> gymnasium.Env:
    """Return an environment in a process of its own, which leaves signals to the process that trains.

    Ctrl-C, a batch system's SIGTERM and the SIGHUP of a closed terminal reach every process of the group; the trainer
    still needs this one to finish its iteration. (Gymnasium also makes one in the trainer, to read the spaces.)
    """
    if os.getpid() != trainer:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    return make_env(config)
