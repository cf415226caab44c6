"""One metrics row per iteration, to TensorBoard and to `metrics.jsonl`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams, scalar

from trpo.record import mirror
from trpo.record.run_directory import METRICS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def tags(group: str, *names: str) -> list[str]:
    """Return tags as the anchored regular expressions that TensorBoard matches from the start of each tag.

    Without the $, `trust_region/kl` would draw every tag that begins so.
    """
    return [f"{group}/{name}$" for name in names]


# Chart titles to tags.
LAYOUT = {
    "trust region": {
        "KL: spent, predicted, allowed": tags("trust_region", "kl", "kl_quadratic", "max_kl"),
        "approximation error, step taken": tags("trust_region", "kl_error"),
        "approximation error, relative": tags("trust_region", "kl_error_relative"),
        "approximation, full step: exact, quadratic": tags("trust_region", "kl_full_step", "kl_quadratic_full_step"),
        "step fraction": tags("trust_region", "step_fraction"),
        "backtracks": tags("trust_region", "backtracks"),
        "surrogate improvement: actual / expected": tags("trust_region", "improvement_ratio"),
        "gain per √nat: promised, kept ± 2 errors": tags(
            "trust_region",
            *("promised_per_root_nat", "kept_per_root_nat", "kept_per_root_nat_low", "kept_per_root_nat_high"),
        ),
        "gain so far: promised, kept": tags("trust_region", "improvement_promised_sum", "improvement_kept_sum"),
        "KL that the normaliser caused": tags("trust_region", "normalizer_kl", "max_kl"),
    },
    "solver": {
        "relative residual": tags("trust_region", "cg_residual"),
        "iterations": tags("trust_region", "cg_iterations"),
        "curvature: largest, smallest": tags("trust_region", "curvature_max", "curvature_min"),
    },
    "learning": {
        "return": [*tags("rollout", "episode_return"), *tags("evaluation", "return_mean")],
        "explained variance": [
            *tags("critic", "explained_variance_before", "explained_variance_after"),
            *tags("action_values", "explained_variance"),
        ],
        "action values: data of other policies, clipped actions": tags("action_values", "trace_mean", "clipped_share"),
    },
}
SWEEP_METRICS = ("evaluation/return_mean", "rollout/episode_return", "trust_region/kl_error_relative")


class Logger:
    """Writes rows; a number whose key has a slash is a TensorBoard tag."""

    def __init__(
        self, directory: Path, hyperparameters: Mapping[str, str | int | float | bool], purge_step: int | None = None
    ) -> None:
        project = str(hyperparameters.get("record.wandb", ""))
        self.mirror = mirror.start(directory, project, hyperparameters) if project else None  # before what it mirrors
        self.file = open(directory / METRICS, "a", encoding="utf-8")  # noqa: SIM115, closed in __exit__
        self.writer = SummaryWriter(str(directory), purge_step=purge_step)  # hides what a resumed run repeats
        self._events: Any = self.writer._get_file_writer()
        self.writer.add_custom_scalars(
            {title: {chart: ["Multiline", tags] for chart, tags in charts.items()} for title, charts in LAYOUT.items()}
        )
        for summary in hparams(dict(hyperparameters), dict.fromkeys(SWEEP_METRICS, 0.0)):
            self._events.add_summary(summary)  # add_hparams() would open a run of its own

    def __enter__(self) -> "Logger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.writer.close()
        if self.mirror is not None:
            self.mirror.finish(exit_code=int(kind is not None))

    def write(self, row: dict[str, float | str], *, env_steps: int) -> None:
        """Write one row and flush it: a watcher sees it now, a crash does not lose it.

        Raises `ValueError` if a number is not finite: JSON has no NaN and a chart has no place for it.
        """
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()
        scalars = [scalar(tag, value).value[0] for tag, value in row.items() if "/" in tag]
        self._events.add_summary(Summary(value=scalars), env_steps)  # one event for all: a third of the time
        self.writer.flush()

    def sync(self) -> None:
        """Bring the rows to disk, where a machine that crashes does not lose them. Raises `OSError` if it is full."""
        os.fsync(self.file.fileno())  # what `write` has flushed

    def draw(self, tag: str, figure: "Figure", *, env_steps: int) -> None:
        """Write a figure."""
        self.writer.add_figure(tag, figure, env_steps, close=False)
