"""Would other data have given the same step? Twins of what a step is made of, each from half of the environments.

    python scripts/step_twins.py                              # Hopper, a quarter of an hour on one core
    python scripts/step_twins.py --tasks Ant-v5 --iterations 200

A run of `surrogate=pathwise` goes its own way. Beside it, action values are fitted twice, from the even and from the
odd environments, and each twin says what step it would take on the whole batch. The cosine c of the two, in the metric
of F, is what of such a step is not noise: half the data each, so two steps from as much data as there is would be
2c/(1 + c) alike (Spearman 1910, Brown 1910). The paper's surrogate is asked the same, on the halves of the same batch.
Writes scripts/results/step_twins.md.
"""

import argparse
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo.batch import Batch, Rollout, make_batch
from trpo.commands.compose import compose_jobs, register_schema, to_config
from trpo.config import Config
from trpo.models.action_values import action_values_for
from trpo.numerics.conjugate_gradient import conjugate_gradient, dot
from trpo.numerics.ratio import ratio_of_sums
from trpo.system.laps import Laps
from trpo.trainer import Trainer
from trpo.update.objective import Objective
from trpo.update.pathwise import Pathwise
from trpo.update.sources import PathwiseSource
from trpo.update.trust_region import rayleigh_quotient

TASKS = ("Hopper-v5",)
SETTINGS: dict[str, dict[str, Any]] = {  # of the action values
    "as shipped": {},
    "λ 0.5": {"trace": 0.5},
    "four networks": {"networks": 4},
}
SCORE = "`score`, the same batch"
WINDOW = 50  # iterations to a row
STEPWISE = ("observations", "actions", "rewards", "terminated", "truncated", "valid")  # of a rollout, (T, B, …)


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), metavar="ID")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=580)
    options = parser.parse_args()
    names = [*SETTINGS, SCORE]
    lines = [
        "Cosine, in the metric of F, of the steps of two twins, each from half of the environments; mean ± one",
        f"standard error over {WINDOW} iterations, seed {options.seed}.\n",
        f"| environment | steps | training return | {' | '.join(names)} |",
        f"| --- | ---: | ---: |{' ---: |' * len(names)}",
    ]
    for task in options.tasks:
        for line in of_task(task, options.seed, options.iterations):
            print(line, flush=True)
            lines.append(line)
    (Path(__file__).parent / "results" / "step_twins.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def of_task(task: str, seed: int, iterations: int) -> Iterator[str]:
    """Yield the table's lines for a task."""
    config = configured(task, seed)
    with closing(Trainer(config)) as trainer:
        trainer.warm_up()
        twins = {name: twins_of(trainer, changes) for name, changes in SETTINGS.items()}
        rows: list[dict[str, float]] = []
        for _ in range(iterations):
            rollout = trainer.collect()
            rows.append({**cosines(trainer, rollout, twins), "return": rollout.figures().get("episode_return", np.nan)})
            trainer.learn(rollout, Laps())
            if len(rows) == WINDOW:
                found = " | ".join(mean_of([row[name] for row in rows if name in row]) for name in (*SETTINGS, SCORE))
                returns = np.nanmean([row["return"] for row in rows])
                yield f"| {task} | {trainer.env_steps:,} | {returns:,.0f} | {found} |"
                rows = []


def configured(task: str, seed: int) -> Config:
    """Return the configuration of a run of 300,000 steps."""
    register_schema()
    words = [f"env.id={task}", f"seed={seed}", "surrogate=pathwise", "env.backend=envpool", "env.pin=false"]
    (job,) = compose_jobs([*words, "run.total_steps=300000"], None, multirun=False)
    return to_config(job)


def twins_of(trainer: Trainer, changes: dict[str, Any]) -> list[PathwiseSource]:
    """Return two sources of action values with first weights of their own."""
    config = trainer.config
    own = replace(config.action_values, **changes)
    half = config.env.num_envs // 2
    twins = []
    for number in (1, 2):
        seeded = replace(config, seed=config.seed + 1000 * number, action_values=own)
        interface = trainer.environments.interface
        values = action_values_for(seeded, interface.observations, interface.distribution)
        assert values is not None
        bounds, gamma = trainer.agent.bounds, config.advantage.gamma
        settings: dict[str, Any] = {"gamma": gamma, "seed": seeded.seed, "environments": range(half), "num_envs": half}
        twins.append(PathwiseSource(values, own, bounds, **settings))
    return twins


def cosines(trainer: Trainer, rollout: Rollout, twins: dict[str, list[PathwiseSource]]) -> dict[str, float]:
    """Return how alike the steps are that the twins of each setting would take, and those of the paper's surrogate.

    Nothing while they warm up.
    """
    agent, advantage = trainer.agent, trainer.config.advantage
    settings: dict[str, Any] = {"gamma": advantage.gamma, "lam": advantage.lam, "normalize": True}
    halves = [columns_of(rollout, parity) for parity in (0, 1)]
    batches = [make_batch(agent, half, **settings) for half in halves]
    whole = make_batch(agent, rollout, **settings)
    gradients: dict[str, list[Tensor]] = {SCORE: [Objective(agent.policy, batch).gradient() for batch in batches]}
    for name, pair in twins.items():
        for source, half, batch in zip(pair, halves, batches, strict=True):
            source.surrogate(agent, half, batch, trainer.iteration)
        gradients[name] = [pathwise_gradient(trainer, whole, source) for source in pair]
    if trainer.iteration < trainer.config.action_values.warm_up:
        return {}
    metric = Objective(agent.policy, whole)
    return {name: cosine(metric, *pair) for name, pair in gradients.items()}


def columns_of(rollout: Rollout, parity: int) -> Rollout:
    """Return what the even, or the odd, environments gave."""
    truncated = rollout.truncated.nonzero()[:, 1]
    cut = {name: getattr(rollout, name)[:, parity::2] for name in STEPWISE}
    last, final = rollout.last_observations[parity::2], rollout.final_observations
    return rollout._replace(
        **cut,
        last_observations=last,
        final_observations=final[truncated % 2 == parity] if len(final) else final,
    )


def pathwise_gradient(trainer: Trainer, batch: Batch, source: PathwiseSource) -> Tensor:
    """Return the gradient on the whole batch of a twin's surrogate, with the same noise for both."""
    assert source.bounds is not None
    size = (len(batch.actions), source.config.noise, batch.actions.shape[1])
    noise = torch.randn(size, generator=torch.Generator().manual_seed(trainer.iteration))
    surrogate = Pathwise(source.values, batch, noise, source.bounds)
    return Objective(trainer.agent.policy, batch, surrogate).gradient()


def cosine(metric: Objective, *gradients: Tensor) -> float:
    """Return xᵀFy / √(xᵀFx · yᵀFy) of the steps x and y that two gradients give."""
    steps, products = [], []
    for g in gradients:
        damping = 0.03 * rayleigh_quotient(g, metric.fisher_product(g))
        solution = conjugate_gradient(metric.fisher_product, g, damping=damping, max_iterations=10, tolerance=1e-3)
        steps.append(solution.x)
        products.append(solution.product)
    lengths = dot(steps[0], products[0]) * dot(steps[1], products[1])
    return dot(steps[0], products[1]) / lengths**0.5 if lengths > 0 else 0.0


def mean_of(values: list[float]) -> str:
    """Return a mean and its standard error, or a dash where there is nothing."""
    found = ratio_of_sums(values, [1.0] * len(values)) if values else None
    return "–" if found is None else f"{found[0]:.2f} ± {found[1]:.2f}"


if __name__ == "__main__":
    main()
