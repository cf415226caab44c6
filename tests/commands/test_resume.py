"""A run that was cut and went on is the run that was never cut, to the bit, from any checkpoint."""

import shlex
import shutil
import signal
import time

import pytest
import torch
from same_runs import assert_same_run, decided, same, saved
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import checkpoints, rows, summary, train_tiny

from trpo.commands.notation import quoted
from trpo.commands.train import train
from trpo.record import checkpoint
from trpo.trainer import Trainer

# Six iterations after the warm-up, a checkpoint after each, an evaluation after every second.
FINE = (
    "run.total_steps=224",
    "run.checkpoint_every=32",
    "run.keep_checkpoints=99",
    "run.evaluate_every=64",
    "run.evaluation_episodes=2",
)
PROBLEMS = {
    "CartPole": ["env.id=CartPole-v1"],
    "processes": ["env.id=CartPole-v1", "env.backend=async", "env.timeout=20"],
    "a vector entry point": ["env.id=CartPole-v1", "env.backend=vector"],
    "a vector entry point with restarts": ["env.id=CartPole-v1", "env.backend=vector", "env.restart_every=50"],
    "EnvPool": ["env.id=HalfCheetah-v5", "env.backend=envpool"],
    "EnvPool with restarts": ["env.id=CartPole-v1", "env.backend=envpool", "env.restart_every=50"],
    "MuJoCo": ["env.id=HalfCheetah-v5"],
    "correlated noise": ["env.id=Pendulum-v1", "policy.noise_correlation=0.8"],
    "MuJoCo in processes": ["env.id=Hopper-v5", "env.backend=async"],
    "discrete observations": ["env.id=FrozenLake-v1"],  # slippery: it draws numbers at every step
    "episodes of one step": ["env.id=probes:Drawn-v0"],
    "episodes longer than the run": ["env.id=Pendulum-v1"],
    "without running statistics": ["env.id=CartPole-v1", "normalize.observations=false", "normalize.rewards=false"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Makes the run of a problem that nobody cuts, once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("whole") / "run"
            assert train_tiny(made[name], *FINE, *PROBLEMS[name]) == 0
        return made[name]

    return make


def cut(run, directory, *, after):
    """A copy of a run as a kill leaves it: rows beyond the newest checkpoint, half a line, no summary."""
    shutil.copytree(run, directory)
    for file in checkpoints(directory)[after:]:
        file.unlink()
    with open(directory / "metrics.jsonl", "a") as metrics:
        metrics.write('{"iteration": 7, "env_st')
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_run_resumed_from_any_of_its_checkpoints_is_the_whole_run(name, whole, tmp_path):
    run = whole(name)
    assert len(checkpoints(run)) >= 5
    every = range(1, len(checkpoints(run)) + 1)
    for number in every if name == "CartPole" or "restarts" in name else (3,):
        resumed = cut(run, tmp_path / str(number), after=number)
        (resumed / "summary.json").unlink()
        assert train([f"run.resume={resumed}"]) == 0
        assert_same_run(resumed, run)


@pytest.mark.parametrize("name", ["CartPole", "MuJoCo", "a vector entry point"])
def test_half_a_run_and_its_other_half_are_the_whole_run(name, whole, tmp_path):
    half = tmp_path / "half"
    assert train_tiny(half, *FINE, *PROBLEMS[name], "run.total_steps=128") == 0
    assert len(rows(half)) < len(rows(whole(name)))
    assert train([f"run.resume={half}", "run.total_steps=224"]) == 0
    resumed, expected = decided(half), decided(whole(name))
    if "vector" in name:  # a reset spends a step of it, so its halves end between two evaluations
        resumed, expected = (
            [{k: v for k, v in row.items() if "evaluation/" not in k} for row in x] for x in (resumed, expected)
        )
    assert resumed == expected
    for part in ("agent", "optimizer", "ranks"):
        states = [saved(checkpoints(run)[-1])[part] for run in (half, whole(name))]
        assert same(*states), part


def terminate():
    signal.raise_signal(signal.SIGTERM)


def crash():
    raise RuntimeError("the power went")


def interrupt():
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("iteration", [0, 1, 4])
@pytest.mark.parametrize(("happens", "code"), [(terminate, 143), (interrupt, 130), (crash, 1)])
def test_a_run_that_stopped_between_its_checkpoints_goes_on_as_if_nothing_had_happened(
    happens, code, iteration, whole, tmp_path, monkeypatch
):
    iterate = Trainer.iterate

    def disturbed(trainer):
        if trainer.iteration == iteration:
            happens()
        return iterate(trainer)

    rare = [*FINE, "run.checkpoint_every=0"]
    monkeypatch.setattr(Trainer, "iterate", disturbed)
    assert train_tiny(tmp_path / "run", *rare) == code
    assert len(checkpoints(tmp_path / "run")) == 1
    monkeypatch.undo()
    assert train_tiny(tmp_path / "run", *rare, "run.resume=auto") == 0
    assert_same_run(tmp_path / "run", whole("CartPole"))


@pytest.mark.parametrize("name", ["my run (short) seed=0", "o'brien, josé", "end\\"])
def test_a_run_that_a_signal_stopped_says_what_goes_on_with_it_and_that_does(name, tmp_path, monkeypatch, capsys):
    run, iterate = tmp_path / name, Trainer.iterate
    monkeypatch.setattr(Trainer, "iterate", lambda trainer: (terminate(), iterate(trainer))[1])
    assert train_tiny(quoted(str(run)), *FINE) == 143
    monkeypatch.undo()
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("saved"))
    program, *arguments = shlex.split(line.removeprefix("saved; to go on: "))
    assert program == "trpo-train"
    assert train(arguments) == 0
    assert summary(run)["exit_reason"] == "finished"
    assert "saved" not in capsys.readouterr().out


# What a kill before the first checkpoint can leave.
REMAINS = {
    "nothing": [],
    "the overrides": ["overrides.yaml"],
    "the configuration and the overrides": ["config.yaml", "overrides.yaml"],
    "rows": ["config.yaml", "overrides.yaml", "metrics.jsonl", "train.log"],
}


@pytest.mark.parametrize("left", REMAINS.values(), ids=REMAINS)
def test_a_run_killed_before_its_first_checkpoint_starts_again(left, whole, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        shutil.copy(whole("CartPole") / name, run)
    capsys.readouterr()
    assert train_tiny(run, *FINE, "run.resume=auto") == 0
    again = "config.yaml" in left  # else there was no run yet
    assert ("no checkpoint: starting again" in capsys.readouterr().out) == again
    assert_same_run(run, whole("CartPole"))


@pytest.mark.slow
def test_a_run_may_be_cut_many_times(whole, tmp_path):
    for steps in (64, 96, 160, 224):
        assert train_tiny(tmp_path / "run", *FINE, f"run.total_steps={steps}", "run.resume=auto") == 0
        assert len(rows(tmp_path / "run")) == steps // 32 - 1
    states = [saved(checkpoints(run)[-1])["agent"] for run in (tmp_path / "run", whole("CartPole"))]
    assert same(*states)


def test_the_summary_of_the_first_part_is_gone_while_the_run_goes_on(whole, tmp_path, monkeypatch):
    run = cut(whole("CartPole"), tmp_path / "run", after=2)
    seen = []
    iterate = Trainer.iterate
    monkeypatch.setattr(
        Trainer, "iterate", lambda trainer: (seen.append((run / "summary.json").exists()), iterate(trainer))[1]
    )
    assert train([f"run.resume={run}", "run.total_steps=225"]) == 0
    assert seen == [False] * 5
    assert (run / "summary.json").exists()


def test_what_was_written_after_the_checkpoint_is_dropped_before_the_first_new_row(whole, tmp_path, monkeypatch):
    run = cut(whole("CartPole"), tmp_path / "run", after=2)
    monkeypatch.setattr(Trainer, "iterate", lambda trainer: crash())
    (run / "summary.json").unlink()
    assert train([f"run.resume={run}"]) == 1
    assert decided(run) == decided(whole("CartPole"))[:2]


def test_seconds_go_on_from_those_of_the_checkpoint(whole, tmp_path):
    run = cut(whole("CartPole"), tmp_path / "run", after=3)
    (run / "summary.json").unlink()
    newest = checkpoints(run)[-1]
    torch.save({**checkpoint.load(newest), "seconds": 1_000.0}, newest)
    assert train([f"run.resume={run}"]) == 0
    assert 1_000 < summary(run)["seconds"] < 1_100
    assert summary(run)["steps_per_second"] == pytest.approx(224 / summary(run)["seconds"])


def test_a_best_evaluation_before_the_cut_stays_the_best(whole, tmp_path):
    run = cut(whole("CartPole"), tmp_path / "run", after=3)
    (run / "summary.json").unlink()
    newest = checkpoints(run)[-1]
    best = {"env_steps": 64, "return_mean": 1e6, "return_std": 0.0, "length_mean": 1.0}
    torch.save({**checkpoint.load(newest), "best_evaluation": best}, newest)
    before = (run / "checkpoints" / "best.pt").read_bytes()
    assert train([f"run.resume={run}"]) == 0
    assert summary(run)["best_evaluation"] == best
    assert (run / "checkpoints" / "best.pt").read_bytes() == before


@pytest.mark.slow
def test_tensorboard_shows_every_step_of_a_resumed_run_once(whole, tmp_path):
    run = tmp_path / "run"
    for steps in (96, 160):
        assert train_tiny(run, *FINE, f"run.total_steps={steps}", "run.resume=auto") == 0
        checkpoints(run)[-1].unlink()  # so that its iteration is repeated
        (run / "summary.json").unlink()
        time.sleep(1.1)  # TensorBoard sorts the files of a directory by the second in which they were made
    assert train_tiny(run, *FINE, "run.resume=auto") == 0
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    table = {tag: [(row["env_steps"], row[tag]) for row in rows(run) if tag in row] for row in rows(run) for tag in row}
    assert set(events.Tags()["scalars"]) >= {tag for tag in table if "/" in tag}
    for tag in filter(lambda tag: "/" in tag, table):
        shown = [(event.step, event.value) for event in events.Scalars(tag)]
        assert shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in table[tag]], tag


def test_a_resumed_run_says_where_it_goes_on(whole, tmp_path, capsys):
    run = cut(whole("CartPole"), tmp_path / "run", after=3)
    newest = checkpoints(run)[-1]
    assert train([f"run.resume={run}", "run.total_steps=256"]) == 0
    assert f"going on from {newest}\n" in capsys.readouterr().out
    assert [row["iteration"] for row in rows(run)] == list(range(1, 8))
