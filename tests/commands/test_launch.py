"""Sweeps and directories: one whole run per job, whatever becomes of the others."""

import logging
import signal
from pathlib import Path

import pytest
import yaml
from tiny_runs import TINY, checkpoints, everything_below, fingerprints, refusal, summary, train_tiny

from trpo.commands import jobs, launch
from trpo.commands.compose import compose_jobs, load_config, register_schema, slug, to_config
from trpo.commands.launch import concerns_this_rank
from trpo.commands.resume import Plan
from trpo.commands.train import train
from trpo.config import Config, UserError
from trpo.record import run_directory

SHORT = ("run.total_steps=32", "run.evaluation_episodes=0")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(*arguments):
    return train(["-m", *TINY, "run.evaluation_episodes=0", "hydra.sweep.dir=sweep", *arguments])


def jobs_of(directory):
    return sorted(filter(Path.is_dir, directory.iterdir()), key=lambda job: int(job.name.split("_")[0]))


@pytest.mark.slow
def test_a_sweep_makes_one_whole_run_per_combination_and_nothing_else(elsewhere):
    assert sweep("task=cartpole,acrobot", "seed=0,1") == 0
    jobs = jobs_of(elsewhere / "sweep")
    configs = [load_config(job / "config.yaml") for job in jobs]
    assert [(config.env.id, config.seed) for config in configs] == [
        ("CartPole-v1", 0),
        ("CartPole-v1", 1),
        ("Acrobot-v1", 0),
        ("Acrobot-v1", 1),
    ]
    assert all(summary(job)["exit_reason"] == "finished" for job in jobs)
    assert all(len(checkpoints(job)) == 1 for job in jobs)
    assert len({tuple(fingerprints(job)) for job in jobs}) == 4
    assert list(elsewhere.iterdir()) == [elsewhere / "sweep"]


def test_a_job_of_a_sweep_equals_the_same_job_alone(elsewhere):
    assert sweep("task=cartpole,acrobot", "seed=0,1") == 0
    assert train_tiny("alone", "run.evaluation_episodes=0", "seed=1", task="acrobot") == 0
    assert fingerprints(jobs_of(elsewhere / "sweep")[3]) == fingerprints(elsewhere / "alone")


def test_a_job_that_fails_while_running_does_not_stop_the_others(elsewhere, capsys):
    assert sweep("env.id=CartPole-v1,broken:Raising-v0,Acrobot-v1") == 1
    first, failed, last = jobs_of(elsewhere / "sweep")
    assert summary(first)["exit_reason"] == summary(last)["exit_reason"] == "finished"
    assert not (failed / "summary.json").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "the simulator fell over" in line
    assert str(failed / "train.log") in line


def test_a_job_that_another_process_writes_does_not_stop_the_others(elsewhere, capsys):
    taken = elsewhere / "sweep" / "0"
    taken.mkdir(parents=True)
    with run_directory.locked(taken):
        assert sweep("env.id=CartPole-v1", "seed=0,1", "hydra.sweep.subdir=${hydra.job.num}") == 2
    assert capsys.readouterr().err == f"trpo-train: {taken} is being written by another process\n"
    assert summary(elsewhere / "sweep" / "1")["exit_reason"] == "finished"


@pytest.fixture
def loses_a_rank(monkeypatch):
    """Trains until another rank is gone, whereupon torchrun sends a signal, after the run has let go of it."""
    deadly = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal ended the process"))

    def train(*arguments, **options):
        signal.raise_signal(signal.SIGTERM)
        raise ConnectionError("another rank ended")

    monkeypatch.setattr(jobs, "train", train)
    monkeypatch.setattr(launch, "train", train)
    yield
    signal.signal(signal.SIGTERM, deadly)
    logging.captureWarnings(False)


def test_a_run_that_failed_says_so_before_a_signal_ends_it(elsewhere, loses_a_rank, capsys):
    assert sweep("env.id=CartPole-v1", "seed=0,1") == 143
    (line,) = capsys.readouterr().err.splitlines()  # of the first job; the second one did not start
    assert "ConnectionError: another rank ended" in line
    assert len(jobs_of(elsewhere / "sweep")) == 1


def test_a_follower_says_what_ended_it_before_a_signal_does(elsewhere, loses_a_rank, caplog):
    plan = Plan(config=Config(), directory=elsewhere, overrides=[], resume=False, finished=False)
    assert launch.follow([plan]) == 1
    assert "another rank ended" in caplog.text


def test_the_log_of_a_job_holds_nothing_of_the_others(elsewhere):
    sweep("env.id=CartPole-v1,Acrobot-v1")
    first, last = ((job / "train.log").read_text() for job in jobs_of(elsewhere / "sweep"))
    assert "CartPole-v1" in first
    assert "Acrobot-v1" not in first
    assert "CartPole-v1" not in last


def test_runs_started_at_the_same_moment_with_other_seeds_have_other_directories(elsewhere):
    for seed in (0, 1):
        train(["task=cartpole", *TINY, "run.evaluation_episodes=0", f"seed={seed}"])
    runs = list((elsewhere / "runs" / "CartPole-v1").iterdir())
    assert sorted(run.name.split("_")[0] for run in runs) == ["seed0", "seed1"]


def test_the_overrides_are_recorded_as_typed_the_last_one_of_each_key(elsewhere):
    train_tiny("run", "run.evaluation_episodes=0", "+env.kwargs.sutton_barto_reward=true")
    recorded = yaml.safe_load((elsewhere / "run" / "overrides.yaml").read_text())
    last = [line.replace("run.evaluation_episodes=2", "run.evaluation_episodes=0") for line in TINY]
    assert recorded == ["task=cartpole", *last, "+env.kwargs.sutton_barto_reward=true"]


def test_a_recorded_configuration_loads_equal(elsewhere):
    changes = [
        "seed=4",
        "policy.hidden_sizes=[5,6,7]",
        "+env.kwargs.sutton_barto_reward=true",
        "normalize.rewards=false",
    ]
    register_schema()
    (job,) = compose_jobs(["task=cartpole", *TINY, *changes], None, multirun=False)
    train_tiny("run", *changes)
    loaded = load_config(elsewhere / "run" / "config.yaml")
    assert isinstance(loaded, Config)
    assert loaded == to_config(job)


def test_a_recorded_configuration_is_resolved(elsewhere):
    train_tiny("run", "seed=3", "run.evaluation_episodes=${seed}")
    recorded = yaml.safe_load((elsewhere / "run" / "config.yaml").read_text())
    assert recorded["run"]["evaluation_episodes"] == 3


def test_a_run_can_be_repeated_from_its_recorded_overrides(elsewhere):
    train_tiny("first", "seed=5", "critic.epochs=3")
    recorded = yaml.safe_load((elsewhere / "first" / "overrides.yaml").read_text())
    assert train([*recorded, "hydra.run.dir=second"]) == 0
    assert fingerprints(elsewhere / "first") == fingerprints(elsewhere / "second")


# What a damaged config.yaml holds.
DAMAGED = {
    "nothing of ours": "colour: red\n",
    "no YAML": "seed: [1,\n",
    "a wrong type": "seed: many\n",
    "out of range": "trust_region: {max_kl: -1.0}\n",
    "a list": "- 1\n- 2\n",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_recorded_configuration_is_a_mistake_in_one_line(elsewhere, text):
    (elsewhere / "config.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        load_config(elsewhere / "config.yaml")
    assert "\n" not in str(refused.value)


def test_tasks_of_ones_own_come_from_a_directory(elsewhere):
    (elsewhere / "mine" / "task").mkdir(parents=True)
    (elsewhere / "mine" / "task" / "own.yaml").write_text("# @package _global_\nenv: {id: Acrobot-v1}\nseed: 9\n")
    assert train_tiny("run", "run.evaluation_episodes=0", task="own", flags=["--config-dir", "mine"]) == 0
    loaded = load_config(elsewhere / "run" / "config.yaml")
    assert (loaded.env.id, loaded.seed) == ("Acrobot-v1", 9)


@pytest.mark.parametrize("name", ["josé", "o'brien", "a (b)", "x, y=[z]", "end\\"])
def test_a_directory_of_ones_own_tasks_may_be_called_anything(name, elsewhere, monkeypatch):
    (elsewhere / name / "mine" / "task").mkdir(parents=True)
    (elsewhere / name / "mine" / "task" / "own.yaml").write_text("# @package _global_\nenv: {id: Acrobot-v1}\n")
    monkeypatch.chdir(elsewhere / name)  # of which a relative path is part, too
    assert train_tiny("run", *SHORT, task="own", flags=["--config-dir", "mine"]) == 0
    assert load_config(Path("run", "config.yaml")).env.id == "Acrobot-v1"


# What a task file of one's own holds, and what the one line says of it.
MISTAKES_IN_TASKS = {
    "a bracket": ("env: {id: [\nseed: 3\n", "mine/task/own.yaml, line 3: expected ',' or ']'"),
    "a tab": ("env:\n\tid: CartPole-v1\n", "mine/task/own.yaml, line 2: found character"),
    "a key twice": ("seed: 1\nseed: 2\n", "mine/task/own.yaml, line 2: found duplicate key seed"),
    "a control character": ("env: \x01\n", "mine/task/own.yaml"),
    "no mapping": ("7\n", "Invalid loaded object type"),
    "a sweep": ("# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n", "as in -m seed=0,1"),
}


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath:UserWarning")
@pytest.mark.parametrize(("text", "said"), MISTAKES_IN_TASKS.values(), ids=MISTAKES_IN_TASKS)
def test_a_mistake_in_a_task_of_ones_own_is_one_line(text, said, elsewhere):
    (elsewhere / "mine" / "task").mkdir(parents=True)
    (elsewhere / "mine" / "task" / "own.yaml").write_text(text)
    assert said in refusal(train, "-m", "--config-dir", "mine", "task=own", "env.id=CartPole-v1")


def test_composing_makes_nothing(elsewhere):
    register_schema()
    jobs = compose_jobs(["task=cartpole", "seed=0,1,2"], None, multirun=True)
    assert [to_config(job).seed for job in jobs] == [0, 1, 2]
    assert everything_below(elsewhere) == []


# A text, and the one safe part of a path that it becomes.
SLUGS = [
    ("CartPole-v1", "CartPole-v1"),
    ("ALE/Pong-v5", "ALE-Pong-v5"),
    ("package:Name-v0", "package-Name-v0"),
    ("seed=3,trust_region.max_kl=0.02", "seed=3-trust_region.max_kl=0.02"),
    ("../../etc", "..-..-etc"),
    ("", "default"),
    ("x" * 300, "x" * 100),
]


@pytest.mark.parametrize(("text", "name"), SLUGS)
def test_a_slug_is_one_safe_part_of_a_path(text, name):
    assert slug(text) == name


def test_the_working_directory_stays(elsewhere):
    train_tiny("run", "run.evaluation_episodes=0")
    assert Path.cwd() == elsewhere


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [
        ("trpo.sampling.environments", logging.WARNING, True),  # its own environments: nobody else saw it
        ("trpo.trainer", logging.WARNING, False),  # a rejected step is the same everywhere, and the leader says so
        ("py.warnings", logging.WARNING, False),
        ("trpo.trainer", logging.ERROR, True),
        ("root", logging.CRITICAL, True),
    ],
)
def test_a_follower_says_only_what_the_leader_does_not(name, level, said):
    record = logging.LogRecord(name, level, __file__, 1, "something", None, None)
    assert concerns_this_rank(record) is said
