"""Does it pay to step two halves of EnvPool's environments in turn? Acting on one while the other steps.

    python scripts/pool_halves.py

prints the milliseconds of 128 steps of 16 HalfCheetah-v5 environments: by one pool, and by two pools of eight that
take turns. With as many threads as cores it does not pay: acting is work for the same cores, and a pass over eight rows
takes as long as one over sixteen. Its last output is `scripts/results/pool_halves.txt`.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import envpool
import numpy as np
import torch

from trpo.config import Config
from trpo.models.agent import make_agent
from trpo.models.distributions import DiagonalGaussian
from trpo.models.observations import Kind, Leaf

STEPS, ENVS, REPETITIONS = 128, 16, 9


def make_pool(envs: int, threads: int) -> Any:
    """Return a pool that has been reset."""
    pool = envpool.make("HalfCheetah-v5", env_type="gymnasium", num_envs=envs, num_threads=threads, seed=0)
    pool.reset()
    return pool


def player() -> Callable[[np.ndarray], np.ndarray]:
    """Return what acts: a fresh agent, its noise and the clipping."""
    act = make_agent(Config(), observations=Leaf(Kind.VECTOR, (17,)), distribution=DiagonalGaussian(6)).actor()
    generator = torch.Generator().manual_seed(0)

    def play(observations: np.ndarray) -> np.ndarray:
        seen = torch.from_numpy(observations.astype(np.float32))
        actions: np.ndarray = act(seen, torch.empty(len(seen), 6).normal_(generator=generator)).numpy()
        clipped: np.ndarray = np.minimum(np.maximum(actions, -1), 1)
        return clipped

    return play


def in_one(pool: Any, play: Callable[[np.ndarray], np.ndarray]) -> None:
    """Act on all environments, then step all."""
    observations = np.zeros((ENVS, 17))
    for _ in range(STEPS):
        observations = pool.step(play(observations))[0]


def in_halves(pools: list[Any], play: Callable[[np.ndarray], np.ndarray]) -> None:
    """Act on one half while the other steps."""
    for pool in pools:
        pool.send(play(np.zeros((ENVS // 2, 17))))
    for _ in range(STEPS - 1):
        for pool in pools:
            pool.send(play(pool.recv()[0]))
    for pool in pools:
        pool.recv()


def main() -> None:
    """Measure in turns and print medians."""
    torch.set_num_threads(1)
    cores, play = len(os.sched_getaffinity(0)), player()
    whole, halves = make_pool(ENVS, cores), [make_pool(ENVS // 2, cores) for _ in range(2)]
    split = [make_pool(ENVS // 2, max(cores // 2, 1)) for _ in range(2)]
    contestants: dict[str, Callable[[], None]] = {
        f"one pool of {ENVS}, {cores} threads": lambda: in_one(whole, play),
        f"two of {ENVS // 2}, {cores} threads each": lambda: in_halves(halves, play),
        f"two of {ENVS // 2}, {max(cores // 2, 1)} threads each": lambda: in_halves(split, play),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(REPETITIONS):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started))
    for name, found in times.items():
        print(f"{name:<28} {np.median(found):6.1f} ms ({min(found):.1f} to {max(found):.1f})")


if __name__ == "__main__":
    main()
