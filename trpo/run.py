"""One run: a trainer, the directory it fills, and when to log, evaluate, save and stop."""

import dataclasses
import logging
import math
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from signal import Signals
from typing import Any

from trpo.config import Config
from trpo.models.encoders import as_asked
from trpo.models.footprint import step_bytes
from trpo.models.observations import Leaf, named, row_bytes
from trpo.numerics.params import flatten
from trpo.record import checkpoint, run_directory
from trpo.system import ranks
from trpo.system.signals import StopRequest
from trpo.trainer import Iteration, Trainer, tagged
from trpo.update.profile import Profile, profile_step
from trpo.update.step_info import FATAL
from trpo.writer import DirectoryWriter, Silence, Writer

console = logging.getLogger("trpo.console")  # what the person at the terminal should see


Evaluated = dict[str, float]  # the figures of one evaluation and its env_steps


def train(config: Config, directory: Path, overrides: list[str], *, resume: bool = False) -> dict[str, Any]:
    """Train one agent into `directory` and return its summary, which is also the last file written.

    With `resume`, the run that is in the directory goes on from its newest readable checkpoint, or from the
    start if it was killed before the first one. Of several ranks, only the leader uses the directory.
    """
    with ExitStack() as stack:
        if ranks.leads():
            occupy(directory, stack, resume=resume)
        stop = stack.enter_context(StopRequest())
        trainer = stack.enter_context(closing(Trainer(config)))
        session = Session(trainer, stop)
        if resume:
            session.resume(directory)
        if ranks.leads():
            run_directory.write_config(directory, dataclasses.asdict(config), overrides)
            announce(trainer, directory)
        with DirectoryWriter(trainer, directory, session.first_step) if ranks.leads() else Silence() as writer:
            summary = session.run(writer)
        if ranks.leads():
            run_directory.write_summary(directory, summary)
            conclude(summary)
    return summary


def occupy(directory: Path, stack: ExitStack, *, resume: bool) -> None:
    """Make the directory this run's own until `stack` closes."""
    if not resume:
        run_directory.check_free(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stack.enter_context(run_directory.locked(directory))
    stack.enter_context(run_directory.log_file(directory))


class Session:
    """A trainer at work: what is evaluated, written and kept on the way."""

    def __init__(self, trainer: Trainer, stop: StopRequest) -> None:
        self.trainer = trainer
        self.stop = stop
        self.stopped_by = 0  # the number of the signal that stopped this rank or another
        self.final: Evaluated | None = None
        self.best: Evaluated | None = None
        self.outcomes: Counter[str] = Counter()  # how the policy steps ended
        self.started = time.monotonic()
        self.exact = True  # whether every resume brought everything back to the bit
        self.first_step: int | None = None  # of a resumed run
        self.boundary: dict[str, Any] = {}  # the state after the latest whole iteration

    def resume(self, directory: Path) -> None:
        """Go back to the newest checkpoint that can be read; what was written after it is written again."""
        state = ranks.of_leader(newest_state(directory) if ranks.leads() else None)
        if state is not None:
            self.exact = self.trainer.restore(state) and state["exact"]
            self.final, self.best = state["final_evaluation"], state["best_evaluation"]
            self.outcomes.update(state["outcomes"])
            self.started -= state["seconds"]
        if ranks.leads():
            run_directory.truncate(directory, self.trainer.iteration)
        self.first_step = self.trainer.env_steps + 1

    def run(self, writer: Writer) -> dict[str, Any]:
        """Iterate until the steps are done or a signal asks to stop; return the summary.

        Whatever ends it, the state after the latest whole iteration is saved; of several ranks only if all still
        answer, which after an error nobody knows.
        """
        if self.trainer.env_steps == 0:
            self.trainer.warm_up()
        self.boundary = self.state()
        try:
            while not (self.trainer.finished or self.stopped_by):
                self.iterate(writer)
        except BaseException:
            if ranks.count() == 1:
                self.save(writer)
            raise
        return self.summary()

    def iterate(self, writer: Writer) -> None:
        """Run one iteration, and what is due after it."""
        trainer, settings = self.trainer, self.trainer.config.run
        previous = trainer.env_steps
        iteration = trainer.iterate()
        self.outcomes[iteration.step.outcome.name.lower()] += 1
        if settings.evaluation_episodes and trainer.due(settings.evaluate_every, previous):
            iteration.row.update(tagged("evaluation", self.evaluate(writer)))
        writer.iteration(iteration, self.profile(iteration))
        if iteration.step.outcome in FATAL:
            raise FloatingPointError(iteration.step.outcome.value)
        self.boundary = self.state()
        self.stopped_by = ranks.largest(self.stop.received or 0)
        if self.stopped_by or trainer.due(settings.checkpoint_every, previous):
            self.save(writer)

    def profile(self, iteration: Iteration) -> Profile | None:
        """Return the profile of the policy step, if one is due and there was a step."""
        trainer, every = self.trainer, self.trainer.config.record.profile_every
        if not every or trainer.iteration % every:
            return None
        policy, config = trainer.agent.policy, trainer.config.trust_region
        return profile_step(policy, iteration.batch, iteration.step, config, iteration.surrogate)

    def evaluate(self, writer: Writer) -> dict[str, float]:
        """Return the figures of an evaluation; keep the agent if it is the best so far."""
        figures = self.trainer.evaluate()
        self.final = {"env_steps": self.trainer.env_steps, **figures}
        if self.best is None or self.final["return_mean"] >= self.best["return_mean"]:
            self.best = self.final
            writer.best(of_all_ranks(self.state(replay=False)))
        return figures

    def state(self, *, replay: bool = True) -> dict[str, Any]:
        """Return everything that a checkpoint holds, as far as this rank knows it."""
        return {
            **self.trainer.state(replay=replay),
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "outcomes": dict(self.outcomes),
            "seconds": time.monotonic() - self.started,
            "exact": self.exact,
        }

    def save(self, writer: Writer) -> None:
        """Write a checkpoint of the latest whole iteration."""
        writer.checkpoint(of_all_ranks(self.boundary))

    def summary(self) -> dict[str, Any]:
        """Return the summary of the run so far."""
        seconds = time.monotonic() - self.started
        return {
            "exit_reason": run_directory.FINISHED if self.trainer.finished else Signals(self.stopped_by).name,
            "iterations": self.trainer.iteration,
            "env_steps": self.trainer.env_steps,
            "seconds": seconds,
            "steps_per_second": self.trainer.env_steps / seconds,
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "outcomes": dict(self.outcomes),
            "exact": self.exact,
        }


def newest_state(directory: Path) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that can be read, or None if there is none yet."""
    found = checkpoint.newest_readable(directory / run_directory.CHECKPOINTS)
    if found is None:
        return None
    file, state = found
    checkpoint.set_aside(file.parent, file)
    console.info("going on from %s", file)
    return state


def of_all_ranks(state: dict[str, Any]) -> dict[str, Any]:
    """Return a rank's state with what only the other ranks know."""
    return {**state, "ranks": [own for part in ranks.everyones(state["ranks"]) for own in part]}


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
    config, spec = trainer.config, as_asked(trainer.environments.interface.observations, trainer.config)
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
