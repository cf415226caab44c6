"""A signal asks for an orderly end: the iteration is finished, saved and summed up."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from tiny_runs import PATIENCE, TINY, checkpoints, environment_variables, has_lines, has_rows, rows, summary

from trpo.record import checkpoint
from trpo.system.signals import STOPPING, StopRequest

ENDLESS = ["task=cartpole", *TINY, "run.total_steps=100_000_000", "run.evaluate_every=0", "run.checkpoint_every=0"]


AT_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # of what is standard input: its end is a SIGHUP for this process
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture(autouse=True)
def not_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def start(tmp_path):
    """Starts an endless run, and sees to its end."""
    processes = []

    def start(*arguments, flags=(), before=(), **streams):
        command = [sys.executable, *before, "-m", "trpo", *flags, *ENDLESS, *arguments]
        streams = streams or {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, cwd=tmp_path, env=environment_variables(), text=True, **streams))
        return processes[-1]

    yield start
    for training in processes:
        training.kill()
        training.communicate()  # which closes its pipes, too


def wait(training, when):
    """Wait until something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not when():
        assert training.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def stop(training, number, when):
    """Send a signal when something has happened; return what the process said on stderr."""
    wait(training, when)
    training.send_signal(number)
    return training.communicate(timeout=PATIENCE)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR2, 140)])
def test_a_signal_ends_a_run_after_its_iteration_with_a_checkpoint_and_a_summary(number, code, start, tmp_path):
    run = tmp_path / "run"
    training = start("hydra.run.dir=run")
    errors = stop(training, number, lambda: has_rows(run, 2))
    assert (training.returncode, errors) == (code, "")
    assert summary(run)["exit_reason"] == number.name
    last = rows(run)[-1]
    assert summary(run)["env_steps"] == last["env_steps"]
    assert summary(run)["iterations"] == last["iteration"]
    (saved,) = checkpoints(run)
    assert checkpoint.load(saved)["env_steps"] == last["env_steps"]


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_a_run_as_a_signal_does_though_nothing_can_be_said(start, tmp_path):
    run = tmp_path / "run"
    ours, its = os.openpty()
    os.set_blocking(ours, False)
    words = ("hydra.run.dir=run", "env.backend=async")  # whose processes the terminal tells as well
    training = start(*words, before=("-c", AT_A_TERMINAL), stdin=its, stdout=its, stderr=its)
    os.close(its)

    def shown_and_written():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 16)
        return has_rows(run, 2)

    wait(training, shown_and_written)
    os.close(ours)
    assert training.wait(timeout=PATIENCE) == 129
    assert summary(run)["exit_reason"] == "SIGHUP"
    assert summary(run)["iterations"] == rows(run)[-1]["iteration"]
    assert len(checkpoints(run)) == 1
    assert "WARNING" not in (run / "train.log").read_text()


def test_under_nohup_a_run_hears_nothing_of_its_terminal():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.slow
def test_a_signal_during_the_warm_up_still_leaves_a_checkpoint_and_a_summary(start, tmp_path):
    run = tmp_path / "run"
    training = start("hydra.run.dir=run", "run.steps_per_iteration=5_000", "critic.minibatch_size=5_000")
    stop(training, signal.SIGTERM, lambda: has_lines(run / "train.log", 3))
    assert training.returncode == 143
    assert summary(run)["iterations"] == 1
    assert len(checkpoints(run)) == 1


@pytest.mark.slow
def test_a_signal_ends_a_sweep_after_the_job_under_way(start, tmp_path):
    first = tmp_path / "sweep" / "0"
    training = start("hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}", "seed=0,1", flags=["-m"])
    errors = stop(training, signal.SIGTERM, lambda: has_rows(first, 2))
    assert (training.returncode, errors) == (143, "")
    assert summary(first)["exit_reason"] == "SIGTERM"
    assert not (tmp_path / "sweep" / "1").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP])
def test_the_first_signal_is_only_remembered(number):
    with StopRequest() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received is number


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_another_signal_interrupts_at_once(first):
    with StopRequest():
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_repeated_sigterm_stays_a_request():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stop.received is signal.SIGTERM


def test_who_asked_to_be_told_hears_of_every_signal():
    told = []
    with StopRequest(told.append):
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.raise_signal(number)
    assert told == ["SIGUSR2", "SIGTERM"]


def test_those_entered_one_in_the_other_all_remember():
    with StopRequest() as outer:
        with StopRequest() as middle, StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
        with StopRequest() as later:
            assert later.received is signal.SIGTERM
    assert [stop.received for stop in (outer, middle, inner)] == [signal.SIGTERM] * 3


def test_the_handlers_of_before_come_back():
    before = [signal.getsignal(number) for number in STOPPING]
    with StopRequest():
        assert all(signal.getsignal(number) != old for number, old in zip(STOPPING, before, strict=True))
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_another_thread_can_run_without_handling_signals():
    requested = []

    def enter():
        with StopRequest() as stop:
            requested.append(stop.received is not None)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert requested == [False]
