"""What a run writes into its directory; of several ranks one writes, and the others say nothing."""

import dataclasses
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from trpo.keys import flat
from trpo.numerics.params import flatten
from trpo.record import checkpoint, run_directory
from trpo.record.dump import write_dump
from trpo.record.logger import Logger
from trpo.record.progress import Progress
from trpo.record.run_directory import write_json
from trpo.trainer import Iteration, Trainer
from trpo.update.profile import Profile


class Writer(Protocol):
    """The directory as a session sees it."""

    def iteration(self, iteration: Iteration) -> None:
        """Write what an iteration left."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write a numbered checkpoint and remove the oldest."""

    def named(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint over the one that has this name."""


class Silence:
    """The writer of a rank that does not lead."""

    def __enter__(self) -> "Silence":
        return self

    def __exit__(self, *_: object) -> None:
        return

    def iteration(self, iteration: Iteration) -> None:
        """Write nothing."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write nothing."""

    def named(self, name: str, state: dict[str, Any]) -> None:
        """Write nothing."""


class DirectoryWriter:
    """Writes rows, profiles, dumps and checkpoints; `first_step` is that of a resumed run."""

    def __init__(self, trainer: Trainer, directory: Path, first_step: int | None) -> None:
        self.trainer = trainer
        self.config = trainer.config
        self.directory = directory
        self.logger = Logger(directory, flat(trainer.config), first_step)
        self.bar = Progress(trainer.config, done=trainer.env_steps)

    def __enter__(self) -> "DirectoryWriter":
        self.logger.__enter__()
        self.bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.__exit__(kind, error, trace)
        self.logger.__exit__(kind, error, trace)

    def iteration(self, iteration: Iteration) -> None:
        """Write the row, the profile if there is one, and the dump if it is due."""
        self.logger.write(iteration.row, env_steps=self.trainer.env_steps)
        self.bar.show(iteration.row)
        if iteration.profile is not None:
            self._profile(iteration.profile)
        every = self.config.record.dump_every
        if every and self.trainer.iteration % every == 0 and iteration.surrogate is not None:
            self._dump(iteration)

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Write a numbered checkpoint and remove the oldest."""
        folder = self.directory / run_directory.CHECKPOINTS
        self._save(folder / checkpoint.numbered_name(state["env_steps"]), state)
        checkpoint.remove_oldest(folder, keep=self.config.run.keep_checkpoints)

    def named(self, name: str, state: dict[str, Any]) -> None:
        """Write a checkpoint over the one that has this name."""
        self._save(self.directory / run_directory.CHECKPOINTS / name, state)

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        """Write a checkpoint, or if it cannot be written, the state to `run.fallback_directory`, and stop."""
        try:
            self.logger.sync()  # first: what goes on from the checkpoint does not write its rows again
            checkpoint.save(path, state)
        except OSError as error:
            message = f"the checkpoint {path} cannot be written ({error.strerror})"
            if self.config.run.fallback_directory:
                checkpoint.save(rescued := self._fallback / path.name, state)
                message += f"; the state is in {rescued}, move it to {path.parent} to go on"
            raise RuntimeError(f"{message}; earlier checkpoints are as they were") from error

    @property
    def _fallback(self) -> Path:
        """The run's own path once more, below `run.fallback_directory`: the jobs of a sweep share that."""
        return Path(self.config.run.fallback_directory, *Path(os.path.abspath(self.directory)).parts[1:])

    @property
    def _name(self) -> str:
        return f"step_{self.trainer.env_steps:012d}"

    def _profile(self, profile: Profile) -> None:
        write_json(self.directory / run_directory.PROFILES / f"{self._name}.json", profile._asdict())
        from trpo.record.figures import draw_profile  # matplotlib takes a third of a second of a process's start

        figure = draw_profile(profile._asdict(), f"iteration {self.trainer.iteration}")
        self.logger.draw("profile/step", figure, env_steps=self.trainer.env_steps)

    def _dump(self, iteration: Iteration) -> None:
        """Write one whole update: what went into it, θ before and after, and what was logged of it."""
        policy, batch, theta = self.trainer.agent.policy, iteration.batch, iteration.step.theta
        assert theta is not None  # every step knows where it started
        assert iteration.surrogate is not None
        arrays = {
            **batch.observation_arrays(),  # as the networks saw them
            "old_parameters": batch.old_parameters,
            **iteration.surrogate.columns,
            **getattr(iteration.surrogate, "constants", dict)(),
            **getattr(policy.distribution, "constants", dict)(),
            "theta_old": theta,
            "theta_new": flatten(policy),  # the normaliser is not part of θ
        }
        description = {
            "env_id": self.config.env.id,
            "env_steps": self.trainer.env_steps,
            "iteration": self.trainer.iteration,
            "distribution": repr(policy.distribution),
            "theta": {name: list(parameter.shape) for name, parameter in policy.named_parameters()},
            "policy": dataclasses.asdict(self.config.policy),
            "action_values": dataclasses.asdict(self.config.action_values),
            "outcome": iteration.step.outcome.name.lower(),
            "figures": iteration.step.figures(),
        }
        write_dump(self.directory / run_directory.DUMPS / f"{self._name}.npz", arrays, description)
