"""Files that are whole or not there."""

import os
from pathlib import Path


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write `data` so that `path` holds all of it, or what it held before, whatever happens meanwhile.

    A temporary file in the same directory, flushed to disk, then renamed. Of a link what it leads to is written. Raises
    `OSError` if there is no room.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
