"""Draw one run's trust region from its metrics.jsonl: what was spent, what was predicted, what it bought.

python scripts/kl_curves.py RUN_DIR --figure kl.png
"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Rows = list[dict[str, float]]


def main() -> None:
    """Read the run and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_directory", type=Path, metavar="RUN_DIR")
    parser.add_argument("--figure", type=Path, default=Path("kl_curves.png"), metavar="FILE")
    options = parser.parse_args()
    lines = (options.run_directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    config = yaml.safe_load((options.run_directory / "config.yaml").read_text(encoding="utf-8"))
    title = f"{config['env']['id']}, seed {config['seed']}: one policy step per iteration"
    figure = draw([json.loads(line) for line in lines], title)
    figure.savefig(options.figure, dpi=120)
    print(options.figure)


def draw(rows: Rows, title: str) -> Figure:
    """Return three panels over environment steps: the KL, the error of its approximation, the return."""
    figure, (top, middle, bottom) = plt.subplots(
        3, 1, figsize=(9, 7.5), sharex=True, height_ratios=(3, 2, 2), layout="constrained"
    )
    plot(top, rows, "trust_region/max_kl", "allowed: δ", color="black", linestyle="--", linewidth=1)
    plot(top, rows, "trust_region/kl_full_step", "exact KL of the full step", color="tab:gray", linewidth=0.8)
    plot(top, rows, "trust_region/kl_quadratic", "predicted: ½ΔᵀFΔ", color="tab:orange")
    plot(top, rows, "trust_region/kl", "spent: exact KL", color="tab:blue")
    top.set(ylabel="KL(old ‖ new), nats")
    figure.legend(*top.get_legend_handles_labels(), loc="outside upper center", ncols=4, title=title)

    middle.axhline(0, color="black", linewidth=1)
    plot(middle, rows, "trust_region/kl_error_relative", "", color="tab:red")
    middle.set(ylabel="(spent − predicted) / spent")
    middle.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")

    plot(bottom, rows, "rollout/episode_return", "training episodes", color="tab:green", linewidth=0.8)
    plot(bottom, rows, "evaluation/return_mean", "evaluation, mode of the policy", color="darkgreen", marker="o")
    bottom.set(ylabel="return", xlabel="environment steps")
    bottom.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    bottom.legend(loc="lower right")
    for panel in (top, middle, bottom):
        panel.grid(alpha=0.3)
    return figure


def plot(panel: Axes, rows: Rows, tag: str, label: str, **style: object) -> None:
    """Draw a tag over environment steps where it exists."""
    points = [(row["env_steps"], row[tag]) for row in rows if tag in row]
    panel.plot([x for x, _ in points], [y for _, y in points], label=label, **style)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
