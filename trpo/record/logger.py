"""One metrics row per iteration, to TensorBoard and to `metrics.jsonl`."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from trpo.record.run_directory import METRICS

# Chart titles to tags. TensorBoard matches these as regular expressions from the start of a tag: without the $,
# `trust_region/kl` would draw every tag that begins so.
LAYOUT = {
    "trust region": {
        "KL: spent, predicted, allowed": [
            "trust_region/kl$",
            "trust_region/kl_quadratic$",
            "trust_region/max_kl$",
        ],
        "approximation error": ["trust_region/kl_error$"],
        "approximation error, relative": ["trust_region/kl_error_relative$"],
        "full step: KL, quadratic": ["trust_region/kl_full_step$", "trust_region/kl_quadratic_full_step$"],
        "surrogate improvement: actual / expected": ["trust_region/improvement_ratio$"],
        "step fraction": ["trust_region/step_fraction$"],
    },
    "learning": {
        "return": ["rollout/episode_return$", "evaluation/return_mean$"],
        "explained variance": [
            "critic/explained_variance_before$",
            "critic/explained_variance_after$",
        ],
    },
    "solver": {
        "relative residual": ["trust_region/cg_residual$"],
        "curvature": ["trust_region/curvature_max$", "trust_region/curvature_min$"],
    },
}


SWEEP_METRICS = ("evaluation/return_mean", "rollout/episode_return", "trust_region/kl_error_relative")


class Logger:
    """Writes rows; a number whose key has a slash is a TensorBoard tag."""

    def __init__(
        self, directory: Path, hyperparameters: Mapping[str, str | int | float | bool], purge_step: int | None = None
    ) -> None:
        self.file = open(directory / METRICS, "a", encoding="utf-8")  # noqa: SIM115, closed in __exit__
        self.writer = SummaryWriter(str(directory), purge_step=purge_step)  # hides what a resumed run repeats
        self.writer.add_custom_scalars(
            {title: {chart: ["Multiline", tags] for chart, tags in charts.items()} for title, charts in LAYOUT.items()}
        )
        for summary in hparams(dict(hyperparameters), dict.fromkeys(SWEEP_METRICS, 0.0)):
            self.writer._get_file_writer().add_summary(summary)  # add_hparams() would open a run of its own

    def __enter__(self) -> "Logger":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        self.writer.close()

    def write(self, row: dict[str, float | str], *, env_steps: int) -> None:
        """Write one row and flush it: a watcher sees it now, a crash does not lose it.

        Raises `ValueError` if a number is not finite: JSON has no NaN and a chart has no place for it.
        """
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()
        for tag, value in row.items():
            if "/" in tag:
                self.writer.add_scalar(tag, value, env_steps)
        self.writer.flush()

    def draw(self, tag: str, figure: Figure, *, env_steps: int) -> None:
        """Write a figure."""
        self.writer.add_figure(tag, figure, env_steps, close=False)
