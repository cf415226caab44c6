"""How a command ends: one exit code, and one line for a mistake."""

import functools
import sys
from collections.abc import Callable
from typing import NoReturn

from trpo.config import UserError

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
    try:
        return function(arguments)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # before or after the run itself: a rank that is gone, a disk that filled up
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def refuse(message: str) -> NoReturn:
    """Raise what argparse has to say as a `UserError`: one line instead of its usage."""
    raise UserError(f"{message}; --help lists what there is")
