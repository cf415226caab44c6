"""One run: a trainer, the directory it fills, and when to log, evaluate, save and stop."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from signal import Signals
from typing import Any

from trpo.config import Config
from trpo.console import announce, conclude, console
from trpo.record import checkpoint, run_directory
from trpo.record.stretches import Stretches
from trpo.sampling.evaluation import evaluate, united
from trpo.system import ranks
from trpo.system.signals import StopRequest
from trpo.trainer import Trainer, tagged
from trpo.update.step_info import FATAL
from trpo.writer import DirectoryWriter, Silence, Writer

Evaluated = dict[str, float]  # the figures of one evaluation and its env_steps
Watch = Callable[[Mapping[str, float | str], Trainer], str | None]  # of an iteration's row; the reason to end, if any


def train(
    config: Config, directory: Path, overrides: list[str], *, resume: bool = False, watch: Watch | None = None
) -> dict[str, Any]:
    """Train one agent into `directory` and return its summary, which is also the last file written.

    With `resume`, the run that is in the directory goes on from its newest readable checkpoint, or from the
    start if it was killed before the first one. Of several ranks, only the leader uses the directory. What `watch`
    returns after an iteration ends the run, saved, with that exit reason.
    """
    with ExitStack() as stack:
        if ranks.leads():
            occupy(directory, stack, resume=resume)
        stop = stack.enter_context(StopRequest())
        trainer = stack.enter_context(closing(Trainer(config)))
        session = Session(trainer, stop, watch)
        if not (resume and session.resume(directory)) and config.run.init_from:
            session.start_from(Path(config.run.init_from))
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

    def __init__(self, trainer: Trainer, stop: StopRequest, watch: Watch | None = None) -> None:
        self.trainer = trainer
        self.stop = stop
        self.watch = watch
        self.exit_reason = ""  # once there is one
        self.final: Evaluated | None = None
        self.best: Evaluated | None = None
        self.stretches = Stretches()
        self.outcomes: Counter[str] = Counter()  # how the policy steps ended
        self.started = time.monotonic()
        self.exact = True  # whether every resume brought everything back to the bit
        self.first_step: int | None = None  # of a resumed run
        self.boundary: dict[str, Any] = {}  # the state after the latest whole iteration

    def start_from(self, path: Path) -> None:
        """Start as the agent that another run, or a checkpoint, holds."""
        file, state = ranks.of_leader(checkpoint.read(path) if ranks.leads() else None)
        self.trainer.adopt(state, str(file))

    def resume(self, directory: Path) -> bool:
        """Go back to the newest checkpoint that can be read, if there is one; what came after it is written again."""
        state = ranks.of_leader(newest_state(directory) if ranks.leads() else None)
        if state is not None:
            self.exact = self.trainer.restore(state) and state["exact"]
            self.final, self.best = state["final_evaluation"], state["best_evaluation"]
            self.outcomes.update(state["outcomes"])
            if "stretches" in state:  # older checkpoints have none
                self.stretches.restore(state["stretches"])
            self.started -= state["seconds"]
        if ranks.leads():
            run_directory.truncate(directory, self.trainer.iteration)
        self.first_step = self.trainer.env_steps + 1
        return state is not None

    def run(self, writer: Writer) -> dict[str, Any]:
        """Iterate until the steps are done or a signal asks to stop; return the summary.

        Whatever ends it, the state after the latest whole iteration is saved; of several ranks only if all still
        answer, which after an error nobody knows.
        """
        if self.trainer.env_steps == 0:
            self.trainer.warm_up()
        self.boundary = self.state()
        try:
            while not (self.trainer.finished or self.exit_reason):
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
        self.stretches.take(iteration.row, self.boundary)
        if settings.evaluation_episodes and trainer.due(settings.evaluate_every, previous):
            iteration.row.update(tagged("evaluation", self.evaluate(writer)))
        writer.iteration(iteration)
        if iteration.step.outcome in FATAL:
            raise FloatingPointError(iteration.step.outcome.value)
        self.boundary = self.state()
        self.exit_reason = self.reason_to_end(iteration.row)
        if self.exit_reason or trainer.due(settings.checkpoint_every, previous):
            self.save(writer)

    def reason_to_end(self, row: Mapping[str, float | str]) -> str:
        """Return why the run ends after an iteration, the same on all ranks, or nothing if it goes on."""
        enough, figure = self.trainer.config.run.stop_at_return, row.get("evaluation/return_mean")
        asked = ranks.of_leader(self.watch(row, self.trainer)) if self.watch else None
        if self.trainer.finished:
            return run_directory.FINISHED
        if stopped_by := ranks.largest(self.stop.received or 0):  # the signal that this rank or another received
            return Signals(stopped_by).name
        if enough is not None and figure is not None and float(figure) >= enough:
            return run_directory.STOPPED
        return asked or ""

    def evaluate(self, writer: Writer) -> dict[str, float]:
        """Return the figures of an evaluation; keep the agent if it is the best so far."""
        figures = evaluated(self.trainer)
        self.final = {"env_steps": self.trainer.env_steps, **figures}
        if self.best is None or self.final["return_mean"] >= self.best["return_mean"]:
            self.best = self.final
            writer.named(checkpoint.BEST, of_all_ranks(self.state(replay=False)))
        return figures

    def state(self, *, replay: bool = True) -> dict[str, Any]:
        """Return everything that a checkpoint holds, as far as this rank knows it."""
        return {
            **self.trainer.state(replay=replay),
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "stretches": self.stretches.state(),
            "outcomes": dict(self.outcomes),
            "seconds": time.monotonic() - self.started,
            "exact": self.exact,
        }

    def save(self, writer: Writer) -> None:
        """Write a checkpoint of the latest whole iteration; before it the best agent in training, which it knows of.

        If that one cannot be written, the checkpoint matters all the more.
        """
        state = of_all_ranks(self.boundary)
        try:
            if (agent := self.stretches.unsaved(self.boundary)) is not None:
                writer.named(checkpoint.BEST_TRAINING, agent)
        finally:
            writer.checkpoint(state)

    def summary(self) -> dict[str, Any]:
        """Return the summary of the run so far."""
        seconds = time.monotonic() - self.started
        return {
            "exit_reason": self.exit_reason or run_directory.FINISHED,  # before a first iteration, if all was done
            "iterations": self.trainer.iteration,
            "env_steps": self.trainer.env_steps,
            "seconds": seconds,
            "steps_per_second": self.trainer.env_steps / seconds,
            "final_evaluation": self.final,
            "best_evaluation": self.best,
            "best_training": self.stretches.best,
            "outcomes": dict(self.outcomes),
            "exact": self.exact,
        }


def evaluated(trainer: Trainer) -> dict[str, float]:
    """Return the figures of deterministic episodes on environments of their own, shared among the ranks."""
    config = trainer.config
    evaluation = evaluate(
        trainer.agent,
        config.env.evaluation,
        episodes=ranks.share(config.run.evaluation_episodes),
        seed=config.seed,
        number=trainer.iteration,
        info_keys=config.record.info_keys,
        kept=config.sees,
    )
    return united(ranks.everyones(evaluation)).figures()


def newest_state(directory: Path) -> dict[str, Any] | None:
    """Return the state of the newest checkpoint that can be read, or None if there is none yet."""
    found = checkpoint.newest_readable(directory / run_directory.CHECKPOINTS)
    if found is None:
        console.info("no checkpoint: starting again")
        return None
    file, state = found
    checkpoint.set_aside(file.parent, file)
    console.info("going on from %s", file)
    return state


def of_all_ranks(state: dict[str, Any]) -> dict[str, Any]:
    """Return a rank's state with what only the other ranks know."""
    return {**state, "ranks": [own for part in ranks.everyones(state["ranks"]) for own in part]}
