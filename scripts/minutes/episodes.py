"""Episodes as they end: the lines of a file that grows, and when the mean of the last ones passed a threshold.

A line has the keys of this project's `metrics.jsonl`, for the peers too: the clock on the wall, the environment steps
so far, and the mean return of so many episodes that have just ended, each of which the mean stands for.
"""

import json
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

WINDOW = 20  # episodes
MOST_POINTS = 200  # of a curve that is kept
RETURN, EPISODES = "rollout/episode_return", "rollout/episodes"


class Point(NamedTuple):
    """Where a run was when episodes ended."""

    seconds: float  # since its process began
    env_steps: int
    mean: float  # of the last WINDOW episodes, or of all if there were fewer


def write_episode(file: TextIO, env_steps: int, episode_return: float) -> None:
    """Write one episode that has just ended."""
    row = {"wall_time": time.time(), "env_steps": env_steps, RETURN: episode_return, EPISODES: 1}
    print(json.dumps(row), file=file, flush=True)


class Tail:
    """What was written to a file since it was last asked for; the file need not be there yet."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.place = 0  # in bytes: all lines before it were returned

    def rows(self) -> list[dict[str, Any]]:
        """Return the new lines, but for a last one that is still being written."""
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            file.seek(self.place)
            written = file.read()
        whole = written[: written.rfind(b"\n") + 1]
        self.place += len(whole)
        return [json.loads(line) for line in whole.splitlines()]


class Course:
    """How the mean of the last episodes of one run went, until it passed its last threshold or its time was over."""

    def __init__(self, thresholds: Sequence[int], *, started: float, limit: float) -> None:
        self.started, self.limit = started, limit
        self.passed: dict[int, float | None] = dict.fromkeys(thresholds)  # seconds
        self.curve: list[Point] = []
        self.env_steps = 0
        self._last: deque[float] = deque(maxlen=WINDOW)

    @property
    def complete(self) -> bool:
        """Whether every threshold was passed."""
        return None not in self.passed.values()

    def take(self, rows: Iterable[dict[str, Any]]) -> None:
        """Go on with new lines; what came after the end is left out."""
        for row in rows:
            seconds = row["wall_time"] - self.started
            if self.complete or seconds > self.limit:
                return
            self.env_steps = row["env_steps"]
            if row[EPISODES]:
                self._last.extend([row[RETURN]] * min(int(row[EPISODES]), WINDOW))
                self._reach(Point(seconds, self.env_steps, sum(self._last) / len(self._last)))

    def _reach(self, point: Point) -> None:
        if self.curve and self.curve[-1].env_steps == point.env_steps:
            self.curve.pop()  # of episodes that end together, the last one's mean is that of all
        self.curve.append(point)
        if len(self._last) == WINDOW:
            for threshold, seconds in self.passed.items():
                if seconds is None and point.mean > threshold:
                    self.passed[threshold] = point.seconds

    def result(self) -> dict[str, Any]:
        """Return what a result says of it, rounded to what it is worth."""
        points = [[round(point.seconds, 2), point.env_steps, round(point.mean, 1)] for point in thinned(self.curve)]
        return {
            "seconds": {str(one): None if at is None else round(at, 2) for one, at in self.passed.items()},
            "final_mean": points[-1][2] if points else None,
            "env_steps": self.env_steps,
            "curve": points,
        }


def thinned(curve: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most so many points of a curve at even distances, with the first and the last."""
    if len(curve) <= most:
        return curve
    return [curve[round(place * (len(curve) - 1) / (most - 1))] for place in range(most)]
