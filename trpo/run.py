"""One run: a trainer, the directory it fills, and when to log, evaluate, save and stop."""

import dataclasses
import logging
import math
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from trpo.config import Config
from trpo.keys import flat
from trpo.numerics.params import flatten
from trpo.profile import profile_step
from trpo.record import checkpoint, run_directory
from trpo.record.dump import write_dump
from trpo.record.figures import draw_profile
from trpo.record.logger import Logger
from trpo.record.progress import Progress
from trpo.record.run_directory import write_json
from trpo.signals import StopRequest
from trpo.step_info import FATAL
from trpo.train import Iteration, Trainer, tagged

console = logging.getLogger("trpo.console")  # what the person at the terminal should see


Score = dict[str, float]  # the figures of one evaluation and its env_steps


def train(config: Config, directory: Path, overrides: list[str], *, resume: bool = False) -> dict[str, Any]:
    """Train one agent into `directory` and return its summary, which is also the last file written.

    With `resume`, the run that is in the directory goes on from its newest readable checkpoint, or from the
    start if it was killed before the first one.
    """
    if not resume:
        run_directory.check_free(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with (
        run_directory.locked(directory),
        run_directory.log_file(directory),
        StopRequest() as stop,
        closing(Trainer(config)) as trainer,
    ):
        run_directory.write_config(directory, dataclasses.asdict(config), overrides)
        session = Session(trainer, directory, stop)
        if resume:
            session.resume()
        announce(trainer, directory)
        summary = session.run()
        run_directory.write_summary(directory, summary)
        conclude(summary)
    return summary


class Session:
    """A trainer at work in a directory: what is evaluated, written and kept on the way."""

    def __init__(self, trainer: Trainer, directory: Path, stop: StopRequest) -> None:
        self.trainer = trainer
        self.directory = directory
        self.stop = stop
        self.final: Score | None = None
        self.best: Score | None = None
        self.outcomes: Counter[str] = Counter()  # how the policy steps ended
        self.started = time.monotonic()
        self.exact = True  # whether every resume brought everything back to the bit
        self.first_step: int | None = None  # of a resumed run
        self.boundary: dict[str, Any] = {}  # the state after the latest whole iteration

    def resume(self) -> None:
        """Go back to the newest checkpoint that can be read; what was written after it is written again."""
        found = checkpoint.newest_readable(self.directory / run_directory.CHECKPOINTS)
        if found is not None:
            file, state = found
            checkpoint.set_aside(file.parent, file)
            self.exact = self.trainer.restore(state) and state["exact"]
            self.final, self.best = state["final_evaluation"], state["best_evaluation"]
            self.outcomes.update(state["outcomes"])
            self.started -= state["seconds"]
            console.info("going on from %s", file)
        run_directory.truncate(self.directory, self.trainer.iteration)
        self.first_step = self.trainer.env_steps + 1

    def run(self) -> dict[str, Any]:
        """Iterate until the steps are done or a signal asks to stop; return the summary.

        Whatever ends it, the state after the latest whole iteration is saved.
        """
        trainer, settings = self.trainer, self.trainer.config.run
        if trainer.env_steps == 0:
            trainer.warm_up()
        self.boundary = self.state()
        try:
            with (
                Logger(self.directory, flat(trainer.config), self.first_step) as logger,
                Progress(trainer.config, done=trainer.env_steps) as bar,
            ):
                while not trainer.finished:
                    previous = trainer.env_steps
                    iteration = trainer.iterate()
                    self.outcomes[iteration.step.outcome.name.lower()] += 1
                    if settings.evaluation_episodes and trainer.due(settings.evaluate_every, previous):
                        iteration.row.update(tagged("evaluation", self.evaluate()))
                    logger.write(iteration.row, env_steps=trainer.env_steps)
                    bar.show(iteration.row)
                    if iteration.step.outcome in FATAL:
                        raise FloatingPointError(iteration.step.outcome.value)
                    record_update(trainer, iteration, self.directory, logger)
                    self.boundary = self.state()
                    if self.stop.requested or trainer.due(settings.checkpoint_every, previous):
                        self.save()
                    if self.stop.requested:
                        break
        except BaseException:
            self.save()
            raise
        return self.summary()

    def evaluate(self) -> dict[str, float]:
        """Return the figures of an evaluation; keep the agent if it is the best so far."""
        figures = self.trainer.evaluate()
        self.final = {"env_steps": self.trainer.env_steps, **figures}
        if self.best is None or self.final["return_mean"] >= self.best["return_mean"]:
            self.best = self.final
            self.write(self.directory / run_directory.CHECKPOINTS / checkpoint.BEST, self.state())
        return figures

    def state(self) -> dict[str, Any]:
        """Return everything that a checkpoint holds."""
        return {
            **self.trainer.state(),
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "outcomes": dict(self.outcomes),
            "seconds": time.monotonic() - self.started,
            "exact": self.exact,
        }

    def save(self) -> None:
        """Write a numbered checkpoint of the latest whole iteration and remove the oldest."""
        folder = self.directory / run_directory.CHECKPOINTS
        self.write(folder / checkpoint.numbered_name(self.boundary["env_steps"]), self.boundary)
        checkpoint.remove_oldest(folder, keep=self.trainer.config.run.keep_checkpoints)

    def write(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint, or if it cannot be written, the state to `run.fallback_directory`, and stop."""
        try:
            checkpoint.save(path, state)
        except OSError as error:
            message = f"the checkpoint {path} cannot be written ({error.strerror})"
            if fallback := self.trainer.config.run.fallback_directory:
                checkpoint.save(Path(fallback) / path.name, state)
                message += f"; the state is in {Path(fallback) / path.name}"
            raise RuntimeError(f"{message}; earlier checkpoints are as they were") from error

    def summary(self) -> dict[str, Any]:
        """Return the summary of the run so far."""
        seconds = time.monotonic() - self.started
        return {
            "exit_reason": run_directory.FINISHED if self.trainer.finished else self.stop.reason,
            "iterations": self.trainer.iteration,
            "env_steps": self.trainer.env_steps,
            "seconds": seconds,
            "steps_per_second": self.trainer.env_steps / seconds,
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "outcomes": dict(self.outcomes),
            "exact": self.exact,
        }


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


def announce(trainer: Trainer, directory: Path) -> None:
    """Say what is about to run, where, and how long."""
    config, run = trainer.config, trainer.config.run
    size = trainer.collector.steps * config.env.num_envs
    rollouts = max(math.ceil(run.total_steps / size), 1 + trainer.warms_up)
    console.info("%s, seed %d, in %s", config.env.id, config.seed, directory)
    console.info(
        "%s steps (%s asked) in iterations of %s, %d environments (%s), %s policy parameters on %s, "
        "%d torch thread(s) for updates",
        *(f"{rollouts * size:,}", f"{run.total_steps:,}", f"{size:,}"),
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
