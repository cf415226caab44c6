"""The command `trpo-export`: a trained policy as one file that others run."""

import argparse
from pathlib import Path

from trpo.commands.exit_codes import command, refuse
from trpo.compared import CHECKED
from trpo.exported import export as export_agent
from trpo.record.exports import format_of
from trpo.record.targets import check_target
from trpo.trained import load


@command("trpo-export")
def export(arguments: list[str]) -> int:
    """Export the policy of a run and print how far the file is from the agent."""
    options = export_parser().parse_args(arguments)
    format_of(options.file.suffix)  # before a large checkpoint is read
    check_target(options.file, force=options.force)
    written = export_agent(load(options.run), options.file, force=options.force)
    print(f"{written.file}: {written.size / 1024:,.0f} KiB; {comparison(written.difference)}")
    return 0


def comparison(difference: float | None) -> str:
    """Return in words how far a file is from its agent."""
    if difference is None:
        return "not compared with the agent: that needs onnxruntime, pip install 'trpo[export]'"
    return f"largest difference from the agent in {CHECKED:,} random observations: {difference:.2g}"


def export_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-export`."""
    parser = argparse.ArgumentParser(
        prog="trpo-export",
        description="One file, from raw observations to the environment's actions (the policy's mode), any batch.",
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="where trpo-train wrote the run, or a checkpoint")
    parser.add_argument("file", type=Path, metavar="FILE", help="policy.onnx or policy.pt2")
    parser.add_argument("--force", action="store_true", help="overwrite FILE if it exists")
    return parser
