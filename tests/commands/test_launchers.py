"""Sweeps whose jobs run in processes of a launcher's: the same runs, each fails alone, stopped and gone on with."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny_runs import (
    PATIENCE,
    TINY,
    environment_variables,
    everything_below,
    fingerprints,
    has_rows,
    refusal,
    rows,
    summary,
)

from trpo.commands import elsewhere
from trpo.commands.compose import compose_jobs, one_line, register_schema
from trpo.commands.elsewhere import code_of, has_processes, leave, take_part
from trpo.commands.resume import Plan
from trpo.commands.train import train
from trpo.config import Config
from trpo.record import run_directory

JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
SUBMITIT = ["hydra/launcher=submitit_local"]
PLACE = ["hydra.sweep.dir=sweep", "hydra.sweep.subdir=${hydra.job.num}"]
SWEEP = [*TINY, "run.evaluation_episodes=0", *PLACE]
ENDLESS = ["task=cartpole", *SWEEP, "run.total_steps=100_000_000", "run.evaluate_every=0", "run.checkpoint_every=0"]

launchers = pytest.mark.parametrize("launcher", [JOBLIB, SUBMITIT], ids=["joblib", "submitit"])


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts a sweep in a session of its own, as a terminal would, and sees to its end."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "trpo", "-m", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment_variables(), start_new_session=True, **streams))
        return started[-1]

    yield start
    for sweep in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()


def wait_until(happened, process):
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def under_way(*jobs):
    return lambda: all(has_rows(Path("sweep", str(job)), 2) for job in jobs)


def one_after_the_other(*arguments):
    """The fingerprints of the same jobs under Hydra's own launcher."""
    assert train(["-m", *SWEEP, *arguments, "hydra.sweep.dir=basic"]) == 0
    return [fingerprints(job) for job in sorted(filter(Path.is_dir, Path("basic").iterdir()))]


@pytest.mark.slow
@launchers
def test_a_job_that_fails_fails_alone_and_the_others_are_what_they_are_without_a_launcher(launcher, start):
    sweep = start(*SWEEP, *launcher, "env.id=CartPole-v1,broken:Raising-v0,Acrobot-v1")
    said, errors = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    assert "the simulator fell over" in Path("sweep/1/train.log").read_text()
    assert not Path("sweep/1/summary.json").exists()
    others = [fingerprints(Path("sweep", job)) for job in ("0", "2")]
    assert others == one_after_the_other("env.id=CartPole-v1,Acrobot-v1")
    assert "Traceback" not in said + errors
    assert not Path("sweep", elsewhere.STOP).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "jobs", "send", "code"),
    [
        (JOBLIB, [0, 1], lambda process: os.killpg(process.pid, signal.SIGINT), 130),  # what a terminal does
        (JOBLIB, [0, 1], lambda process: process.send_signal(signal.SIGTERM), 143),
        (SUBMITIT, [0, 1, 2], lambda process: process.send_signal(signal.SIGTERM), 143),
    ],
    ids=["joblib, Ctrl-C", "joblib, SIGTERM", "submitit, SIGTERM"],
)
def test_a_signal_saves_what_runs_starts_nothing_more_and_the_sweep_goes_on(launcher, jobs, send, code, start):
    stopped = start(*ENDLESS, *launcher, "seed=0,1,2")
    wait_until(under_way(*jobs), stopped)
    send(stopped)
    errors = stopped.communicate(timeout=PATIENCE)[1]
    assert (stopped.returncode, errors) == (code, "")
    began = {int(job.name) for job in Path("sweep").glob("[0-9]") if any(job.iterdir())}  # Hydra makes directories
    assert began == {*jobs}
    reached = [summary(Path("sweep", str(job))) for job in jobs]
    assert {128 + signal.Signals[one["exit_reason"]] for one in reached} == {code}
    steps = f"run.total_steps={max(one['env_steps'] for one in reached) + 64}"
    again = start(*ENDLESS, *launcher, "seed=0,1,2", "run.resume=auto", steps)
    assert again.communicate(timeout=100)[1] == ""
    assert again.returncode == 0
    gone_on = [fingerprints(Path("sweep", job)) for job in "012"]
    assert gone_on == one_after_the_other(*ENDLESS, "seed=0,1,2", steps)


def job_process():
    """The process in which submitit runs the only job: the child of the one that a folder is named after."""
    (folder,) = (path for path in Path("sweep/.submitit").iterdir() if path.name.isdigit())
    (child,) = Path("/proc", folder.name, "task", folder.name, "children").read_text().split()
    return int(child)


@pytest.mark.slow
def test_a_preempted_job_is_saved_and_put_into_the_queue_again_and_goes_on(start):
    """submitit's executor for one machine starts it again as Slurm would."""
    settings = ["task=cartpole", *SWEEP, "run.total_steps=4800", "run.checkpoint_every=0"]
    sweep = start(*settings, *SUBMITIT, "run.resume=auto")
    wait_until(under_way(0), sweep)
    before, preempted = len(rows(Path("sweep/0"))), job_process()
    os.kill(preempted, signal.SIGUSR2)
    assert sweep.communicate(timeout=100)[1] == ""
    assert sweep.returncode == 0
    log = Path("sweep/0/train.log").read_text()
    assert log.count("going on from") == 1
    assert "SIGUSR2" in log
    assert before < len(rows(Path("sweep/0")))
    assert [fingerprints(Path("sweep/0"))] == one_after_the_other(*settings)


# What a job in a process of its own does, without one.


@pytest.fixture
def handlers():
    """The signals' own handlers come back."""
    numbers = signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_job_of_a_stopped_sweep_does_not_start_and_one_under_way_is_told(tmp_path, monkeypatch):
    told = []

    def run_job(composed, watch):
        told.append(watch({}, None))
        leave(tmp_path / "stop", "SIGTERM")
        told.append(watch({}, None))
        return 143

    monkeypatch.setattr(elsewhere, "run_job", run_job)
    take_part(OmegaConf.create(), tmp_path / "stop")
    take_part(OmegaConf.create(), tmp_path / "stop")
    assert told == [None, "SIGTERM"]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("code", "passed_on"), [(0, 0), (1, 0), (143, 0), (128 + signal.SIGUSR2, 1)])
def test_who_wanted_sigusr2_before_gets_it_once_the_run_is_saved(code, passed_on, tmp_path, monkeypatch):
    received = []
    signal.signal(signal.SIGUSR2, lambda number, _: received.append(number))
    monkeypatch.setattr(elsewhere, "run_job", lambda *_, **__: code)
    take_part(OmegaConf.create(), tmp_path / "stop")
    assert received == [signal.SIGUSR2] * passed_on


@pytest.mark.usefixtures("handlers")
def test_between_jobs_a_ctrl_c_does_not_end_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(elsewhere, "run_job", lambda *_, **__: 0)
    take_part(OmegaConf.create(), tmp_path / "stop")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.raise_signal(number)


# How a job ended: what its summary was, what it is, and the exit code.
ENDS = [
    (None, None, 1),
    (None, "finished", 0),
    (None, "stopped", 0),
    (None, "callback", 0),
    (None, "SIGTERM", 143),
    (None, "SIGUSR2", 140),
    ("SIGTERM", "SIGTERM", 1),  # of the last time
    ("SIGTERM", "finished", 0),
]


@pytest.mark.parametrize(("before", "after", "code"), ENDS)
def test_how_a_job_ended_is_read_from_its_directory(before, after, code, tmp_path):
    plan = Plan(tmp_path, Config(), [], resume=True, finished=False)
    if before:
        run_directory.write_summary(tmp_path, {"exit_reason": before, "env_steps": 1})
    old = elsewhere.summary_of(plan)
    if after and after != before:
        run_directory.write_summary(tmp_path, {"exit_reason": after, "env_steps": 2})
    assert code_of(plan, old) == code
    assert code_of(plan._replace(finished=True), old) == 0


@pytest.mark.parametrize(("overrides", "processes"), [([], False), (JOBLIB, True), (SUBMITIT, True)])
def test_which_launchers_have_processes(overrides, processes):
    register_schema()
    assert has_processes(compose_jobs(["task=cartpole", *overrides], None, multirun=True)[0]) is processes


@pytest.mark.parametrize(("launcher", "extra"), [("joblib", "joblib"), ("submitit_slurm", "slurm")])
def test_a_launcher_that_is_not_installed_is_refused_with_the_extra_it_comes_with(launcher, extra):
    said = one_line(Exception(f"In 'hydra/config': Could not find 'hydra/launcher/{launcher}'\n\nAvailable options"))
    assert said.endswith(f"pip install 'trpo[{extra}]'")


def test_a_mistake_under_a_launcher_is_one_line_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "seed" in refusal(train, "-m", *SWEEP, *JOBLIB, "task=cartpole", "seed=0,-1")
    assert "ray" in refusal(train, "-m", *SWEEP, "hydra/launcher=ray", "task=cartpole", "seed=0,1")
    assert everything_below(tmp_path) == []
