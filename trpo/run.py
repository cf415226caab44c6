"""One run: a trainer, the directory it fills, and when to log, evaluate, save and stop."""

import dataclasses
import logging
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from trpo.config import Config, flat
from trpo.numerics.params import flatten
from trpo.profile import profile_step
from trpo.record import checkpoint, run_directory
from trpo.record.dump import write_dump
from trpo.record.figures import draw_profile
from trpo.record.logger import Logger
from trpo.record.progress import Progress
from trpo.record.run_directory import write_json
from trpo.signals import StopRequest
from trpo.train import Iteration, Trainer, tagged

console = logging.getLogger("trpo.console")  # what the person at the terminal should see

FINISHED = "finished"


Score = dict[str, float]  # the figures of one evaluation and its env_steps


def train(config: Config, directory: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one agent into `directory` and return its summary, which is also the last file written."""
    run_directory.check_free(directory)
    run_directory.write_config(directory, dataclasses.asdict(config), overrides)
    with run_directory.log_file(directory), StopRequest() as stop, closing(Trainer(config)) as trainer:
        announce(trainer, directory)
        started = time.monotonic()
        final, best = run(trainer, directory, stop)
        seconds = time.monotonic() - started
        summary = {
            "exit_reason": stop.reason or FINISHED,
            "iterations": trainer.iteration,
            "env_steps": trainer.env_steps,
            "seconds": seconds,
            "steps_per_second": trainer.env_steps / seconds,
            "final_evaluation": final,
            "best_evaluation": best,
        }
        run_directory.write_summary(directory, summary)
        conclude(summary)
    return summary


def run(trainer: Trainer, directory: Path, stop: StopRequest) -> tuple[Score | None, Score | None]:
    """Iterate until the steps are done or a signal asks to stop; return the last and the best evaluation."""
    settings = trainer.config.run
    final: Score | None = None
    best: Score | None = None
    trainer.warm_up()
    with Logger(directory, flat(trainer.config)) as logger, Progress(trainer.config) as progress:
        while not trainer.finished:
            previous = trainer.env_steps
            iteration = trainer.iterate()
            row = iteration.row
            if trainer.due(settings.evaluate_every, previous) and settings.evaluation_episodes:
                figures = trainer.evaluate()
                row |= tagged("evaluation", figures)
                final = {"env_steps": trainer.env_steps, **figures}
                if best is None or final["return_mean"] >= best["return_mean"]:
                    best = final
                    checkpoint.save(directory / run_directory.CHECKPOINTS / checkpoint.BEST, trainer.state())
            logger.write(row, env_steps=trainer.env_steps)
            progress.show(row)
            record_update(trainer, iteration, directory, logger)
            if trainer.due(settings.checkpoint_every, previous) or stop.requested:
                save(trainer, directory)
            if stop.requested:
                break
    return final, best


def record_update(trainer: Trainer, iteration: Iteration, directory: Path, logger: Logger) -> None:
    """Write the profile and the dump of an update where they are due."""
    record, name = trainer.config.record, f"step_{trainer.env_steps:012d}"
    if record.profile_every and trainer.iteration % record.profile_every == 0:
        profile = profile_step(trainer.agent.policy, iteration.batch, iteration.step, trainer.config.trust_region)
        if profile is not None:
            write_json(directory / run_directory.PROFILES / f"{name}.json", profile._asdict())
            figure = draw_profile(profile._asdict(), f"iteration {trainer.iteration}")
            logger.draw("profile/step", figure, env_steps=trainer.env_steps)
    if record.dump_every and trainer.iteration % record.dump_every == 0:
        write_update(directory / run_directory.DUMPS / f"{name}.npz", trainer, iteration)


def write_update(path: Path, trainer: Trainer, iteration: Iteration) -> None:
    """Write one whole update: what went into it, θ before and after, and what was logged of it."""
    config, policy = trainer.config, trainer.agent.policy
    batch, theta = iteration.batch, iteration.step.theta
    assert theta is not None  # every step knows where it started
    arrays = {
        "observations": batch.observations,  # as the networks saw them
        "actions": batch.actions,
        "advantages": batch.advantages,
        "old_parameters": batch.old_parameters,
        "theta_old": theta,
        "theta_new": flatten(policy),  # the normaliser is not part of θ
    }
    description = {
        "env_id": config.env.id,
        "env_steps": trainer.env_steps,
        "iteration": trainer.iteration,
        "distribution": repr(policy.distribution),
        "theta": {name: list(parameter.shape) for name, parameter in policy.named_parameters()},
        "policy": dataclasses.asdict(config.policy),
        "outcome": iteration.step.outcome.name.lower(),
        "figures": iteration.step.figures(),
    }
    write_dump(path, arrays, description)


def save(trainer: Trainer, directory: Path) -> None:
    """Write a numbered checkpoint."""
    checkpoint.save_numbered(
        directory / run_directory.CHECKPOINTS,
        trainer.state(),
        env_steps=trainer.env_steps,
        keep=trainer.config.run.keep_checkpoints,
    )


def announce(trainer: Trainer, directory: Path) -> None:
    """Say what is about to run, where, and how long."""
    config, run = trainer.config, trainer.config.run
    size = trainer.collector.steps * config.env.num_envs
    iterations = math.ceil(run.total_steps / size)
    console.info("%s, seed %d, in %s", config.env.id, config.seed, directory)
    console.info(
        "%s steps (%s asked) in iterations of %s, %d environments (%s), %s policy parameters on %s, "
        "%d torch thread(s) for updates",
        *(f"{iterations * size:,}", f"{run.total_steps:,}", f"{size:,}"),
        *(config.env.num_envs, config.env.backend),
        *(f"{len(flatten(trainer.agent.policy)):,}", trainer.device, run.threads),
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
