"""A run to a model card in the form of the Hugging Face Hub: metadata in YAML, then Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import yaml

from trpo.config import UserError
from trpo.record.intervals import mean_interval
from trpo.record.promises import per_root_nat
from trpo.record.report import SMALLEST_KL, percent, shares_spent
from trpo.record.runs import Run

RETURN_MEAN, RETURN_STD, EPISODES = "evaluation/return_mean", "evaluation/return_std", "evaluation/episodes"
MODE, SAMPLES = "mode", "samples"


class Score(NamedTuple):
    """Returns of whole episodes of one policy, and how they came about."""

    protocol: str  # MODE or SAMPLES
    env_steps: int
    episodes: int
    seed: int  # from which those of the episodes come
    mean: float
    std: float  # over the episodes, of which it takes the mean square

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.std:.2f}"

    @property
    def interval(self) -> str:
        """The 95 % interval of the mean, or a dash if there was one episode."""
        ends = mean_interval(self.mean, self.std, self.episodes)
        return "–" if ends is None else f"{ends[0]:.2f} to {ends[1]:.2f}"


def render_card(run: Run, made: str, anew: Score | None = None) -> str:
    """Return the card of a run, and of how it was `made`, in Markdown; an evaluation made `anew` comes first.

    The metadata has that one, or the last one that the run made if it ended with it.

    Raises `UserError` if the run has no iteration yet.
    """
    if not run.rows:
        raise UserError(f"{run.name} has no iteration yet: there is nothing to say of it")
    last = last_evaluation(run)
    earlier = last is not None and last.env_steps < run.env_steps
    scores = [score for score in (anew, last) if score is not None]
    claimed = [score for score in scores if not (earlier and score is last)][:1]
    template = jinja2.Template(
        (Path(__file__).parent / "card.md.jinja").read_text("utf-8"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    told = {
        "metadata": yaml.safe_dump(metadata(environment_of(run), claimed), sort_keys=False, allow_unicode=True),
        "environment": environment_of(run),
        "scores": scores,
        "earlier": earlier,
        "seed": run.config["seed"],
        "status": run.status,
        "env_steps": run.rows[-1]["env_steps"],
        "made": made,
        "versions": versions(run),
        "health": health(run),
    }
    return str(template.render(told))


def environment_of(run: Run) -> str:
    """Return the id of a run's environment without the module that registers it."""
    return str(run.config["env.id"]).rpartition(":")[2]


def last_evaluation(run: Run) -> Score | None:
    """Return the last evaluation of a run, or None if there was none; earlier versions did not log its episodes."""
    evaluated = [row for row in run.rows if RETURN_MEAN in row]
    if not evaluated:
        return None
    row = evaluated[-1]
    episodes = int(row.get(EPISODES, run.config["run.evaluation_episodes"]))
    return Score(MODE, row["env_steps"], episodes, int(run.config["seed"]), row[RETURN_MEAN], row[RETURN_STD])


def metadata(environment: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Return what the Hub reads: library, tags, and each score as a result of its `model-index`."""
    kind, library = "reinforcement-learning", "trpo"
    results = [
        {
            "task": {"type": kind, "name": kind},
            "dataset": {"name": environment, "type": environment.replace("/", "-")},
            "metrics": [
                {
                    "type": "mean_reward",
                    "name": "mean_reward",
                    "value": f"{score.mean:.2f} +/- {score.std:.2f}",
                    "verified": False,
                }
            ],
        }
        for score in scores
    ]
    told = {"library_name": library, "pipeline_tag": kind, "tags": [environment, f"deep-{kind}", kind, library]}
    return {**told, **({"model-index": [{"name": "TRPO", "results": results}]} if results else {})}


def versions(run: Run) -> str:
    """Return the versions that a run was made with, or nothing if it has not ended."""
    found = {**run.versions, "commit": run.summary.get("git_commit")}
    return ", ".join(f"{name} {version}" for name, version in found.items() if version)


def health(run: Run) -> dict[str, str]:
    """Return what there is to say of the trust region over a run, in words and figures."""
    spent, accepted = shares_spent(run), run.values("trust_region/accepted")
    errors = np.abs([row["trust_region/kl_error_relative"] for row in taken(run)])
    told = (
        {"policy steps": f"{len(accepted):,}, of which {percent(float(np.mean(accepted)))} accepted"}
        if accepted
        else {}
    )
    if spent:
        told["KL spent, as a share of δ"] = (
            f"{percent(float(np.mean(spent)))} in the mean, at most {percent(max(spent))}"
        )
    if len(errors):
        told["error of the Fisher model of the KL, relative"] = (
            f"{percent(float(np.median(errors)))} in the median, at most {percent(float(errors.max()))}"
        )
    gains = per_root_nat(run.rows)
    if gains is not None:
        told["improvement per √nat, in standard deviations of the advantage"] = (
            f"promised {gains.promised:.3f}, kept {gains.kept:.4f} ± {gains.error:.4f}"
        )
    return told


def taken(run: Run) -> list[dict[str, Any]]:
    """Return the rows whose step spent enough that its relative error is no rounding."""
    return [row for row in run.rows if "trust_region/kl_error_relative" in row and row["trust_region/kl"] > SMALLEST_KL]
