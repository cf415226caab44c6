"""Make the pictures of "how to read the curves": a healthy run beside runs that were made sick on purpose.

    python scripts/symptoms.py --runs runs/symptoms --figures scripts/results

Every run is a real one (Hopper-v5, 100,000 steps, minutes for all); those that are done are not repeated.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from benchmark_memory import finished
from matplotlib.figure import Figure

from trpo.record.report_figures import decorate, plot
from trpo.record.runs import Run, read_run

COMMON = (
    *("task=hopper", "seed=11", "run.total_steps=100_000", "run.evaluation_episodes=0", "record.profile_every=0"),
    # A textbook run: the defaults are chosen for returns and hide some of this.
    *("trust_region.max_kl=0.01", "trust_region.anneal=0", "trust_region.min_multiplier=0", "trust_region.damping=0.1"),
    "trust_region.relative_damping=0",
    *("policy.initial_log_std=-0.5", "policy.min_log_std=-5", "critic.minibatch_size=256", "env.num_envs=8"),
)


class Symptom(NamedTuple):
    """A way to be ill and the tags that show it."""

    name: str
    title: str
    overrides: tuple[str, ...]
    tags: tuple[str, str]
    log: bool = False  # the first tag on a logarithmic axis


SYMPTOMS = (
    Symptom(
        "max_kl_too_large",
        "δ too large: max_kl=0.5",
        ("trust_region.max_kl=0.5",),
        ("trust_region/kl_error_relative", "trust_region/improvement_ratio"),
    ),
    Symptom(
        "damping_too_small",
        "damping too small: damping=0",
        ("trust_region.damping=0",),
        ("trust_region/cg_residual", "trust_region/kl_error_relative"),
        log=True,
    ),
    Symptom(
        "damping_too_large",
        "damping too large: damping=100",
        ("trust_region.damping=100",),
        ("trust_region/kl_quadratic_damped", "trust_region/cg_iterations"),
        log=True,
    ),
    Symptom(
        "too_few_cg_iterations",
        "too few CG iterations: cg_iterations=1",
        ("trust_region.cg_iterations=1",),
        ("trust_region/cg_residual", "trust_region/expected_improvement"),
        log=True,
    ),
    Symptom(
        "collapsing_std",
        "a collapsed standard deviation: initial_log_std=-3",
        ("policy.initial_log_std=-3",),
        ("trust_region/curvature_max", "policy/std_mean"),
        log=True,
    ),
    Symptom(
        "normalizer_moves_policy",
        "a normaliser that moves the policy: steps_per_iteration=64",
        ("run.steps_per_iteration=64", "run.total_steps=8_000"),
        ("trust_region/normalizer_kl", "trust_region/kl_error_relative"),
        log=True,
    ),
)


def main() -> None:
    """Train what is missing, draw everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/symptoms"), metavar="DIR")
    parser.add_argument("--figures", type=Path, default=Path("."), metavar="DIR")
    options = parser.parse_args()
    healthy = trained(options.runs / "healthy", ())
    for symptom in SYMPTOMS:
        sick = trained(options.runs / symptom.name, symptom.overrides)
        file = options.figures / f"symptom_{symptom.name}.png"
        draw(symptom, healthy, sick).savefig(file, dpi=80)
        print(file)


def trained(directory: Path, overrides: tuple[str, ...]) -> Run:
    """Return the run in a directory, made first, or to its end, if it is not there whole."""
    if not finished(directory):
        target = (f"hydra.run.dir={directory}", "run.resume=auto")
        command = [sys.executable, "-m", "trpo", *COMMON, *overrides, *target]
        subprocess.run(command, check=True)
    return read_run(directory)


def draw(symptom: Symptom, healthy: Run, sick: Run) -> Figure:
    """Return the two telling tags and the return, healthy against sick."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    figure.suptitle(symptom.title)
    for panel, tag in zip(panels, (*symptom.tags, "rollout/episode_return"), strict=True):
        plot(panel, healthy, tag, "healthy", color="tab:blue", linewidth=1)
        plot(panel, sick, tag, "sick", color="tab:red", linewidth=1)
        panel.set(title=tag, xlabel="environment steps", xlim=(0, 1.02 * sick.rows[-1]["env_steps"]))
        decorate(panel)
    if symptom.log:
        panels[0].set_yscale("log")
    return figure


if __name__ == "__main__":
    main()
