"""How a command ends: one exit code, and one line for a mistake."""

import functools
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from trpo.config import UserError
from trpo.system.streams import give_up, let_names_through, say

CLOSED_PIPE = 128 + signal.SIGPIPE  # what a shell reports for a program that one has ended

Command = Callable[[list[str]], int]


def command(name: str) -> Callable[[Command], Callable[..., int]]:
    """Make a function of its arguments the command `name`; without arguments it takes those of the process."""

    def decorate(function: Command) -> Callable[..., int]:
        @functools.wraps(function)
        def run(arguments: list[str] | None = None) -> int:
            return reported(name, function, sys.argv[1:] if arguments is None else arguments)

        return run

    return decorate


def reported(name: str, function: Command, arguments: list[str]) -> int:
    """Return the exit code of a command: one line and code 2 for a mistake, code 1 for a disk or a rank that failed."""
    let_names_through(sys.stdout)
    try:
        try:
            return function(arguments)
        finally:
            print(end="", flush=True)  # what is left to the end of the process fails there with a traceback
    except UserError as error:
        return said(f"{name}: {error}", 2)
    except BrokenPipeError:  # `| head` has read enough
        give_up(sys.stdout)
        return CLOSED_PIPE
    except OSError as error:  # before or after the run itself: a rank that is gone, a disk that filled up
        return said(f"{name}: {error}", 1)
    except KeyboardInterrupt:
        return said(f"{name}: interrupted", 130)


def said(line: str, code: int) -> int:
    """Return an exit code after the line that explains it."""
    say(line, sys.stderr)
    return code


def refuse(message: str) -> NoReturn:
    """Raise what argparse has to say as a `UserError`: one line instead of its usage."""
    raise UserError(f"{message}; --help lists what there is")
