"""Measure speed, memory and cost as work grows, side by side with peers, in one run.

    pip install 'trpo[peers,envpool]'                       # optional: who is missing is named in the tables
    python scripts/benchmark_speed.py                       # everything: about fifteen minutes on two cores
    python scripts/benchmark_speed.py --only update fisher  # these sections; the others stay as they were
    python scripts/benchmark_speed.py --only training --repetitions 1 --add   # one more round of turns

Writes OUTPUT.json and OUTPUT.md. Contestants take turns (A B C A B C …), so that drift cancels; every figure is the
median of its repetitions, with the least and the greatest. Everybody gets the same work where work is compared: the
same networks and samples, as many CG iterations, as many minibatches. Training rates are those of each project's
own configuration: here the shipped task, composed as the command line composes it; sb3-contrib's defaults, without
normalisation; the settings of tianshou's MuJoCo example. Every training run is a process of its own.

tianshou 2.0.1 asks for an older filelock than constraints.txt has, so install the peers without the constraints.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from speed.machine import describe_machine
from speed.rows import Options, Row, extend, from_data, to_data
from speed.scaling import environments_section, memory_section, samples_section, widths_section
from speed.tables import Ratio, list_table, notes, pivot_table
from speed.targets import targets_table
from speed.training import ranks_section, training_section
from speed.updates import critic_section, fisher_section, update_section


class Section(NamedTuple):
    """One table."""

    title: str
    unit: str
    measure: Callable[[Options], list[Row]]
    ratios: tuple[Ratio, ...] = ()
    fitted: bool = False  # whether cost grows with the first column
    listed: bool = False  # a line for each contestant rather than for each case


PRODUCT_RATIOS = (("trpo", "floor"), ("trpo", "sb3-contrib"), ("trpo", "tianshou"))
SECTIONS = {
    "training": Section("Training rate on HalfCheetah-v5", "env steps/s", training_section, listed=True),
    "ranks": Section("Training rate of one rank and of two", "env steps/s", ranks_section, listed=True),
    "update": Section(
        "One policy update: gradient, 15 CG iterations, line search", "ms", update_section, PRODUCT_RATIOS[1:]
    ),
    "fisher": Section("One Fisher product", "ms", fisher_section, PRODUCT_RATIOS),
    "critic": Section("One critic fit: 10 epochs", "ms", critic_section, PRODUCT_RATIOS[1:2]),
    "samples": Section("Cost over samples, 64×64, one thread", "ms", samples_section, fitted=True),
    "environments": Section(
        "Collection over HalfCheetah-v5 environments", "env steps/s", environments_section, fitted=True
    ),
    "widths": Section("Cost over hidden widths, 2,048 samples, one thread", "ms", widths_section, fitted=True),
    "memory": Section("Peak memory of one policy update, 64×64", "MiB", memory_section),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for, merge it into what is there, write both files."""
    options = make_parser().parse_args(arguments)
    warnings.filterwarnings("ignore", module=r"(tianshou|sb3_contrib|stable_baselines3)\b")
    device = torch.device(options.device)
    chosen = Options(device, 1 if options.quick else options.repetitions, options.quick)
    data_file, table_file = options.output.with_suffix(".json"), options.output.with_suffix(".md")
    data: dict[str, Any] = json.loads(data_file.read_text(encoding="utf-8")) if data_file.exists() else {}
    for name in options.only or SECTIONS:
        print(f"{SECTIONS[name].title} …", file=sys.stderr, flush=True)
        rows = SECTIONS[name].measure(chosen)
        if options.add and name in data:
            rows = extend(from_data(data[name]["rows"]), rows)
        data[name] = {"date": str(date.today()), "machine": describe_machine(device), "rows": to_data(rows)}
        write(data_file, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        write(table_file, report(data))
    print(table_file.read_text(encoding="utf-8"))
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results = Path(__file__).parent / "results" / "speed"
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--repetitions", type=int, default=3, help="rounds that count, at least 1 (default: 3)")
    parser.add_argument(
        "--add", action="store_true", help="to the repetitions in OUTPUT.json, instead of replacing them"
    )
    parser.add_argument("--device", default="cpu", help="of networks and updates: cpu, cuda, cuda:1 (default: cpu)")
    parser.add_argument("--quick", action="store_true", help="one small case each: whether it runs, no figures")
    parser.add_argument("--output", type=Path, default=results, help="without suffix (default: scripts/results/speed)")
    return parser


def write(file: Path, text: str) -> None:
    """Write a file, and its folder if it is not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def report(data: dict[str, Any]) -> str:
    """Return everything that was measured so far, as Markdown."""
    rows = {name: from_data(data[name]["rows"]) for name in SECTIONS if name in data}
    parts = ["Medians, with the least and the greatest in brackets. " + machines(data), targets_table(rows)]
    for name, found in rows.items():
        parts += [f"**{SECTIONS[name].title}**", section_table(SECTIONS[name], found), notes(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def section_table(section: Section, rows: list[Row]) -> str:
    """Return the table of one section."""
    if section.listed:
        return list_table(rows, section.unit)
    return pivot_table(rows, section.unit, section.ratios, fitted=section.fitted)


def machines(data: dict[str, Any]) -> str:
    """Return the machine in one sentence, or one for each if the sections come from several."""
    described = dict.fromkeys(
        ", ".join(f"{name} {value}" for name, value in part["machine"].items()) for part in data.values()
    )
    return " Also: ".join(f"{text}." for text in described)


if __name__ == "__main__":
    sys.exit(main())
