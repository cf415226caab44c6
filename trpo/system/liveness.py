"""Whether a process still lives: a number alone says little, for it is given to another one later."""

import os
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Identity(NamedTuple):
    """A process, told apart from all that ever were."""

    host: str
    pid: int
    started: str


def own_identity() -> Identity:
    """Return that of this process."""
    return Identity(socket.gethostname(), os.getpid(), started(os.getpid()) or "")


def is_dead(identity: Identity) -> bool:
    """Return whether a process of this host has ended; of those of other hosts nothing is known."""
    return identity.host == socket.gethostname() and started(identity.pid) != identity.started


def started(pid: int) -> str | None:
    """Return when a process of this host started, in the system's own words, or None if it is no more."""
    words = of_proc(pid) if (PROC / "self" / "stat").exists() else of_ps(pid)
    return None if words is None or words[0].startswith(("Z", "X")) else " ".join(words[1:])  # killed, not yet buried


def of_proc(pid: int) -> list[str] | None:
    """Return the state of a process and the ticks from the machine's start to its own, as Linux has them."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()  # the name may hold anything
    except OSError:
        return None
    return [fields[0], fields[19]]


def of_ps(pid: int) -> list[str] | None:
    """Return the state of a process and its date, as `ps` has them."""
    answer = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    return answer.stdout.split() or None
