"""Would it pay to fit the critic while the next rollout is being collected?

Acting never asks the critic, so the fit may run in a thread of its own until the next batch is made, with the same
result. This prints the seconds per iteration of HalfCheetah-v5 in order and overlapped, in turn, on each backend. What
it printed is in `scripts/results/critic_overlap.txt`; it decided against.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from statistics import median

from trpo.batch import make_batch
from trpo.config import Config, EnvConfig, RunConfig
from trpo.trainer import Trainer
from trpo.update.critic import FitInfo, fit_critic
from trpo.update.statistics import update_normalizer
from trpo.update.trust_region import trust_region_step

ITERATIONS, ROUNDS = 8, 5
CASES = [("sync", 8, 1), ("envpool", 16, 1), ("envpool", 16, 2)]  # backend, environments, torch threads


def main() -> None:
    """Print both for every case."""
    print("backend  environments  threads  in order, ms  overlapped, ms")
    with ThreadPoolExecutor(1) as worker:
        for backend, num_envs, threads in CASES:
            config = Config(
                env=EnvConfig(id="HalfCheetah-v5", backend=backend, num_envs=num_envs), run=RunConfig(threads=threads)
            )
            plain, overlapped = warm(config), warm(config)
            pairs = [(in_order(plain), overlapping(overlapped, worker)) for _ in range(ROUNDS)]
            plain.close()
            overlapped.close()
            first, second = (median(column) * 1e3 for column in zip(*pairs, strict=True))
            print(f"{backend:7}  {num_envs:12}  {threads:7}  {first:12.0f}  {second:14.0f}")


def warm(config: Config) -> Trainer:
    """Return a trainer past its first iterations."""
    trainer = Trainer(config)
    trainer.warm_up()
    for _ in range(3):
        trainer.iterate()
    return trainer


def in_order(trainer: Trainer) -> float:
    """Return seconds per iteration of the trainer as it is."""
    started = time.perf_counter()
    for _ in range(ITERATIONS):
        trainer.iterate()
    return (time.perf_counter() - started) / ITERATIONS


def overlapping(trainer: Trainer, worker: ThreadPoolExecutor) -> float:
    """Return seconds per iteration with the fit on the batch before under way during a collection."""
    config, agent = trainer.config, trainer.agent
    fit: Future[FitInfo] | None = None
    started = time.perf_counter()
    for _ in range(ITERATIONS):
        rollout = trainer.collect()
        if fit is not None:
            fit.result()
        batch = make_batch(
            agent,
            rollout,
            gamma=config.advantage.gamma,
            lam=config.advantage.lam,
            normalize=config.normalize.advantages,
        )
        trust_region_step(agent.policy, batch, config.trust_region)
        fit = worker.submit(
            fit_critic,
            agent.critic,
            trainer.optimizer,
            batch.observations,
            batch.returns,
            config.critic,
            trainer.minibatches,
        )
        update_normalizer(agent, rollout, batch)
    assert fit is not None
    fit.result()
    return (time.perf_counter() - started) / ITERATIONS


if __name__ == "__main__":
    main()
