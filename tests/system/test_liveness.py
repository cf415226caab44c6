"""A process is known by more than its number, and whether it still lives can be told."""

import os
import subprocess
import sys
import time

import pytest

from trpo.system import liveness
from trpo.system.liveness import Identity, is_dead, own_identity, started


@pytest.fixture(params=["proc", "ps"])
def source(request, monkeypatch, tmp_path):
    """Either way to ask."""
    if request.param == "ps":
        monkeypatch.setattr(liveness, "PROC", tmp_path)
        answers = {os.getpid(): "S Tue Nov 24 10:00:00 2026\n", 2**22 + 7: ""}
        told = lambda command, **_: subprocess.CompletedProcess(command, 0, answers.get(int(command[-1]), "Z x\n"))  # noqa: E731
        monkeypatch.setattr(liveness.subprocess, "run", told)
    elif not (liveness.PROC / "self" / "stat").exists():
        pytest.skip("no /proc")


def test_this_process_lives_and_another_with_its_number_would_not(source):
    own = own_identity()
    assert own.pid == os.getpid()
    assert own.started
    assert not is_dead(own)
    assert is_dead(own._replace(started=f"{own.started}1"))


def test_one_that_never_was_is_dead_but_of_other_hosts_nothing_is_known(source):
    nobody = own_identity()._replace(pid=2**22 + 7)
    assert started(nobody.pid) is None
    assert is_dead(nobody)
    assert not is_dead(nobody._replace(host=f"not-{nobody.host}"))


def test_one_that_was_killed_is_dead_before_and_after_it_is_buried(source):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity(own_identity().host, child.pid, started(child.pid) or "")
    child.kill()
    deadline = time.monotonic() + 10
    while not is_dead(identity):
        assert time.monotonic() < deadline
    child.communicate()
    assert is_dead(identity)


def test_two_processes_differ():
    if not (liveness.PROC / "self" / "stat").exists():
        pytest.skip("no /proc")
    time.sleep(0.02)  # a tick of the clock that starts are counted in is a hundredth of a second
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert started(child.pid) != started(os.getpid())
        child.communicate(b"\n")
