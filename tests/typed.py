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

from trpo.commands.card import card_parser
from trpo.commands.evaluate import evaluation_parser
from trpo.commands.export import export_parser
from trpo.commands.launch import composed, parse
from trpo.commands.plans import check_jobs
from trpo.commands.report import report
from trpo.commands.search import checked_search, search_parser
from trpo.commands.train import train
from trpo.record.exports import FORMATS
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
    assert check_jobs(composed(options), multirun=options.multirun) or options.cfg or options.shell_completion


def check_evaluate(arguments):
    check_is_run(evaluation_parser().parse_args(arguments).run_directory)


def check_export(arguments):
    options = export_parser().parse_args(arguments)
    check_is_run(options.run)
    assert options.file.suffix in FORMATS


def check_card(arguments):
    check_is_run(card_parser().parse_args(arguments).run_directory)


def check_hub(arguments):
    """A run directory to a repository of somebody's."""
    action, repository, directory = arguments
    assert (action, repository.count("/")) == ("upload", 1)
    check_is_run(Path(directory))


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


def check_eval(arguments):
    """What a program prints for the shell."""
    (printed,) = (re.fullmatch(r"\$\((.*)\)", argument) for argument in arguments)
    check_command(printed[1], None)


def check_source(arguments):
    assert arguments == [".venv/bin/activate"]  # which the Makefile makes


CHECKS = {
    "trpo-train": check_train,
    "trpo-evaluate": check_evaluate,
    "trpo-search": check_search,
    "trpo-report": check_report,
    "trpo-export": check_export,
    "trpo-card": check_card,
    "hf": check_hub,
    "make": check_make,
    "python": check_python,
    "torchrun": check_torchrun,
    "pip": check_pip,
    "source": check_source,
    "eval": check_eval,
}
