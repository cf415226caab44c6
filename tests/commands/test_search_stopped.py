"""A search that was stopped and goes on: it tries, and knows, what one does that was never stopped."""

import functools
from itertools import count

import pytest
from same_runs import assert_same_run
from tiny_runs import checkpoints, summary
from tiny_searches import KL, PAID, PAY, TINIER, asked, disturb, line, terminate, trials_of

from trpo.commands.search import search
from trpo.search.found import ranking
from trpo.search.study import CONTINUES, DIRECTORY, finished, make_study, opened

CARTPOLE = ("task=cartpole", *TINIER, "run.total_steps=128", KL)  # three evaluations a seed
EVERY = "run.checkpoint_every=32"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped_in(monkeypatch, when, *words, **options):
    """Run a search that gets a SIGTERM in the iterations for which `when` says so."""
    with monkeypatch.context() as patch:
        disturb(patch, terminate, when)
        assert search(line(*words, **options)) == 143


def in_the_last_seed_of_trial_1(trainer):
    """Whether the second of three iterations of the second trial's second seed begins; trial 0 is as configured."""
    return trainer.config.trust_region.max_kl != 0.04 and trainer.config.seed == 1 and trainer.iteration == 1


def known(directory, storage):
    """All that the study knows of the trials that count."""
    trials = finished(trials_of(directory, storage))
    return [(one.params, one.state.name, one.value, one.intermediate_values) for one in trials]


@pytest.mark.slow
def test_what_is_tried_and_what_is_known_of_it_are_the_same_after_a_stop_inside_a_trial(elsewhere, monkeypatch):
    assert search(line(*CARTPOLE, trials=3, seeds=2, storage="whole/x.log")) == 0
    stopped_in(monkeypatch, in_the_last_seed_of_trial_1, *CARTPOLE, trials=3, seeds=2)
    assert [one.state.name for one in trials_of(elsewhere)] == ["COMPLETE", "FAIL", "WAITING"]
    assert search(line(*CARTPOLE, trials=3, seeds=2)) == 0
    whole = known(elsewhere, "whole/x.log")
    assert known(elsewhere, "s/x.log") == whole
    assert [sorted(values) for *_, values in whole] == [[1, 2, 3, 4, 5, 6]] * 3


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints_left", [0, 1])
def test_what_a_kill_left_behind_the_last_checkpoint_is_forgotten(checkpoints_left, elsewhere, monkeypatch):
    words = (*CARTPOLE, EVERY)
    assert search(line(*words, storage="whole/x.log")) == 0
    stopped_in(monkeypatch, lambda trainer: trainer.iteration == 1, *words)
    run = elsewhere / "s/x/trial_0000/seed0"
    (run / "summary.json").unlink()
    for file in checkpoints(run)[checkpoints_left:]:
        file.unlink()
    assert search(line(*words)) == 0
    assert known(elsewhere, "s/x.log") == known(elsewhere, "whole/x.log")
    assert_same_run(run, elsewhere / "whole/x/trial_0000/seed0")


def test_a_trial_is_called_as_its_directory(elsewhere, monkeypatch, capsys):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    stopped_in(monkeypatch, lambda trainer: trainer.config.env.kwargs["pay"] != 0.5, *words, trials=3)
    assert "trial 1 was stopped" in capsys.readouterr().out
    assert search(line(*words, trials=3)) == 0
    assert "trial 1 complete" in capsys.readouterr().out
    rows = ranking(opened(elsewhere / "s/x.log"))
    assert sorted(row.number for row in rows) == [0, 1, 3]
    for row in rows:
        kept = (elsewhere / f"s/x/trial_{row.number:04}/seed0/overrides.yaml").read_text()
        assert f"env.kwargs.pay={row.values['env.kwargs.pay']}" in kept
    assert f"Trial {rows[0].number} of x.log" in (elsewhere / "s/x/task/best.yaml").read_text()


@pytest.mark.slow
def test_trials_that_have_a_key_drawn_draw_it_differently(elsewhere):
    assert search(line(*PAID, PAY, trials=3)) == 0
    assert len({one.params["env.kwargs.pay"] for one in trials_of(elsewhere)}) == 3


HOPELESS = 0.3  # of the sixth trial, given up after its first evaluation


def with_a_hopeless_trial():
    """The words of a search whose sixth trial is the first that may be given up, and is."""
    words = (*PAID, "+env.kwargs.pay=0.5", PAY)
    study = make_study(asked(*words))
    for pay in (0.6, 0.55, 0.65, 0.7, HOPELESS):
        study.enqueue_trial({"env.kwargs.pay": pay})
    return study, words


@pytest.mark.slow
def test_a_signal_in_the_iteration_after_which_a_trial_is_given_up_changes_nothing_about_that(elsewhere, monkeypatch):
    _, words = with_a_hopeless_trial()
    stopped_in(monkeypatch, lambda trainer: trainer.config.env.kwargs["pay"] == HOPELESS, *words, trials=6)
    assert [one.state.name for one in trials_of(elsewhere)] == ["COMPLETE"] * 5 + ["PRUNED"]


@pytest.mark.slow
def test_a_trial_that_was_given_up_is_not_run_on_though_its_process_died_before_it_could_say_so(elsewhere):
    study, words = with_a_hopeless_trial()
    assert search(line(*words, trials=6)) == 0
    study.enqueue_trial({"env.kwargs.pay": HOPELESS}, user_attrs={CONTINUES: 5, DIRECTORY: "trial_0005"})
    assert search(line(*words, trials=6)) == 0
    first, again = trials_of(elsewhere)[5:]
    assert (again.state, again.intermediate_values) == (first.state, first.intermediate_values)
    assert again.state.name == "PRUNED"
    assert summary(elsewhere / "s/x/trial_0005/seed0")["exit_reason"] == "pruned"


@pytest.mark.slow
def test_what_is_tried_is_the_same_wherever_among_random_and_learned_trials_a_search_stops(elsewhere, monkeypatch):
    words = (*PAID, "+env.kwargs.pay=0.5", PAY, "critic.epochs=tag(log,interval(3,9))")
    assert search(line(*words, trials=14, storage="whole/x.log")) == 0  # ten of them random
    for iterations in (5, 16, 2):
        begun = functools.partial(next, count(1))
        stopped_in(monkeypatch, lambda trainer, begun=begun, last=iterations: begun() == last, *words, trials=14)
    assert search(line(*words, trials=14)) == 0
    assert known(elsewhere, "s/x.log") == known(elsewhere, "whole/x.log")
    assert len(trials_of(elsewhere)) == 14 + 3
