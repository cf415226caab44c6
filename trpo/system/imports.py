"""Classes of somebody else's, by name, from installed packages and from the working directory."""

import contextlib
import importlib
import os
import sys
from typing import Any

from trpo.config import UserError


def look_here_too() -> None:
    """Let names be found in modules of the working directory, as `python -m trpo` does, in any process.

    At the end of the path: there a file that is called like somebody else's module does not take its place. Who asked
    Python for safe paths (`PYTHONSAFEPATH`) keeps them.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory has been removed: nothing is found in it
        if not sys.flags.safe_path and os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())


def named_object(name: str, forms: str) -> Any:
    """Return what is called `module:Name`, or `module.Name`.

    Raises `UserError` if the name has none of the `forms`, or the module has nothing of the name, and
    `ModuleNotFoundError` if a module is missing.
    """
    module, _, attribute = name.rpartition(":" if ":" in name else ".")
    if not (module and attribute):
        raise UserError(forms)
    look_here_too()
    found = getattr(importlib.import_module(module), attribute, None)
    if found is None:
        raise UserError(f"{module} has no {attribute}")
    return found
