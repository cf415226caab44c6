"""What a run shows besides its curves (profiles), and what a report draws of several runs."""

import json
from contextlib import closing

import numpy as np
import probes  # noqa: F401  registers the environments
import pytest
import yaml
from matplotlib.image import imread
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import TINY, compose, everything_below, fingerprints, rows, train_tiny

from trpo.record.figures import draw_profile
from trpo.record.report_figures import Score, draw_learning, draw_scores, draw_trust_region
from trpo.record.runs import Run, read_run
from trpo.trainer import Trainer
from trpo.update.profile import profile_step

FIVE_ITERATIONS = ("run.total_steps=192", "run.evaluation_episodes=0")
EVERY_SECOND = ("record.profile_every=2", "record.dump_every=3")


@pytest.fixture(scope="module", params=["cartpole", "pendulum"])
def task(request):
    return request.param


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    directory = tmp_path_factory.mktemp("figures") / "run"
    assert train_tiny(directory, *FIVE_ITERATIONS, *EVERY_SECOND, task=task) == 0
    assert len(rows(directory)) == 5
    return directory


@pytest.fixture(scope="module")
def events(run):
    return EventAccumulator(str(run), size_guidance={"images": 0}).Reload()


def profile(run, steps):
    return json.loads((run / "profiles" / f"step_{steps:012d}.json").read_text())


def test_every_second_iteration_is_profiled_and_every_third_dumped(run):
    steps = [row["env_steps"] for row in rows(run)]
    assert steps == [64, 96, 128, 160, 192]
    assert [path.name for path in everything_below(run / "profiles")] == [f"step_{n:012d}.json" for n in (96, 160)]
    assert [path.name for path in everything_below(run / "dumps")] == [f"step_{n:012d}.npz" for n in (128,)]


def test_every_profile_is_a_picture_in_tensorboard(run, events, tmp_path):
    assert events.Tags()["images"] == ["profile/step"]
    images = events.Images("profile/step")
    assert [image.step for image in images] == [96, 160]
    for image in images:
        (tmp_path / "image.png").write_bytes(image.encoded_image_string)
        picture = imread(tmp_path / "image.png")
        assert picture.shape[:2] == (image.height, image.width)
        assert picture.std() > 0.05  # something is drawn
    assert images[0].encoded_image_string != images[1].encoded_image_string


def test_a_profile_is_that_of_its_iteration(run, task):
    trainer = Trainer(compose(f"task={task}", *yaml.safe_load((run / "overrides.yaml").read_text())))
    trainer.warm_up()
    for number in range(1, 5):
        iteration = trainer.iterate()
        if number % 2 == 0:
            found = profile_step(trainer.agent.policy, iteration.batch, iteration.step, trainer.config.trust_region)
            assert profile(run, trainer.env_steps) == found._asdict()
        assert (iteration.profile is None) is (number % 2 == 1)
    trainer.close()


@pytest.mark.parametrize(
    "overrides", [["env.id=Pendulum-v1", "policy.final_std_scale=0.5"], ["env.id=probes:Pictured-v0"]]
)
def test_a_profile_is_of_the_policy_that_took_the_step_whatever_moves_it_afterwards(overrides):
    """σ by its schedule, statistics of pictures: both are parts of the policy, and neither is in θ."""
    with closing(Trainer(compose(*TINY, *overrides, "record.profile_every=1"))) as trainer:
        for _ in range(3):
            row, *_, found = trainer.iterate()
            assert found.kl[0] == pytest.approx(0, abs=1e-12)
            assert found.kl[10] == pytest.approx(row["trust_region/kl_full_step"], rel=1e-5)
            assert found.improvement[10] == pytest.approx(found.candidates[0]["improvement"], rel=1e-4)


def test_a_profile_agrees_with_the_row_of_its_iteration(run):
    for row in (rows(run)[1], rows(run)[3]):
        found = profile(run, row["env_steps"])
        tried = found["candidates"]
        assert found["max_kl"] == row["trust_region/max_kl"]
        assert len(tried) == row["trust_region/backtracks"] + 1
        assert (
            (tried[-1]["verdict"] == "accepted") is (found["outcome"] == "accepted") is (row["outcome"] == "accepted")
        )
        assert row["outcome"] == "accepted"
        assert tried[0]["kl"] == row["trust_region/kl_full_step"]
        assert tried[-1]["kl"] == row["trust_region/kl"]
        assert tried[-1]["fraction"] == row["trust_region/step_fraction"]
        assert found["kl"][10] == pytest.approx(row["trust_region/kl_full_step"], rel=1e-5)


@pytest.mark.parametrize("recording", [[], [*EVERY_SECOND, "record.profile_every=1", "record.dump_every=1"]])
def test_recording_does_not_change_a_run(run, task, recording, tmp_path):
    assert train_tiny(tmp_path / "run", *FIVE_ITERATIONS, "record.profile_every=0", *recording, task=task) == 0
    assert (tmp_path / "run" / "profiles").exists() is (tmp_path / "run" / "dumps").exists() is bool(recording)
    assert fingerprints(tmp_path / "run") == fingerprints(run)


def drawn(found, title="iteration 3"):
    figure = draw_profile(found, title)
    return figure, dict(zip(("kl", "surrogate", "residual", "halves"), figure.axes, strict=True))


def lines(panel):
    return {line.get_label(): line for line in panel.get_lines()}


def test_the_picture_draws_the_data_under_its_names(run):
    found = profile(run, 96)
    figure, panels = drawn(found)
    assert figure.get_suptitle() == f"iteration 3: {found['outcome']}"
    curves = {
        "kl": {"exact": "kl", "quadratic: ½t²sᵀFs": "kl_quadratic", "with the cubic term": "kl_cubic"},
        "surrogate": {"exact": "improvement", "linear: t gᵀs": "improvement_linear"},
    }
    for name, labels in curves.items():
        for label, key in labels.items():
            line = lines(panels[name])[label]
            assert (list(line.get_xdata()), list(line.get_ydata())) == (found["fractions"], found[key])
        assert {text.get_text() for text in panels[name].get_legend().get_texts()} >= set(labels)
    assert set(lines(panels["kl"])["allowed: δ"].get_ydata()) == {found["max_kl"]}
    (residual,) = panels["residual"].get_lines()
    assert list(residual.get_ydata()) == found["cg_residuals"]
    for label in ("promised", "kept"):
        line, halves = lines(panels["halves"])[label], found["halves"]
        assert (list(line.get_xdata()), list(line.get_ydata())) == (halves["relative_dampings"], halves[label])
    assert all(panel.get_xlabel() and panel.get_ylabel() for panel in panels.values())


def test_a_profile_without_halves_is_drawn_without_them(run):
    """Those of one environment, and of versions before."""
    assert len(draw_profile(profile(run, 96) | {"halves": None}, "").axes) == 3
    assert len(draw_profile({k: v for k, v in profile(run, 96).items() if k != "halves"}, "").axes) == 3


def test_candidates_are_marked_where_they_are_with_one_legend_entry_for_each_verdict(run):
    found = profile(run, 96) | {
        "candidates": [
            {"fraction": 1.0, "kl": 0.012, "improvement": 0.3, "verdict": "kl_too_large"},
            {"fraction": 0.9, "kl": 0.011, "improvement": 0.2, "verdict": "kl_too_large"},
            {"fraction": 0.8, "kl": 0.009, "improvement": 0.1, "verdict": "accepted"},
        ]
    }
    for name, panel in drawn(found)[1].items():
        marks = [line for line in panel.get_lines() if line.get_linestyle() == "None"]
        if name in ("residual", "halves"):
            assert marks == []
            continue
        height = {"kl": "kl", "surrogate": "improvement"}[name]
        assert [(*mark.get_xdata(), *mark.get_ydata()) for mark in marks] == [
            (candidate["fraction"], candidate[height]) for candidate in found["candidates"]
        ]
        texts = [text.get_text() for text in panel.get_legend().get_texts()]
        assert texts.count("kl too large") == texts.count("accepted") == 1


def scored(*scores):
    """Runs with these final evaluations, after one that does not count."""
    return [
        Run(str(k), {}, [{"env_steps": n, "evaluation/return_mean": x} for n, x in ((10, -1e3), (20, score))], *EMPTY)
        for k, score in enumerate(scores)
    ]


EMPTY = ({}, "finished", [], [])

MEANS = {  # scores and their interquartile mean: what is left without ⌊n/4⌋ on either side
    "one": ([7.0], 7.0),
    "two": ([1.0, 4.0], 2.5),
    "three": ([1.0, 4.0, 100.0], 35.0),
    "four": ([100.0, 1.0, 4.0, 2.0], 3.0),
    "eight": ([8.0, 1.0, 7.0, 2.0, 6.0, 3.0, 5.0, -1e9], 4.0),
}


@pytest.mark.parametrize("case", MEANS)
def test_the_score_is_the_interquartile_mean_of_the_last_evaluations(case):
    values, mean = MEANS[case]
    score = Score(scored(*values))
    assert score.values == values
    assert score.iqm == pytest.approx(mean) == stats.trim_mean(values, 0.25)


def test_one_score_has_no_interval_and_none_has_no_mean():
    assert Score(scored(7.0)).interval is None
    nothing = Score([Run("a", {}, [{"env_steps": 1}], *EMPTY)])
    assert (nothing.values, nothing.iqm, nothing.interval) == ([], None, None)


def test_the_interval_of_two_scores_is_all_between_them():
    assert Score(scored(1.0, 4.0)).interval == (1.0, 4.0)  # a quarter of all resamples each


def test_equal_scores_have_an_interval_of_no_width():
    assert Score(scored(500.0, 500.0, 500.0)).interval == (500.0, 500.0)


def test_the_interval_is_that_of_a_percentile_bootstrap_by_hand():
    values = np.random.default_rng(4).normal(size=20)
    resampled = np.sort(np.random.default_rng(5).choice(values, (100_000, 20)), axis=1)[:, 5:15].mean(1)
    score = Score(scored(*values))
    assert score.interval == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.03)
    assert score.interval == Score(scored(*values)).interval


def returned(*points):
    return Run("run", {}, [{"env_steps": n, "rollout/episode_return": x} for n, x in points], *EMPTY)


def test_the_learning_curve_is_the_mean_of_the_seeds_with_a_t_interval_where_all_have_values():
    runs = [returned((0, 0.0), (100, 10.0)), returned((20, 4.0), (120, 24.0)), returned((0, 2.0))._replace(rows=[])]
    (panel,) = draw_learning({"a": runs, "b": [returned((0, 5.0), (50, 5.0))]}).axes
    first, *seeds, second = panel.get_lines()
    assert [list(seed.get_ydata()[[0, -1]]) for seed in seeds] == [[0.0, 10.0], [4.0, 24.0]]  # in full
    assert panel.get_ylim() == pytest.approx((0 - 1.2, 24 + 1.2))  # that of the curves: the band is far wider
    assert (first.get_label(), second.get_label()) == ("a (2 seeds)", "b (1 seed)")
    x, y = first.get_xdata(), first.get_ydata()
    assert (x[0], x[-1]) == (20, 100)
    np.testing.assert_allclose(y, (x / 10 + x / 5) / 2)
    (band,) = panel.collections
    half = 12.706204736432095 * (100 / 5 - 100 / 10) / 2  # t(0.975, 1) · |difference| / 2
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(15 + half)


def test_without_a_whole_episode_the_learning_curves_say_so():
    (panel,) = draw_learning({"a": [returned((0, 0.0))._replace(rows=[{"env_steps": 100}])]}).axes
    assert [text.get_text() for text in panel.texts] == ["no episode of training has ended"]
    assert not [*panel.get_xticks(), *panel.get_yticks()]
    (panel,) = draw_learning({"a": [returned((0, 0.0))]}).axes
    assert not panel.texts


def test_a_seed_that_stopped_early_ends_the_mean_and_no_curve_of_another():
    stopped = returned((0, 0.0), (40, 40.0))._replace(status="stopped")
    (panel,) = draw_learning({"a": [returned((0, 5.0), (100, 5.0)), stopped]}).axes
    assert [line.get_xdata()[-1] for line in panel.get_lines()] == [40, 100, 40]
    late = returned((60, 5.0), (100, 5.0))
    (panel,) = draw_learning({"a": [late, stopped]}).axes  # nowhere do both have values
    assert set(panel.get_lines()[0].get_xdata()) == {60}


@pytest.mark.parametrize("status", ["unfinished", "stopped by SIGTERM", "stopped by callback", "failed: no"])
def test_a_run_that_did_not_finish_has_no_score_and_does_not_cut_the_curves_of_others(status):
    short = returned((0, 0.0), (40, 0.0))._replace(status=status)
    score = Score([*scored(1.0, 4.0), scored(100.0)[0]._replace(status=status)])
    assert (score.values, score.left_out) == ([1.0, 4.0], 1)
    (panel,) = draw_learning({"a": [returned((0, 5.0), (100, 5.0)), short]}).axes
    assert [(line.get_label(), line.get_xdata()[-1]) for line in panel.get_lines()] == [("a (1 seed)", 100)]
    (panel,) = draw_learning({"a": [short]}).axes  # better than nothing
    assert panel.get_lines()[0].get_xdata()[-1] == 40


@pytest.mark.parametrize("last", [300, 20_000, 1_300_000, 3_000_000_000])
def test_ticks_say_where_they_are(last):
    (panel,) = draw_learning({"a": [returned((0, 0.0), (last, 1.0))]}).axes
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    texts = [text.get_text().replace("−", "-").replace(",", "") for text in panel.get_xticklabels()]
    told = [float(text.rstrip("kMG")) * units.get(text[-1], 1) for text in texts]
    assert told == pytest.approx(list(panel.get_xticks()))


def test_small_errors_have_ticks_that_differ():
    rows = [{"env_steps": n, "trust_region/kl_error_relative": x} for n, x in ((1, 0.0), (2, 0.01))]
    _, middle, _ = draw_trust_region(Run("run", {"env.id": "Some-v0", "seed": 0}, rows, *EMPTY)).axes
    texts = [text.get_text() for text in middle.get_yticklabels()]
    assert len(set(texts)) == len(texts)


def test_a_figure_of_scores_has_a_dot_for_each_seed_and_a_line_for_each_group():
    (panel,) = draw_scores({"a": scored(1.0, 4.0), "b": scored(7.0), "c": []}).axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["a", "b", "c"]
    dots = [(list(line.get_xdata()), set(line.get_ydata())) for line in panel.get_lines() if line.get_marker() == "."]
    assert dots == [([1.0, 4.0], {0}), ([7.0], {1}), ([], set())]


def test_the_figure_of_the_trust_region_draws_the_rows(run):
    read, told = read_run(run), rows(run)
    top, middle, _ = draw_trust_region(read).axes
    drawn = {"allowed: δ": "max_kl", "spent: exact KL": "kl", "predicted: ½ΔᵀFΔ": "kl_quadratic"}
    for label, tag in drawn.items():
        line = {one.get_label(): one for one in top.get_lines()}[label]
        assert list(line.get_xdata()) == [row["env_steps"] for row in told]
        assert list(line.get_ydata()) == [row[f"trust_region/{tag}"] for row in told]
    errors = [row["trust_region/kl_error_relative"] for row in told if "trust_region/kl_error_relative" in row]
    assert list(middle.get_lines()[1].get_ydata()) == errors
