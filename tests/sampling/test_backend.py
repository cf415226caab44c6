"""Processes that hang, die and are signalled; none is left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import PATIENCE, TINY, checkpoints, environment_variables, has_rows, rows, summary

from trpo.commands.train import train
from trpo.config import EnvConfig
from trpo.record import checkpoint
from trpo.sampling.backend import Backend
from trpo.sampling.environments import Environments

ACTIONS = np.zeros(3, dtype=np.int64)


pytestmark = pytest.mark.filterwarnings("ignore:.*Calling `close` while waiting")


@pytest.fixture(autouse=True)
def signals():
    """Those of a fresh process, whatever a test before did to them."""
    numbers = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make():
    made = []

    def function(fault="none", at=3, timeout=0.0):
        config = EnvConfig(
            id="faulty:Faulty-v0", backend="async", num_envs=3, timeout=timeout, kwargs={"fault": fault, "at": at}
        )
        made.append(Backend(config))
        made[-1].reset(seed=[0, 1, 2])
        return made[-1]

    yield function
    for backend in made:
        backend.close()
        backend.envs.closed = True  # the test below with real processes sees what a finaliser prints


def members_of(group):
    """The processes of a process group, zombies aside."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = status.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == group and state != "Z":
            found.append(int(status.parent.name))
    return found


def steps_until_failure(backend):
    with pytest.raises(RuntimeError) as failed:
        [backend.step(ACTIONS) for _ in range(10)]
    return str(failed.value)


def test_a_hanging_process_is_given_the_timeout_and_no_more(make):
    backend = make("hang", timeout=0.5)
    started = time.monotonic()
    assert steps_until_failure(backend) == "an environment did not answer within env.timeout=0.5 s"
    backend.close()
    assert 0.5 <= time.monotonic() - started < 5
    assert not multiprocessing.active_children()


def test_a_killed_process_is_told_from_a_hanging_one(make):
    backend = make("die", timeout=20.0)
    started = time.monotonic()
    assert "the process of an environment died" in steps_until_failure(backend)
    backend.close()
    assert time.monotonic() - started < 5
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("victim", [0, 2])
def test_a_process_killed_from_outside_ends_the_run_with_a_sentence(make, victim):
    backend = make()
    backend.step(ACTIONS)
    os.kill(backend.envs.processes[victim].pid, signal.SIGKILL)
    assert "the process of an environment died" in steps_until_failure(backend)


def test_without_a_timeout_a_slow_environment_is_waited_for(make):
    assert make(timeout=0.0).timeout is None
    assert len(make(timeout=20.0).step(ACTIONS)[0]) == 3


def test_the_processes_of_environments_ignore_the_signals_that_stop_a_run(make):
    backend = make()
    for process in backend.envs.processes:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(process.pid, number)
    time.sleep(0.2)
    backend.step(ACTIONS)
    assert len(multiprocessing.active_children()) == 3


@pytest.mark.parametrize("backend", ["sync", "async", "vector", "envpool"])
def test_making_environments_leaves_the_signals_of_this_process_alone(backend):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    Environments(EnvConfig(id="CartPole-v1", backend=backend, num_envs=2), seed=0).close()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_closing_twice_is_harmless(make):
    backend = make()
    backend.close()
    backend.close()


# An environment's failure in a run, and what the person's one line says of it.
FAILURES = {
    "hang": "did not answer within env.timeout=1 s",
    "die": "the process of an environment died",
    "raise in step": "the simulator fell over",
    "raise in reset": "the simulator cannot reset",
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The directory, exit code and errors of a real process per failure, all started at once."""
    base, started = tmp_path_factory.mktemp("failed"), {}
    paths = environment_variables()
    paths["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[2] / "scripts")
    for fault in FAILURES:
        env = ["env.id=faulty:Faulty-v0", "env.backend=async", "env.timeout=1", f"+env.kwargs.fault='{fault}'"]
        rest = ["+env.kwargs.at=40", "run.total_steps=960", "run.evaluation_episodes=0", f"hydra.run.dir='{fault}'"]
        command = [sys.executable, "-m", "trpo", *TINY, *env, *rest]
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        started[fault] = subprocess.Popen(command, cwd=base, env=paths, text=True, start_new_session=True, **streams)
    ended = {fault: training.communicate(timeout=240)[1] for fault, training in started.items()}
    return {fault: (base / fault, started[fault], errors) for fault, errors in ended.items()}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAILURES)
def test_a_failing_process_ends_a_run_with_one_line_its_state_and_no_process_left(fault, failed):
    run, training, errors = failed[fault]
    assert training.returncode == 1
    (line,) = errors.splitlines()
    assert FAILURES[fault] in line
    assert f"{fault}/train.log" in line
    log = (run / "train.log").read_text()
    assert "Traceback" in log
    assert ("faulty.py" in log) == fault.startswith("raise")  # its own traceback, of the process it was in
    (saved,) = checkpoints(run)
    assert checkpoint.load(saved)["env_steps"] == rows(run)[-1]["env_steps"] == 64
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.load(saved)["agent"].values())
    assert not members_of(training.pid)
    assert not (run / "summary.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_to_the_whole_process_group_still_ends_with_the_iteration_saved(number, code, tmp_path):
    """As a batch system and a terminal send it: trainer and environments at once."""
    run = tmp_path / "run"
    endless = ["run.total_steps=100_000_000", "run.evaluate_every=0", "run.checkpoint_every=0"]
    training = subprocess.Popen(
        [sys.executable, "-m", "trpo", "task=cartpole", *TINY, *endless, "env.backend=async", f"hydra.run.dir={run}"],
        env=environment_variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not has_rows(run, 2):
            assert training.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        members = members_of(training.pid)
        os.killpg(training.pid, number)
        errors = training.communicate(timeout=PATIENCE)[1]
    finally:
        if training.poll() is None:
            os.killpg(training.pid, signal.SIGKILL)
            training.communicate()
    assert (training.returncode, errors) == (code, "")
    assert summary(run)["exit_reason"] == number.name
    assert checkpoint.load(checkpoints(run)[-1])["env_steps"] == rows(run)[-1]["env_steps"]
    assert len(members) >= 3  # the trainer, its environments, and what multiprocessing keeps
    assert not members_of(training.pid)
    steps = rows(run)[-1]["env_steps"] + 32
    assert train([f"run.resume={run}", f"run.total_steps={steps}"]) == 0
    assert (summary(run)["exact"], summary(run)["env_steps"]) == (True, steps)
