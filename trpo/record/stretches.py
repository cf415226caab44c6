"""The agent that did best in training, told from the episodes it learned from: not one is played for it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

EPISODES = 20  # at least as many are in a stretch
ACTED = ("env_steps", "agent")  # of a trainer's state: who acted
ALWAYS = ("config", "spaces")  # the same in all states of a run: what else it takes to act


class Stretch(NamedTuple):
    """Iterations one after another until `EPISODES` episodes have ended in them."""

    episodes: int = 0
    total: float = 0.0  # of their returns
    middle: dict[str, Any] | None = None  # what acted when half of them had ended


class Stretches:
    """The stretches of a run so far, and the agent from the middle of the best.

    Neighbouring policies are alike, so that the mean of a stretch says more of the one in its middle than its own few
    episodes could. The best of many means is somewhat too high a promise, as of all maxima over noise.
    """

    def __init__(self) -> None:
        self.stretch = Stretch()
        self.best: dict[str, float] | None = None  # its figures
        self.agent: dict[str, Any] | None = None  # what is not saved yet of it

    def take(self, row: Mapping[str, float | str], acted: Mapping[str, Any]) -> None:
        """Go on with an iteration's row; `acted` is the trainer's state before it, whose agent its episodes are of."""
        ended = int(row.get("rollout/episodes", 0))
        if not ended:
            return
        episodes, total, middle = self.stretch
        episodes, total = episodes + ended, total + ended * float(row["rollout/episode_return"])
        if middle is None and 2 * episodes >= EPISODES:
            middle = {name: acted[name] for name in ACTED}
        self.stretch = Stretch(episodes, total, middle)
        if episodes >= EPISODES:
            self._end()

    def _end(self) -> None:
        episodes, total, middle = self.stretch
        assert middle is not None
        if self.best is None or total / episodes >= self.best["return_mean"]:
            self.best = {"env_steps": middle["env_steps"], "return_mean": total / episodes, "episodes": episodes}
            self.agent = middle
        self.stretch = Stretch()

    def unsaved(self, state: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the best agent's checkpoint, or None if it was returned before; `state` is any of the trainer's."""
        agent, self.agent = self.agent, None
        return agent and {name: state[name] for name in ALWAYS} | agent | {"best_training": self.best}

    def state(self) -> dict[str, Any]:
        """Return what goes on with the run."""
        return {"stretch": tuple(self.stretch), "best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state; its best agent was saved before it."""
        self.stretch, self.best, self.agent = Stretch(*state["stretch"]), state["best"], None
