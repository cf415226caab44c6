"""B environments stepped together, with one meaning of a step whatever the backend, and a way back to any step."""

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trpo.config import EnvConfig
from trpo.models.observations import Observations, from_plain, leaves_of, plain, same_rows
from trpo.sampling.backend import Backend
from trpo.sampling.checks import check_finite, check_masks
from trpo.sampling.encoding import Kept
from trpo.sampling.history import History
from trpo.sampling.infos import Infos, told_by_all
from trpo.sampling.interface import make_interface
from trpo.sampling.transition import Transition
from trpo.system import seeds

log = logging.getLogger(__name__)

TIME_LIMITS_BETWEEN_RESTARTS = 10
ASSUMED_TIME_LIMIT = 1_000  # of environments that state none


class Environments:
    """B environments, the observations to act on next, their resets, and what it takes to replay them.

    Sync and async environments run with autoreset disabled: an environment that ended is reset at once, with a
    seed of its own for every episode, and no step is spent on it. An environment's own vector entry point and
    EnvPool reset by themselves on the step after an end; that step is marked as not valid. Either way an
    environment goes through the same transitions for the same actions and starts.

    Environments cannot be saved, but they can be replayed: from the seeds of the episodes under way and the actions
    since. A vector entry point takes one seed for all, and EnvPool takes seeds only when it is made: these two are made
    anew from new seeds every `restart_every` steps (open episodes are truncated there), and replayed since then.

    Args:
        config: its `num_envs` counts the environments of all ranks.
        seed: of the run.
        numbers: which of them are stepped here; all, by default. Their numbers decide their seeds.
        kept: which parts of an observation are, by name.
        infos: which figures of the last info of an episode are told; success, by default.
    """

    def __init__(
        self,
        config: EnvConfig,
        seed: int,
        numbers: range | None = None,
        kept: Kept = lambda _: True,
        infos: Infos | None = None,
    ) -> None:
        numbers = range(config.num_envs) if numbers is None else numbers
        self.config = config
        self.seed = seed
        self.numbers = numbers
        self.num_envs = len(numbers)
        self.masked_resets = config.backend in ("sync", "async")
        self.infos = infos or Infos(())
        self.backend = self._make_backend()
        envs = self.backend.envs
        self.interface = make_interface(envs.single_observation_space, envs.single_action_space, kept)
        self.steps = 0  # of the vector
        self.strayed = False  # whether an observation has lain outside its space
        self.episodes = np.zeros(self.num_envs, dtype=np.int64)  # started, per environment
        self.restarts = 0  # of environments that reset by themselves
        self.restart_after = self._restart_after()  # steps of the vector
        self.history = History(self.num_envs)
        try:
            self.observations = self._start()  # (B, …) to act on next
            self._check_masks()
        except BaseException:
            self.backend.close()
            raise

    def step(self, actions: Tensor) -> Transition:
        """Step every environment with policy actions (B, A).

        Raises `FloatingPointError` naming the signal, environment and step of a NaN or infinity.
        """
        self.steps += 1
        self.history.append(actions.numpy())
        transition = self._step(actions)
        ended = transition.ended
        self.observations = transition.next_observations
        if self.masked_resets:
            if ended.any():
                self.history.begin(ended)
                self.observations = self._reset(ended)
        elif self.history.length >= self.restart_after:
            cut = transition.valid & ~ended
            transition = transition._replace(truncated=transition.truncated | cut, interrupted=cut)
            self._restart()
        self._check_masks()
        return transition

    def watch(self, observations: Observations) -> None:
        """Say once that an observation of the latest steps (T, B, …), which were acted on, lies outside its space."""
        if self.strayed or (inside := self.interface.contains(observations)).all():
            return
        self.strayed = True  # many an environment strays by a rounding, and learning does not mind
        step = self.steps - len(observations) + int((~inside).nonzero()[0, 0])
        log.warning("an observation at step %d lies outside the environment's own space", step)

    def close(self) -> None:
        """Close the environments and their processes."""
        self.backend.close()

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to bring fresh environments to this very step."""
        if self.masked_resets:  # a replay from a restart needs them all
            self.history.forget()
        return {
            "steps": self.steps,
            "episodes": torch.from_numpy(self.episodes.copy()),
            "restarts": self.restarts,
            "history": self.history.state(),
            "observations": plain(self.observations),
        }

    def restore(self, state: dict[str, Any]) -> bool:
        """Replay to a saved state; return whether every environment is where it was, to the bit.

        One that is not keeps something across resets, or draws numbers that its seed does not decide. It goes on
        from where the replay led.
        """
        self.restarts, self.episodes = state["restarts"], state["episodes"].numpy().copy()
        self.history.restore(state["history"])
        self.observations = self._replay_episodes() if self.masked_resets else self._replay_since_restart()
        self.steps = state["steps"]
        same = same_rows(self.observations, from_plain(state["observations"]))
        for environment in (~same).nonzero().flatten().tolist():
            number = self.numbers[environment]
            log.warning("environment %d did not replay to where it was: the run goes on, but not exactly", number)
        return bool(same.all())

    def _make_backend(self) -> Backend:
        return Backend(dataclasses.replace(self.config, num_envs=self.num_envs), self.infos.keys)

    def _start(self) -> Observations:
        self.resetting = np.zeros(self.num_envs, dtype=bool)  # whether the next step goes into a reset
        if self.masked_resets:
            return self._reset(np.ones(self.num_envs, dtype=bool))
        if self.config.backend == "vector":
            path = (self.restarts, self.numbers.start) if self.numbers.start else (self.restarts,)
            return self._encode(self.backend.reset(seed=self._seed(*path)))
        return self._encode(self.backend.reset(seed=[self._seed(number, self.restarts) for number in self.numbers]))

    def _seed(self, *path: int) -> int:
        return seeds.integer(self.seed, seeds.Role.ENVIRONMENTS, *path)

    def _step(self, actions: Tensor) -> Transition:
        raw, gained, terminated, truncated, info = self.backend.step(self.interface.decode(actions))
        rewards = np.array(gained, dtype=np.float32)
        if not math.isfinite(sum(rewards.tolist())):
            check_finite("reward", rewards, self.numbers, self.steps)
        valid = ~self.resetting
        if not self.masked_resets:
            self.resetting = terminated | truncated
        return Transition(
            next_observations=self._encode(raw),
            rewards=rewards,
            terminated=terminated & valid,
            truncated=truncated & valid,
            valid=valid,
            interrupted=np.zeros(self.num_envs, dtype=bool),
            infos=told_by_all(info if (terminated | truncated).any() else {}, self.infos.keys, self.num_envs),
        )

    def _reset(self, ended: np.ndarray) -> Observations:
        """Return observations (B, …) after starting the next episode of the environments that ended."""
        self.episodes += ended
        return self._begin(ended)

    def _begin(self, chosen: np.ndarray) -> Observations:
        """Return observations (B, …) after resetting some environments to the start of their current episode."""
        episode_seeds: list[int | None] = [None] * self.num_envs
        for index in np.flatnonzero(chosen):
            episode_seeds[index] = self._seed(self.numbers[index], int(self.episodes[index]) - 1)
        return self._encode(self.backend.reset(seed=episode_seeds, options={"reset_mask": chosen}))

    def _restart(self) -> None:
        self.backend.close()
        self.backend = self._make_backend()
        self.restarts += 1
        self.history.clear()
        self.observations = self._start()

    def _replay_episodes(self) -> Observations:
        """Return observations (B, …) after every environment went through its current episode again.

        They can only step together, so their episodes are aligned at the end; what runs before is filler, thrown
        away by the reset that begins the episode:

            environment 0   ▏filler filler▕episode episode episode▏now
            environment 1   ▏episode episode episode episode episode▏now
            environment 2   ▏filler filler filler filler filler▕     now, just reset
        """
        began, length = self.history.began, self.history.length
        observations = self._begin(np.ones(self.num_envs, dtype=bool))
        for index in range(length):
            if index and (starting := began == index).any():
                observations = self._begin(starting)
            actions = torch.from_numpy(self.history.rows[index])
            if self.interface.masked:  # filler meets other masks than these were drawn under
                filler = torch.from_numpy(began > index)
                actions = torch.where(filler[:, None], self.interface.possible(observations), actions)
            transition = self._step(actions)
            observations = transition.next_observations
            filler_ended = transition.ended & (began > index)
            if filler_ended.any():
                observations = self._begin(filler_ended)
        return self._begin(starting) if (starting := began == length).any() else observations

    def _replay_since_restart(self) -> Observations:
        observations = self._start()
        for actions in self.history.rows[: self.history.length]:
            observations = self._step(torch.from_numpy(actions)).next_observations
        return observations

    def _restart_after(self) -> int:
        if self.config.restart_every:
            return max(1, self.config.restart_every // self.config.num_envs)
        spec = self.backend.envs.spec
        limit = spec.max_episode_steps if spec else None
        return TIME_LIMITS_BETWEEN_RESTARTS * (limit or ASSUMED_TIME_LIMIT)

    def _encode(self, raw: Any) -> Observations:
        observations = self.interface.encode(raw)
        for name, leaf in leaves_of(observations).items():
            if leaf.is_floating_point() and not math.isfinite(leaf.sum().item()):
                check_finite(name, leaf.numpy(), self.numbers, self.steps)
        return observations

    def _check_masks(self) -> None:
        if self.interface.masked:
            forbidding = self.interface.forbidding(self.observations).numpy()
            check_masks(forbidding & ~self.resetting, self.numbers, self.steps)
