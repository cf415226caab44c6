"""The progress bar."""

import sys
from types import TracebackType

from tqdm import tqdm

from trpo.config import Config


class Progress:
    """A bar over environment steps with the numbers that matter; nothing where nobody watches."""

    def __init__(self, config: Config, *, done: int = 0) -> None:
        self.bar = tqdm(
            total=config.run.total_steps,
            initial=done,
            unit=" steps",
            desc=config.env.id,
            dynamic_ncols=True,
            disable=not (config.record.progress and sys.stderr.isatty()),
        )
        self.latest_return = "–"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def show(self, row: dict[str, float | str]) -> None:
        """Move the bar to the row's steps; the return is that of the latest iteration in which an episode ended."""
        if "rollout/episode_return" in row:
            self.latest_return = f"{row['rollout/episode_return']:.1f}"
        kl = f"{row['trust_region/kl']:.4f} of {row['trust_region/max_kl']:g}" if "trust_region/kl" in row else "–"
        self.bar.set_postfix_str(f"return {self.latest_return}, KL {kl}", refresh=False)
        self.bar.total = max(self.bar.total or 0, int(row["env_steps"]))
        self.bar.update(int(row["env_steps"]) - self.bar.n)
