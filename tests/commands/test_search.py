"""The command `trpo-search`, end to end: trials, what becomes of them, and what is left at the end."""

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time

import optuna
import pytest
import yaml
from same_runs import assert_same_run
from tiny_runs import (
    PATIENCE,
    TINY,
    compose,
    environment_variables,
    fingerprints,
    has_rows,
    process,
    refusal,
    rows,
    summary,
    train_tiny,
)
from tiny_searches import (
    KL,
    PAID,
    PAY,
    STOPS,
    TINIER,
    asked,
    crash,
    disturb,
    line,
    terminate,
    trials_of,
)

from trpo.commands.compose import compose_jobs, load_config, to_config
from trpo.commands.search import search
from trpo.commands.train import train
from trpo.config import UserError
from trpo.record.runs import read_run
from trpo.search.found import importances, ranking
from trpo.search.study import CONTINUES, WORKER, check_storage, finished, journal, make_study, running, take

PROGRAM = "import sys; from trpo.commands.search import search\nif __name__ == '__main__': sys.exit(search())"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_trial_0_is_the_configuration_as_it_is(elsewhere):
    words = (
        *TINIER,
        KL,
        "advantage.lam=interval(0.9,0.99)",
        "policy.activation=relu,elu",
        "critic.epochs=interval(3,9)",
    )
    assert search(line("task=cartpole", *words, seeds=2)) == 0
    for seed in (0, 1):
        assert train_tiny(elsewhere / str(seed), f"seed={seed}", "run.evaluate_every=32") == 0
        assert fingerprints(elsewhere / f"s/x/trial_0000/seed{seed}") == fingerprints(elsewhere / str(seed))
    (trial,) = trials_of(elsewhere)
    assert trial.params == {  # critic.epochs=2 lies outside, and tanh was no choice
        "trust_region.max_kl": 0.04,
        "advantage.lam": 0.95,
        "policy.activation": "tanh",
        "critic.epochs": 2,
    }


def test_a_bound_of_0_is_recorded_as_what_it_stands_for(elsewhere):
    start = asked("task=pendulum", "trust_region.max_kl=0", KL).start
    assert start == {"trust_region.max_kl": 0.04}
    assert asked("env.id=CartPole-v1", KL).start == {"trust_region.max_kl": 0.01}


@pytest.mark.slow
def test_what_has_no_place_on_the_axis_runs_as_it_is_all_the_same(elsewhere):
    damping = "trust_region.damping=tag(log,interval(0.001,0.1))"
    assert search(line(*PAID, damping, trials=2)) == 0
    first, second = trials_of(elsewhere)
    assert first.params == {"trust_region.damping": 0.001}
    tried = [load_config(elsewhere / f"s/x/trial_000{number}/seed0/config.yaml") for number in (0, 1)]
    assert [config.trust_region.damping for config in tried] == [0.0, second.params["trust_region.damping"]]


@pytest.mark.slow
def test_the_value_is_the_mean_over_seeds_of_the_last_third_and_what_is_recorded_is_what_ran(elsewhere, capsys):
    assert search(line("task=cartpole", *TINIER, "run.total_steps=224", KL, trials=3, seeds=2)) == 0
    for trial in trials_of(elsewhere):
        directories = [elsewhere / f"s/x/trial_{trial.number:04}" / f"seed{seed}" for seed in (0, 1)]
        curves = [
            [row["evaluation/return_mean"] for row in rows(one) if "evaluation/return_mean" in row]
            for one in directories
        ]
        assert [len(curve) for curve in curves] == [6, 6]
        assert trial.value == pytest.approx(sum(sum(curve[4:]) / 2 for curve in curves) / 2)
        assert sorted(trial.intermediate_values) == list(range(1, 13))
        assert trial.intermediate_values[12] == trial.value
        configs = [load_config(one / "config.yaml") for one in directories]
        assert {config.trust_region.max_kl for config in configs} == {trial.params["trust_region.max_kl"]}
        assert [config.seed for config in configs] == [0, 1]
        overrides = yaml.safe_load((directories[0] / "overrides.yaml").read_text())
        assert f"trust_region.max_kl={trial.params['trust_region.max_kl']}" in overrides
    assert capsys.readouterr().out.count("complete") == 2 * 3


@pytest.mark.slow
def test_the_best_is_a_task_that_trains_what_was_found(elsewhere, capsys):
    words = ("task=pendulum", *TINIER, "env.wrappers=[{wrapper: 'probes:Raised', amount: 2}]", "+env.kwargs.g=9.0")
    assert search(line(*words, KL, "critic.hidden_sizes=[4],[4,4]", trials=4)) == 0
    best = max(trials_of(elsewhere), key=lambda trial: trial.value)
    (job,) = compose_jobs(["task=best"], "s/x", multirun=False)
    found = [f"{name}={value}" for name, value in best.params.items()]
    assert to_config(job) == compose(*words, *found)
    assert f"| 1    | {best.number} " in capsys.readouterr().out
    assert (elsewhere / "s/x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_hopeless_trial_is_given_up_in_its_first_half(elsewhere):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    study = make_study(asked(*words, seeds=2))
    for pay in (0.6, 0.55, 0.65, 0.7, 0.3, 0.72):
        study.enqueue_trial({"env.kwargs.pay": pay})
    assert search(line(*words, trials=7, seeds=2)) == 0
    trials = trials_of(elsewhere)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert [trial.value for trial in trials] == pytest.approx([0.5, 0.6, 0.55, 0.65, 0.7, 0.3, 0.72])
    hopeless = elsewhere / "s/x/trial_0005"
    assert [path.name for path in hopeless.iterdir()] == ["seed0"]
    assert summary(hopeless / "seed0")["exit_reason"] == "pruned"
    assert summary(hopeless / "seed0")["env_steps"] <= 64 < 192
    assert [row.number for row in ranking(study)] == [6, 4, 3, 1, 2, 0, 5]
    assert importances(study) == {"env.kwargs.pay": 1.0}


@pytest.mark.slow
def test_a_run_that_was_given_up_has_ended_for_a_resume_and_for_a_report(elsewhere):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    study = make_study(asked(*words))
    for pay in (0.6, 0.55, 0.65, 0.7, 0.3):
        study.enqueue_trial({"env.kwargs.pay": pay})
    assert search(line(*words, trials=6)) == 0
    run = elsewhere / "s/x/trial_0005/seed0"
    before = rows(run)
    assert read_run(run).status == "pruned"
    overrides = yaml.safe_load((run / "overrides.yaml").read_text())[:-3]  # without what was tried, which it has
    assert train([*overrides, f"hydra.run.dir={run}", "run.resume=auto"]) == 0
    assert rows(run) == before


@pytest.mark.slow
def test_nothing_is_given_up_without_a_pruner(elsewhere):
    words = (*PAID, "+env.kwargs.pay=0.7", PAY)
    assert search([*line(*words, trials=7), "--pruner=none"]) == 0
    assert {trial.state.name for trial in trials_of(elsewhere)} == {"COMPLETE"}


def test_a_run_that_fails_ends_its_trial_and_not_the_search(elsewhere, monkeypatch, capsys):
    disturb(monkeypatch, crash, lambda trainer: trainer.config.critic.epochs == 1)
    assert search(line(*PAID, "critic.epochs=1,2", trials=6)) == 0
    failed = [trial for trial in trials_of(elsewhere) if trial.params["critic.epochs"] == "1"]
    assert 0 < len(failed) < 6
    assert {trial.state.name for trial in failed} == {"FAIL"}
    assert capsys.readouterr().out.count("RuntimeError: the simulator fell over") == 2 * len(failed)
    assert "the run failed" in (elsewhere / f"s/x/trial_{failed[0].number:04}/seed0/train.log").read_text()


def test_a_search_of_which_nothing_is_complete_says_so_by_its_code(elsewhere, monkeypatch):
    disturb(monkeypatch, crash, lambda trainer: True)
    assert search(line(*PAID, "critic.epochs=1,2", trials=2)) == 1
    assert not (elsewhere / "s/x/task").exists()


EARLY, BETWEEN = 0, 2  # evaluations come after every iteration, checkpoints after every second


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "iteration"),
    [*[(name, EARLY) for name in STOPS], *[(name, BETWEEN) for name in ("SIGTERM", "Ctrl-C", "twice")]],
)
def test_a_search_that_was_stopped_goes_on_as_if_nothing_had_happened(name, iteration, elsewhere, monkeypatch):
    happens, code = STOPS[name]
    words = ("task=cartpole", *TINIER, "run.total_steps=160", "run.checkpoint_every=64", KL)
    assert search(line(*words, trials=2, seeds=2, storage="whole/x.log")) == 0
    disturb(monkeypatch, happens, lambda trainer: trainer.config.seed == 1 and trainer.iteration == iteration)
    assert search(line(*words, trials=2, seeds=2)) == code
    monkeypatch.undo()
    monkeypatch.chdir(elsewhere)
    (stopped, again) = trials_of(elsewhere)
    assert (stopped.state.name, again.state.name) == ("FAIL", "WAITING")
    assert search(line(*words, trials=2, seeds=2)) == 0
    trials = trials_of(elsewhere)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == stopped.params
    assert trials[1].value == trials_of(elsewhere, "whole/x.log")[0].value
    for seed in ("seed0", "seed1"):
        assert_same_run(elsewhere / "s/x/trial_0000" / seed, elsewhere / "whole/x/trial_0000" / seed)
    assert not (elsewhere / "s/x/trial_0001").exists()


def test_a_trial_whose_last_row_was_cut_off_by_a_kill_goes_on_as_well(elsewhere, monkeypatch):
    words = (*PAID, "+env.kwargs.pay=0.5", "run.checkpoint_every=32", PAY)
    disturb(monkeypatch, terminate, lambda trainer: trainer.iteration == 0)
    assert search(line(*words)) == 143
    monkeypatch.undo()
    monkeypatch.chdir(elsewhere)
    run = elsewhere / "s/x/trial_0000/seed0"
    with open(run / "metrics.jsonl", "a") as metrics:
        metrics.write('{"iteration": 2, "env_st')
    assert search(line(*words)) == 0
    *_, trial = trials_of(elsewhere)
    assert (trial.state.name, trial.value, [row["iteration"] for row in rows(run)]) == ("COMPLETE", 0.5, [1, 2])


def test_a_signal_at_the_very_end_of_a_run_is_not_lost_and_neither_is_the_value(elsewhere, monkeypatch):
    disturb(monkeypatch, terminate, lambda trainer: trainer.iteration == 1)
    assert search(line(*PAID, "+env.kwargs.pay=0.5", PAY, trials=2)) == 143
    (trial,) = trials_of(elsewhere)
    assert (trial.state.name, trial.value, summary(elsewhere / "s/x/trial_0000/seed0")["exit_reason"]) == (
        "COMPLETE",
        0.5,
        "finished",
    )


def test_a_trial_whose_process_died_is_tried_again_but_not_for_ever(elsewhere):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    the_search = asked(*words, trials=2)
    study = make_study(the_search)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for deaths in range(3):
        trial = take(study, the_search)
        assert trial.params == {"env.kwargs.pay": 0.5}
        host, _, started = trial.user_attrs[WORKER]
        trial.set_user_attr(WORKER, (host, gone.pid, started))
        assert deaths == trial.number
    assert search(line(*words, trials=2)) == 0
    trials = trials_of(elsewhere)
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"]
    assert [trial.user_attrs.get(CONTINUES) for trial in trials] == [None, 0, 1, None]


@pytest.mark.parametrize("enqueued", [0, 1])
def test_a_study_whose_making_was_cut_off_or_goes_on_elsewhere_is_none_yet_and_is_made_to_the_end(enqueued, elsewhere):
    the_search = asked(*PAID, "+env.kwargs.pay=0.5", PAY)
    the_search.storage.parent.mkdir()
    begun = optuna.create_study(study_name="trpo", storage=journal(the_search.storage), direction="maximize")
    for _ in range(enqueued):
        begun.enqueue_trial({"env.kwargs.pay": 0.5})
    check_storage(the_search)
    study = make_study(the_search)
    assert [trial.system_attrs["fixed_params"] for trial in study.get_trials()] == [{"env.kwargs.pay": 0.5}]
    check_storage(the_search)
    with pytest.raises(UserError, match="a study of other keys: its seeds is 1, 2 was asked for"):
        check_storage(dataclasses.replace(the_search, seeds=2))


def test_a_study_of_someone_elses_is_refused(elsewhere):
    the_search = asked(*PAID, "+env.kwargs.pay=0.5", PAY)
    the_search.storage.parent.mkdir()
    other = optuna.create_study(study_name="trpo", storage=journal(the_search.storage))
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(UserError, match="a study of other keys"):
        check_storage(the_search)


def test_trials_of_other_hosts_and_of_living_processes_are_left_alone(elsewhere, capsys):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    the_search = asked(*words, trials=4)
    study = make_study(the_search)
    alive, elsewhere_run = take(study, the_search), take(study, the_search)
    elsewhere_run.set_user_attr(WORKER, ("another-host", 1, "0"))
    assert search(line(*words, trials=4)) == 0
    assert [trial.number for trial in running(trials_of(elsewhere))] == [alive.number, elsewhere_run.number]
    assert len(trials_of(elsewhere)) == 4
    assert "2 more still running elsewhere" in capsys.readouterr().out


@pytest.mark.slow
def test_more_trials_are_added_by_the_same_line_and_an_ended_search_only_shows_its_table(elsewhere, capsys):
    words, storage = (*PAID, "+env.kwargs.pay=0.5", PAY), "my o'searches/x.log"
    assert search(line(*words, trials=2, storage=storage)) == 0
    assert search(line(*words, trials=3, storage=storage)) == 0
    for trials in (3, 1):
        capsys.readouterr()
        assert search(line(*words, trials=trials, storage=storage)) == 0
        assert len(trials_of(elsewhere, storage)) == 3
        output = capsys.readouterr().out
        assert output.startswith("\n| rank")
        assert "the best of 3 trials" in (elsewhere / "my o'searches/x/task/best.yaml").read_text()
    (best,) = (row for row in output.splitlines() if row.startswith("best: trial "))
    typed = shlex.split(best.partition("; ")[2])
    assert typed == ["trpo-train", "--config-dir", "my o'searches/x", "task=best"]


@pytest.mark.slow
def test_what_is_tried_does_not_depend_on_where_a_search_was_stopped(elsewhere):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY, "critic.epochs=tag(log,interval(3,9))")  # it is 2
    assert search(line(*words, trials=13)) == 0  # ten of them random
    for trials in (1, 4, 13):
        assert search(line(*words, trials=trials, storage="t/x.log")) == 0
    one, other = ([trial.params for trial in trials_of(elsewhere, storage)] for storage in ("s/x.log", "t/x.log"))
    assert one == other
    assert len({json.dumps(params) for params in one}) == 13


OTHERS = {
    "space": (PAID, "+env.kwargs.pay=interval(0.25,0.8)", 1),
    "fixed": ((*PAID, "critic.epochs=3"), PAY, 1),
    "seeds": (PAID, PAY, 2),
}


@pytest.mark.parametrize("part", OTHERS)
def test_a_study_of_other_keys_is_refused_and_stays_as_it_is(part, elsewhere):
    words, searched, seeds = OTHERS[part]
    assert search(line(*PAID, PAY)) == 0
    before = (elsewhere / "s/x.log").read_bytes()
    told = refusal(search, *line(*words, searched, seeds=seeds))
    assert f"s/x.log is a study of other keys: its {part} is" in told
    assert (elsewhere / "s/x.log").read_bytes() == before


def test_a_file_that_is_no_study_and_runs_that_are_of_none_are_refused(elsewhere):
    (elsewhere / "notes.log").write_text("not json\nat all\n")
    assert "is not the journal of a study" in refusal(search, *line(*PAID, PAY, storage="notes.log"))
    (elsewhere / "s/x/trial_0000").mkdir(parents=True)
    assert "holds trials" in refusal(search, *line(*PAID, PAY))


REFUSED = {
    "trial": (["task=cartpole", KL, "--trials=0"], "--trials: must be a whole number of at least 1, got 0"),
    "seeds": (["task=cartpole", KL, "--seeds=x"], "--seeds: must be a whole number"),
    "nothing searched": (["task=cartpole"], "no key is searched; say what to search: trust_region.max_kl=interval("),
    "no environment": ([KL], "no environment"),
    "a corner": (
        ["task=cartpole", "advantage.lam=interval(0.9,1.5)"],
        "advantage.lam must be at least 0 and at most 1",
    ),
    "a corner of two": (
        ["task=pendulum", "policy.initial_log_std=interval(-3,0)", "policy.min_log_std=interval(-4,-2)"],
        "policy.initial_log_std must be above policy.min_log_std",
    ),
    "a choice": (["task=cartpole", "policy.activation=tanh,tahn"], "policy.activation must be one of"),
    "no evaluations": (["task=cartpole", KL, "run.evaluation_episodes=0"], "without evaluations"),
    "no suffix": (["task=cartpole", KL, "--storage=x"], "name a file"),
    "a figure": (["task=cartpole", KL, "--storage=x.png"], "the figure is called so"),
    "a place": (["task=cartpole", KL, "--storage=/proc/x/y.log"], "cannot be made"),
    "an option": (["task=cartpole", KL, "--pruner=hope"], "--pruner"),
    "a task": (["task=cartpol", KL], "there is no task 'cartpol'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_line_and_nothing_is_made(name):
    words, told = REFUSED[name]
    assert told in refusal(search, *words)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in [name for name in sys.modules if name.startswith("trpo.search.")]:
        monkeypatch.delitem(sys.modules, name)
    assert refusal(search, "task=cartpole", KL) == "trpo-search: trpo-search needs optuna: pip install 'trpo[search]'"


@pytest.fixture
def shell(elsewhere):
    """Starts the same command in a process and a group of its own, and sees to the end of all of them."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=environment_variables(), start_new_session=True, **streams))
        return started[-1]

    yield start
    for one in started:
        with one, contextlib.suppress(ProcessLookupError):
            os.killpg(one.pid, signal.SIGKILL)


def wait_until(happened, one, seconds=60):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "nothing happened"
        assert one.poll() is None, one.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_a_search_goes_on_though_nobody_reads_how_its_trials_end(elsewhere, unread):
    words = line(*PAID, "+env.kwargs.pay=0.5", "critic.epochs=1,2", trials=2)
    ended = process(sys.executable, "-c", PROGRAM, *words, cwd=elsewhere, stdout=unread)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [trial.state.name for trial in trials_of(elsewhere)] == ["COMPLETE"] * 2


@pytest.mark.slow
def test_a_search_whose_process_is_killed_goes_on_to_the_same_end(elsewhere, shell):
    words = ("task=cartpole", *TINIER, "run.total_steps=640", "run.checkpoint_every=64", KL)
    assert search(line(*words, trials=3, seeds=1, storage="whole/x.log")) == 0
    one = shell(*line(*words, trials=3))
    wait_until(lambda: has_rows(elsewhere / "s/x/trial_0001/seed0", 10), one)
    one.kill()
    one.communicate()
    assert search(line(*words, trials=3)) == 0
    trials = trials_of(elsewhere)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert trials[2].params == trials[1].params
    whole = trials_of(elsewhere, "whole/x.log")
    assert [trial.params for trial in finished(trials)] == [trial.params for trial in whole]
    assert [trial.value for trial in finished(trials)] == [trial.value for trial in whole]
    assert trials[2].intermediate_values == whole[1].intermediate_values
    assert_same_run(elsewhere / "s/x/trial_0001/seed0", elsewhere / "whole/x/trial_0001/seed0")


@pytest.mark.slow
def test_two_shells_with_two_workers_each_end_with_just_as_many_trials_as_asked_for(elsewhere, shell):
    words = line(*PAID, PAY, trials=30)
    shells = [shell(*words, "--workers=2") for _ in range(2)]
    ended = [one.communicate(timeout=120) for one in shells]
    assert [one.returncode for one in shells] == [0, 0], ended
    trials = trials_of(elsewhere)
    assert len(trials) == 30
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    assert len({trial.user_attrs[WORKER][1] for trial in trials}) >= 3
    assert len({trial.params["env.kwargs.pay"] for trial in trials}) > 25
    assert sorted(path.name for path in (elsewhere / "s/x").glob("trial_*")) == [f"trial_{n:04}" for n in range(30)]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_workers_and_every_run_is_saved(number, code, elsewhere, shell):
    words = line("task=cartpole", *TINY, "run.total_steps=1000000", "run.evaluate_every=0", KL, trials=9)
    one = shell(*words, "--workers=2")
    runs = [elsewhere / f"s/x/trial_000{number}/seed0" for number in (0, 1)]
    wait_until(lambda: all(has_rows(run, 3) for run in runs), one)
    if number == signal.SIGINT:
        os.killpg(one.pid, number)  # as the terminal does
    else:
        one.send_signal(number)
    output = one.communicate(timeout=PATIENCE)
    assert one.returncode == code, output
    for run in runs:
        assert summary(run)["exit_reason"] == "SIGTERM"
        assert list((run / "checkpoints").glob("step_*.pt"))
    assert sorted(trial.state.name for trial in trials_of(elsewhere)) == ["FAIL"] * 2 + ["WAITING"] * 2


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_its_trial_to_the_others(elsewhere, shell):
    words = line(*PAID, "run.total_steps=1280", PAY, trials=4)
    one = shell(*words, "--workers=2")
    wait_until(lambda: has_rows(elsewhere / "s/x/trial_0001/seed0", 10), one)
    victim = trials_of(elsewhere)[1]
    os.kill(victim.user_attrs[WORKER][1], signal.SIGKILL)
    _, errors = one.communicate(timeout=120)
    assert "a worker was ended by SIGKILL" in errors
    trials = trials_of(elsewhere)
    assert one.returncode == 1
    assert [trial.number for trial in trials if trial.state.name == "FAIL"] == [1]
    (again,) = [trial for trial in trials if CONTINUES in trial.user_attrs]
    assert (again.params, again.state.name, len(trials)) == (victim.params, "COMPLETE", 5)
