"""The learning benchmark: statistics by enumeration, tables by hand, one real run from the command line."""

import itertools
import json

import benchmark_learning
import numpy as np
import pytest
from learning import contest, estimates, score, surrogates, tables, targets, work
from learning.contest import OURS, PEER, Job

from trpo.commands.compose import compose_jobs, register_schema, to_config
from trpo.record import checkpoint
from trpo.sampling.making import check_environment


def scores(contestant=OURS, task="hopper", seed=0, curve=((30, 1.0), (60, 2.0)), deterministic=5.0, training=3.0):
    """Return the scores of one run."""
    return {
        "contestant": contestant,
        "task": task,
        "seed": seed,
        "curve": [list(point) for point in curve],
        "deterministic": deterministic,
        "training": training,
        "seconds": 10.0 + seed,
        "env_steps": 60,
    }


@pytest.mark.parametrize("values", [[3.0, 1.0, 10.0], [1.0, 2.0, 3.0, 4.0, 20.0]])
def test_interval_is_that_of_all_resamples(values):
    def by_hand(resample):
        ordered, cut = sorted(resample), len(resample) // 4
        return np.mean(ordered[cut : len(ordered) - cut])

    every = [by_hand(resample) for resample in itertools.product(values, repeat=len(values))]
    found = estimates.estimate(values)
    assert found.iqm == pytest.approx(by_hand(values))
    spread = np.ptp(values)
    assert found.low == pytest.approx(np.quantile(every, 0.025, method="inverted_cdf"), abs=0.03 * spread)
    assert found.high == pytest.approx(np.quantile(every, 0.975, method="inverted_cdf"), abs=0.03 * spread)
    assert (found.mean, found.std) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values)))


def test_interval_of_one_seed_is_a_point():
    assert estimates.estimate([7.0])[1:] == (7.0, 0.0, 7.0, 7.0, 7.0)


def test_best_point_is_that_of_the_mean_over_seeds():
    """Not the mean of each seed's best, which would be 9."""
    runs = [
        scores(seed=0, curve=((30, 9.0), (60, 1.0), (90, 5.0))),
        scores(seed=1, curve=((30, 1.0), (60, 9.0), (90, 6.0))),
    ]
    result = estimates.summarise(runs)
    assert result.estimates["a"].scores == [5.0, 6.0]
    assert result.estimates["b"].scores == [5.0, 6.0]
    runs[0]["curve"][0][1] = 19.0
    assert estimates.summarise(runs).estimates["a"].scores == [19.0, 1.0]
    assert estimates.summarise(runs).estimates["b"].scores == [5.0, 6.0]


def test_last_point_is_the_last_policy_when_curves_differ_in_length():
    runs = [scores(seed=0, curve=((30, 1.0), (60, 2.0), (61, 3.0))), scores(seed=1, curve=((30, 1.0), (61, 4.0)))]
    assert estimates.summarise(runs).estimates["b"].scores == [3.0, 4.0]


def test_training_return_is_that_of_the_last_hundred_episodes(tmp_path):
    rows = [(50, 1000.0), (60, 2.0), (0, None), (30, 3.0), (20, 6.0)]
    lines = [
        {"rollout/episodes": count} | ({} if value is None else {"rollout/episode_return": value})
        for count, value in rows
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert score.last_training_return(file) == pytest.approx((60 * 2 + 30 * 3 + 20 * 6) / 110)
    file.write_text(json.dumps({"rollout/episodes": 0}))
    assert score.last_training_return(file) is None


@pytest.mark.parametrize("task", [*targets.TARGETS, *targets.HELD_OUT])
def test_every_run_is_a_valid_command(task, tmp_path):
    register_schema()
    job = Job(OURS, task, 3, tmp_path / "run", ("trust_region.max_kl=0.03",))
    config = to_config(compose_jobs(contest.training_arguments(job), None, multirun=False)[0])
    assert config.env.id == contest.env_id(task)
    check_environment(config.env)  # a version that Gymnasium has withdrawn, for instance, can be composed
    assert (config.seed, config.trust_region.max_kl, config.run.evaluation_episodes) == (3, 0.03, 20)
    assert config.run.total_steps <= targets.TARGETS.get(task, targets.Target(0, "c", "")).steps


def test_table_says_what_is_reached(tmp_path):
    runs = [scores(seed=seed, task=task, deterministic=value) for seed in (0, 1) for task, value in REACHED.items()]
    runs += [scores(PEER, "ant", seed, deterministic=900.0 + seed) for seed in (0, 1)]
    results = estimates.summarise_all(runs)
    lines = tables.against_targets(results, OURS, list(REACHED)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "3,372 (c) · reached" in lines[2]
    assert "4,502 (c) · missed" in lines[3]
    assert "900 (c) · reached" in lines[4]  # 900.5, as measured
    assert "1,000 (b) · missed" in lines[5]
    assert "| – |" in lines[6]
    assert "3,372 ± 0" in lines[2]
    alone = tables.against_targets(estimates.summarise_all(runs[:1]), OURS, ["hopper"])
    assert "| 3,372 |" in alone.splitlines()[2]
    late = estimates.summarise_all([run | {"env_steps": 1_006_000} for run in runs])
    assert "3,372 (c) · too many steps" in tables.against_targets(late, OURS, list(REACHED))
    assert "900 (c) · its own" in tables.write_table(results, PEER, ["ant"])
    tables.draw(results, [OURS, PEER], list(REACHED), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_both_surrogates_stand_in_one_table_beside_the_better_ones_goal():
    pathwise = ["surrogate=pathwise"]
    runs = [scores("pathwise", "walker2d", seed, deterministic=value) for seed, value in ((0, 5100.0), (1, 5301.0))]
    runs = [run | {"overrides": pathwise} for run in runs] + [scores(OURS, "walker2d", deterministic=5000.0)]
    runs += [scores("pathwise", "Pusher-v5", deterministic=-30.0) | {"overrides": pathwise}]
    runs += [scores(OURS, "hopper"), scores("pathwise", "reacher", curve=((30, -9.0), (60, -4.2)))]
    results = estimates.summarise_all(runs)
    lines = surrogates.side_by_side(results, ["hopper", "walker2d", "reacher", "Pusher-v5"]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 2 + 1 + 1  # hopper has been run with one of them only
    assert lines[2].startswith("| Walker2d-v5 | 5,200 (c) · reached, 5,200 | score | 2.00 | 2.00 | 5,000 | 3.00 | 1 ")
    assert lines[2].endswith("| `task=walker2d` |")
    assert "| pathwise |" in lines[3]
    assert "| 5,200 [5,100, 5,301] |" in lines[3]
    assert lines[3].endswith("| 2 | 10 | `task=walker2d surrogate=pathwise` |")
    assert "-4.10 (a) · missed, -4.20" in lines[4]
    assert lines[5].startswith("| Pusher-v5 | – | pathwise |")
    assert lines[5].endswith("| `env.id=Pusher-v5 surrogate=pathwise` |")
    assert surrogates.side_by_side(estimates.summarise_all([scores()]), ["hopper"]) == ""


def test_figure_names_everybody_who_is_in_it(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(tables.plt, "close", figures.append)
    runs = [scores(task="hopper"), scores(PEER, "ant")]
    tables.draw(estimates.summarise_all(runs), [OURS, PEER], ["hopper", "ant"], tmp_path / "figure.png")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [OURS, PEER]


def test_a_report_keeps_the_runs_of_an_earlier_one_whose_directories_are_gone(tmp_path, capsys):
    stem = tmp_path / "table"
    rounds = [
        [scores(task="hopper", deterministic=1000.0), scores(task="ant", deterministic=2000.0)],
        [scores(task="ant", deterministic=3000.0), scores("another", "ant", deterministic=4000.0)],
    ]
    for number, runs in enumerate(rounds):
        for run in runs:
            file = tmp_path / f"out{number}" / run["contestant"] / run["task"] / "seed0" / "scores.json"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(run))
        assert benchmark_learning.main([str(tmp_path / f"out{number}"), "--report", str(stem)]) == 0
    kept = json.loads(stem.with_suffix(".json").read_text())
    assert [(run["contestant"], run["task"], run["deterministic"]) for run in kept] == [
        ("another", "ant", 4000.0),
        (OURS, "ant", 3000.0),
        (OURS, "hopper", 1000.0),
    ]
    assert "| Hopper-v5 |" in stem.with_suffix(".md").read_text()


def test_one_name_is_one_configuration(tmp_path, capsys):
    file = tmp_path / "wide" / "hopper" / "seed0" / "scores.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(scores("wide") | {"overrides": ["policy.hidden_sizes=[8]"]}))
    line = [str(tmp_path), "--tasks", "hopper", "--seeds", "0", "--name", "wide", "--set", "policy.hidden_sizes=[9]"]
    assert benchmark_learning.main(line) == 2
    assert "is of policy.hidden_sizes=[8]: choose another --name" in capsys.readouterr().err
    assert benchmark_learning.main([*line[:-1], "policy.hidden_sizes=[8]"]) == 0


def test_what_a_run_that_was_cut_left_besides_is_no_point(tmp_path):
    """Cut at 20, 58 and 95 thousand steps; 31, 61 and 91 are the first after a multiple of thirty, 121 is the end."""
    for steps in (20, 31, 58, 61, 91, 95, 121):
        (tmp_path / checkpoint.numbered_name(1000 * steps)).touch()
    found = [file.name for file in score.points(tmp_path, 30_000)]
    assert found == [checkpoint.numbered_name(1000 * steps) for steps in (31, 61, 91, 121)]
    assert [file.name for file in score.points(tmp_path, 0)][-1] == checkpoint.numbered_name(121_000)


REACHED = {"hopper": 3372.0, "walker2d": 4501.9, "ant": 901.0, "inverted_pendulum": 1000.0, "Pusher-v5": -30.0}


@pytest.mark.slow
def test_a_real_run_is_scored_and_not_repeated(tmp_path, capsys):
    arguments = [str(tmp_path / "out"), "--tasks", "CartPole-v1", "--seeds", "0", "1", "--name", "tiny", "--set"]
    arguments += ["run.total_steps=1000", "run.steps_per_iteration=256", "run.checkpoint_every=300"]
    assert benchmark_learning.main(arguments) == 0
    assert "CartPole-v1" in capsys.readouterr().out
    files = [tmp_path / f"out/tiny/CartPole-v1/seed{seed}/scores.json" for seed in (0, 1)]
    first = [json.loads(file.read_text()) for file in files]
    assert [run["seed"] for run in first] == [0, 1]
    assert first[0]["overrides"] == arguments[arguments.index("--set") + 1 :]
    assert all(len(run["curve"]) == 4 and run["curve"][-1][0] >= 1000 for run in first)
    assert first[0]["curve"] != first[1]["curve"]
    assert all(run["deterministic"] > 0 and run["training"] > 0 for run in first)
    for suffix in ("md", "json", "png"):
        assert (tmp_path / f"out/learning.{suffix}").exists()
    assert json.loads((tmp_path / "out/learning.json").read_text()) == first

    files[1].unlink()
    before = files[0].stat().st_mtime_ns
    assert benchmark_learning.main(arguments) == 0  # trains nothing again, scores what was not scored
    assert files[0].stat().st_mtime_ns == before
    again = json.loads(files[1].read_text())
    assert again == first[1]


@pytest.mark.slow
def test_failed_run_is_named_and_the_rest_goes_on(tmp_path, capsys):
    jobs = [
        Job(OURS, task, 0, tmp_path / task, ("run.total_steps=300", "run.steps_per_iteration=256"))
        for task in ("NoSuchThing-v0", "CartPole-v1")
    ]
    assert work.run_all(jobs, steps=0) == 1
    assert jobs[1].scores.exists()
    assert not jobs[0].scores.exists()
    assert "NoSuchThing-v0 seed 0: failed" in capsys.readouterr().err


def test_peer_is_scored_alike(tmp_path):
    pytest.importorskip("sb3_contrib")
    job = Job(PEER, "CartPole-v1", 0, tmp_path / "run")
    assert work.run_all([job], steps=2_048) == 0
    found = json.loads(job.scores.read_text())
    assert found["env_steps"] >= 2_048
    assert found["deterministic"] > 0
    assert found["curve"][-1][0] == found["env_steps"]
