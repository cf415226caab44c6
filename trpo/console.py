"""What the person at the terminal sees of a run, besides its progress: what is about to run, and how it ended."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trpo.models.agent import with_carried
from trpo.models.footprint import step_bytes
from trpo.models.observations import Leaf, named, row_bytes
from trpo.numerics.params import flatten
from trpo.system import ranks
from trpo.system.streams import give_up
from trpo.trainer import Trainer

console = logging.getLogger("trpo.console")


class Shown(logging.StreamHandler):
    """Writes for a person who may close the terminal, or has read enough (`| head`): the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Let go of what cannot be written to any more; any other error is logging's to tell."""
        if isinstance(sys.exc_info()[1], OSError):
            give_up(self.stream)
        else:
            super().handleError(record)


@contextmanager
def shown() -> Iterator[None]:
    """Show what is meant for the person, and only that; `train.log` gets everything."""
    handler = Shown(sys.stdout)
    console.setLevel(logging.INFO)
    console.addHandler(handler)
    try:
        yield
    finally:
        console.removeHandler(handler)


def announce(trainer: Trainer, directory: Path) -> None:
    """Say what is about to run, where, and how long."""
    config, run = trainer.config, trainer.config.run
    size = trainer.collector.steps * config.env.num_envs
    rollouts = max(math.ceil(run.total_steps / size), 1 + trainer.warms_up)
    console.info("%s, seed %d, in %s", config.env.id, config.seed, directory)
    console.info(
        "%s steps (%s asked) in iterations of %s, %d environments (%s), %s policy parameters on %s, "
        "%d torch thread(s) for updates%s",
        *(f"{rollouts * size:,}", f"{run.total_steps:,}", f"{size:,}"),
        *(config.env.num_envs, config.env.backend),
        *(f"{len(flatten(trainer.agent.policy)):,}", trainer.device, run.threads),
        f", {ranks.count()} ranks" if ranks.count() > 1 else "",
    )
    announce_observations(trainer, size)
    if config.trust_region.surrogate == "pathwise":
        announce_replay(trainer, size)


def announce_observations(trainer: Trainer, size: int) -> None:
    """Say what is taken for what, and what memory that takes, where observations are more than one vector."""
    config, interface = trainer.config, trainer.environments.interface
    spec, _ = with_carried(interface.observations, config, interface.distribution)
    if isinstance(spec, Leaf) and spec.flat:
        return
    rows = min(size, config.trust_region.micro_batch or size)
    console.info(
        "observations: %s; a rollout of them takes %.1f MB, a policy step about %.0f MB",
        ", ".join(f"{name} is {leaf}" for name, leaf in named(spec).items()),
        *(size * row_bytes(spec) / 1e6, step_bytes(trainer.agent.policy, spec, rows) / 1e6),
    )


def announce_replay(trainer: Trainer, size: int) -> None:
    """Say how much of the past action values are fitted to, and what that takes."""
    interface, rollouts = trainer.environments.interface, trainer.config.action_values.rollouts
    row = row_bytes(interface.observations) + 4 * (interface.distribution.action_size + 2) + 3  # reward, log-prob, ends
    console.info(
        "action values fitted to rollouts drawn from the last %d, %s steps: %.1f MB in memory and in every checkpoint",
        *(rollouts, f"{rollouts * size:,}", rollouts * size * row / 1e6),
    )


def conclude(summary: dict[str, Any]) -> None:
    """Say how it ended."""
    console.info(
        "%s: %s steps in %.0f s (%.0f steps/s)",
        summary["exit_reason"],
        f"{summary['env_steps']:,}",
        summary["seconds"],
        summary["steps_per_second"],
    )
    if (final := summary["final_evaluation"]) is not None:
        console.info("evaluation: return %.2f ± %.2f", final["return_mean"], final["return_std"])
    if (best := summary["best_training"]) is not None:
        console.info(
            "best in training: return %.2f, %d episodes around step %s (best_training.pt)",
            *(best["return_mean"], best["episodes"], f"{best['env_steps']:,}"),
        )
