"""Lines that the documentation tells people to type, understood by the commands themselves; nothing is trained."""

import argparse
import glob
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path
from unittest.mock import patch

import pytest
from pages import ROOT, read
from torch.distributed.run import get_args_parser as torchrun_parser

from trpo.commands.evaluate import evaluation_parser
from trpo.commands.launch import checked_plans, parse
from trpo.commands.report import report
from trpo.commands.search import checked_search, search_parser
from trpo.commands.train import train
from trpo.record.run_directory import check_is_run

PLACEHOLDER = "RUN_DIR"  # the only one


def check_command(line, run):
    """Fail unless the line can be typed; `run` is a run directory, and stands for the placeholder."""
    if words := list(words_of(line, run)):
        assert words[0] in CHECKS, f"{words[0]}: a kind of command that nothing here checks"
        CHECKS[words[0]](words[1:])


def words_of(line, run):
    """The words of a line as a shell would pass them on: without its comment, patterns of files expanded."""
    for word in shlex.split(line.replace(PLACEHOLDER, str(run)), comments=True):
        if not word.startswith(str(run)):
            yield word
        elif found := sorted(glob.glob(word)):
            yield from found
        else:
            raise AssertionError(f"a run leaves no {word}")


def check_train(arguments):
    if "--help" in arguments:
        assert train(arguments) == 0
        return
    options = parse(arguments)
    assert checked_plans(options) or options.cfg


def check_evaluate(arguments):
    check_is_run(evaluation_parser().parse_args(arguments).run_directory)


def check_search(arguments):
    assert checked_search(search_parser().parse_intermixed_args(arguments)) is not None


def check_report(arguments):
    assert report(arguments) == 0


def check_make(targets):
    assert {*targets} <= {*re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE)}


class ParsedError(Exception):
    """A script has understood its arguments, and is not to go on."""


def only_parse(parser, arguments=None, namespace=None):
    _, unknown = parser.parse_known_args(arguments)
    assert not unknown
    raise ParsedError


def check_python(arguments):
    """A script without a parser takes no arguments; any other is run until it has parsed its own."""
    if arguments[:2] == ["-m", "trpo"]:
        check_train(arguments[2:])
        return
    script, *others = arguments
    assert script.startswith("scripts/")
    if "ArgumentParser" not in read(ROOT / script):
        assert others == []
        return
    parse_only = patch.object(argparse.ArgumentParser, "parse_args", only_parse)
    with parse_only, patch.object(sys, "argv", arguments), pytest.raises(ParsedError):
        importlib.import_module(Path(script).stem).main()


def check_torchrun(arguments):
    options = torchrun_parser().parse_args(arguments)
    assert (options.module, options.training_script) == (True, "trpo")
    check_train(options.training_script_args)


def check_pip(arguments):
    """Nothing is installed but the package, with extras that it has, and torch."""
    action, *requirements = arguments
    assert action == "install"
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    for requirement in requirements:
        asked = re.fullmatch(r"trpo\[(.+)\]", requirement)
        assert {*asked[1].split(",")} <= {*extras} if asked else requirement in (".", "torch")


def check_source(arguments):
    assert arguments == [".venv/bin/activate"]  # which the Makefile makes


CHECKS = {
    "trpo-train": check_train,
    "trpo-evaluate": check_evaluate,
    "trpo-search": check_search,
    "trpo-report": check_report,
    "make": check_make,
    "python": check_python,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "source": check_source,
}
