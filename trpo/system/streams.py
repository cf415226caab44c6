"""What is printed for somebody who may be gone: behind a pipe that was closed, or at a terminal that was."""

import io
import os
from contextlib import suppress
from typing import TextIO


def say(line: str, stream: TextIO) -> None:
    """Print a line. That nobody reads it any more is no error: the work goes on."""
    try:
        print(line, file=stream, flush=True)
    except OSError:
        give_up(stream)


def let_names_through(stream: TextIO) -> None:
    """Print names of files that are not UTF-8 with the bytes that they have, as the next command wants them."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="surrogateescape")


def give_up(stream: TextIO) -> None:
    """Send what is still to be written nowhere, or Python would try again at its end and fail."""
    with suppress(OSError):  # of a stream without a file
        number = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)
