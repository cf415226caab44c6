"""How long the parts of an iteration took."""

import time


class Laps:
    """The seconds that each part of an iteration took."""

    def __init__(self) -> None:
        self.started = self.latest = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self.latest
        self.latest = now

    def leave_out(self) -> None:
        """Book the time since the last lap nowhere, the total included."""
        now = time.perf_counter()
        self.started += now - self.latest
        self.latest = now

    def figures(self, env_steps: int) -> dict[str, float]:
        """Return every lap, the total so far and the rate."""
        total = time.perf_counter() - self.started
        return {**self.seconds, "total": total, "steps_per_second": env_steps / total}
