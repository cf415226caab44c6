"""The command `trpo-report`: runs to one page."""

import argparse
import sys
from pathlib import Path

from trpo.commands.exit_codes import command, refuse
from trpo.config import UserError
from trpo.record.run_directory import TRIAL


@command("trpo-report")
def report(arguments: list[str]) -> int:
    """Write the report of the runs in some directories and print where it is."""
    options = report_parser().parse_args(arguments)
    try:
        from trpo.record.report import write_report
        from trpo.record.runs import find_runs
    except ModuleNotFoundError as error:
        raise UserError(f"trpo-report needs {error.name}: pip install 'trpo[report]'") from error
    searches = [file for folder in options.directories if (file := figure_of_search(folder)).is_file()]
    warnings: list[str] = []
    runs = find_runs(options.directories, warnings)
    for warning in warnings:
        print(f"trpo-report: {warning}", file=sys.stderr)
    print(write_report(runs, options.output, searches, warnings))
    return 0


def figure_of_search(folder: Path) -> Path:
    """Return where the figure of a search with its trials in a folder is; of another folder that is no file."""
    return folder.parent / f"{folder.name}.png" if any(folder.glob(f"{TRIAL}*")) else folder


def report_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-report`."""
    parser = argparse.ArgumentParser(
        prog="trpo-report", description="Runs, or a whole sweep, to figures, tables and one self-contained HTML page."
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="runs, or folders that hold runs")
    parser.add_argument("--output", type=Path, default=Path("report"), metavar="DIR", help="default: report")
    return parser
