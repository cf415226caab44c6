"""Is a second step on the same batch worth anything? One to four steps of the same total KL, judged by the other half.

    python scripts/several_steps.py

A step is chosen on half of the environments, as `trust_region_step` chooses it; each further one starts where the last
ended, with gradient and Fisher matrix anew and the ratio to the policy that acted. k steps share the way to the same
exact KL(π_old ‖ π_θ) = δ evenly. What they gain on their own half is promised, what they gain on the other kept.
Writes scripts/results/several_steps.md; five minutes.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trpo.batch import Batch, make_batch
from trpo.config import Config, EnvConfig, RunConfig
from trpo.numerics.conjugate_gradient import conjugate_gradient
from trpo.numerics.params import flatten
from trpo.numerics.ratio import ratio_of_sums
from trpo.trainer import Trainer
from trpo.update.objective import Objective
from trpo.update.trust_region import rayleigh_quotient

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5")
STEPS = (1, 2, 4)
BATCHES = 100
MAX_KL = 0.04


def main() -> None:
    """Print and write the table."""
    lines = [
        "| task | steps | promised | kept | kept, less what one step keeps |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for task in TASKS:
        for line in of_task(task):
            print(line, flush=True)
            lines.append(line)
    head = f"δ {MAX_KL}, {BATCHES} batches, standard deviations of the advantage per √nat.\n\n"
    (Path(__file__).parent / "results" / "several_steps.md").write_text(head + "\n".join(lines) + "\n")


def of_task(task: str) -> Iterator[str]:
    """Yield the table's lines for a task."""
    config = Config(env=EnvConfig(id=task, backend="envpool", pin=False), run=RunConfig(evaluation_episodes=0))
    gains = []
    with closing(Trainer(config)) as trainer:
        trainer.warm_up()
        for _ in range(BATCHES):
            rollout = trainer.collect()
            batch = make_batch(trainer.agent, rollout, gamma=0.99, lam=0.95, normalize=True)
            gains.append([[*both_ways(trainer.agent.policy, batch, steps)] for steps in STEPS])
            trainer.iterate()
    found = np.array(gains) / MAX_KL**0.5  # (batch, kind, promised and kept)
    for i, steps in enumerate(STEPS):
        promised, kept, more = (
            mean_of(column) for column in (found[:, i, 0], found[:, i, 1], found[:, i, 1] - found[:, 0, 1])
        )
        yield f"| {task} | {steps} | {promised} | {kept} | {more if i else '–'} |"


def mean_of(values: np.ndarray) -> str:
    """Return a mean and its standard error."""
    found = ratio_of_sums(list(values), [1.0] * len(values))
    assert found is not None
    return f"{found[0]:.4f} ± {found[1]:.4f}"


def both_ways(policy: Any, batch: Batch, steps: int) -> tuple[float, float]:
    """Return what steps promise and keep, the mean of both halves."""
    assert batch.environments is not None
    halves = [(batch.environments % 2 == parity).nonzero().flatten() for parity in (0, 1)]
    pairs = [one_way(policy, batch, own, other, steps) for own, other in (halves, halves[::-1])]
    promised, kept = (sum(pair) / 2 for pair in zip(*pairs, strict=True))
    return promised, kept


def one_way(policy: Any, batch: Batch, own: Tensor, other: Tensor, steps: int) -> tuple[float, float]:
    """Return the gains of steps chosen on some rows, on those and on others."""
    theta, judge = flatten(policy), Objective(policy, batch, rows=other)
    for step in range(1, steps + 1):
        objective = Objective(policy, batch, theta=theta, rows=own)
        g = objective.gradient()
        damping = 0.03 * rayleigh_quotient(g, objective.fisher_product(g))
        x = conjugate_gradient(objective.fisher_product, g, damping=damping, max_iterations=10, tolerance=1e-3).x
        theta = theta + length(objective, theta, x, MAX_KL * (step / steps) ** 2) * x
    return Objective(policy, batch, rows=own).evaluate(theta).improvement, judge.evaluate(theta).improvement


def length(objective: Objective, theta: Tensor, x: Tensor, kl: float) -> float:
    """Return the t for which KL(π_old ‖ π_{θ + tx}) is as large as asked for, by bisection."""
    low, high = 0.0, 1e-3
    while objective.evaluate(theta + high * x).kl < kl:
        low, high = high, 2 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if objective.evaluate(theta + middle * x).kl < kl else (low, middle)
    return low


if __name__ == "__main__":
    main()
