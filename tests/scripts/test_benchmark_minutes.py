"""The race against the clock: passes, curves, plans and cells worked out by hand; processes that are a line long."""

import importlib.util
import json
import signal
import subprocess
import sys
import time

import benchmark_minutes
import numpy as np
import pytest
from minutes import contest, episodes, settings, tables, work
from minutes.contest import CONTESTANTS, OURS, TASKS, Run
from minutes.episodes import WINDOW, Course, Point, Tail

from trpo.commands.compose import compose_jobs, register_schema, to_config


def row(seconds, value, count=1, *, steps=0):
    """A line of episodes that ended so many seconds after the start."""
    return {
        "wall_time": 100.0 + seconds,
        "env_steps": steps or int(seconds * 10),
        "rollout/episode_return": value,
        "rollout/episodes": count,
    }


def course(*rows, thresholds=(3, 5), limit=600.0):
    found = Course(thresholds, started=100.0, limit=limit)
    found.take(rows)
    return found


def result(contestant="score", task="hopper", seed=0, seconds=None, final_mean=1000.0, **others):
    """A result; `seconds` of the task's thresholds, None: not passed."""
    thresholds = TASKS[task].thresholds
    return {
        **{"contestant": contestant, "task": task, "seed": seed, "minutes": 10.0, "machine": "CPU A"},
        "seconds": dict(zip(map(str, thresholds), seconds or [None] * len(thresholds), strict=True)),
        **{"final_mean": final_mean, "curve": [[1.0, 10, 0.0], [3.0, 30, final_mean]]},
        **others,
    }


def test_nothing_is_passed_before_there_are_twenty_episodes():
    early = [row(second, 9.0) for second in range(1, WINDOW)]
    assert course(*early).passed == {3: None, 5: None}
    assert course(*early, row(20, 9.0)).passed == {3: 20.0, 5: 20.0}


def test_a_threshold_is_passed_by_the_mean_and_once():
    # after twenty zeros, each 8 adds 0.4: the eighth makes 3.2, and twelve make 4.8; then it falls
    rows = [row(1, 0.0, 20), *[row(1 + n, 8.0) for n in range(1, 13)], row(14, 0.0, 20), row(15, 4.0, 20)]
    found = course(*rows)
    assert found.passed == {3: 9.0, 5: None}
    assert [point.mean for point in found.curve] == pytest.approx([0.4 * n for n in range(13)] + [0.0, 4.0])


def test_a_mean_that_only_meets_a_threshold_has_not_passed_it():
    assert course(row(1, 3.0, 20)).passed == {3: None, 5: None}


def test_a_line_stands_for_as_many_episodes_as_it_says():
    assert course(row(1, 0.0, 30), row(2, 4.0, 15)).curve[-1].mean == pytest.approx(3.0)
    assert course(row(1, 0.0, 19), row(2, 4.0, 60)).curve[-1] == Point(2.0, 20, 4.0)


def test_a_rollout_without_an_end_counts_its_steps_and_no_point():
    found = course({"wall_time": 101.0, "env_steps": 512, "rollout/episodes": 0})
    assert (found.env_steps, found.curve) == (512, [])
    assert found.result() == {"seconds": {"3": None, "5": None}, "final_mean": None, "env_steps": 512, "curve": []}


def test_episodes_that_end_in_one_step_are_one_point():
    found = course(row(1, 0.0, 20), row(2, 4.0, steps=20), row(2.1, 8.0, steps=20))
    assert found.curve == [Point(1.0, 10, 0.0), Point(pytest.approx(2.1), 20, pytest.approx(0.6))]


def test_what_comes_after_the_end_is_left_out():
    late = course(row(1, 4.0, 20), row(600.5, 9.0, 20))
    assert (late.passed, late.env_steps) == ({3: 1.0, 5: None}, 10)
    through = course(row(1, 9.0, 20), row(2, 0.0, 20))
    assert through.complete
    assert through.result()["final_mean"] == 9.0


def test_a_curve_keeps_its_ends_and_even_distances():
    points = [Point(float(n), n, 0.0) for n in range(9)]
    assert episodes.thinned(points, 9) == points
    assert [point.env_steps for point in episodes.thinned(points, 5)] == [0, 2, 4, 6, 8]
    assert [point.env_steps for point in episodes.thinned(points, 4)] == [0, 3, 5, 8]  # 2.67 and 5.33, rounded
    many = [row(n / 100, 1.0, steps=n) for n in range(1, 1_000)]
    assert len(course(*many).result()["curve"]) == episodes.MOST_POINTS


def test_a_growing_file_is_read_in_whole_lines(tmp_path):
    file = tmp_path / "metrics.jsonl"
    tail = Tail(file)
    assert tail.rows() == []
    file.write_text('{"a": 1}\n{"b": ')
    assert tail.rows() == [{"a": 1}]
    with file.open("a") as more:
        more.write('"π"}\n{"c": 3}\n')
    assert tail.rows() == [{"b": "π"}, {"c": 3}]
    assert tail.rows() == []


def test_an_episode_of_a_peer_reads_as_a_line_of_ours(tmp_path):
    with (tmp_path / "episodes.jsonl").open("w") as file:
        episodes.write_episode(file, 70, 12.5)
        (found,) = Tail(tmp_path / "episodes.jsonl").rows()  # while it is open
    assert found.pop("wall_time") == pytest.approx(time.time(), abs=60)
    assert found == {"env_steps": 70, "rollout/episode_return": 12.5, "rollout/episodes": 1}


def test_ours_have_three_seeds_everywhere_and_peers_on_two_tasks():
    runs = contest.planned()
    assert len(runs) == len({*runs}) == 2 * 5 * 3 + 4 * (2 * 3 + 3)
    assert {run.seed for run in runs if run[:2] == ("pathwise", "ant")} == {0, 1, 2}
    assert {run.seed for run in runs if run[:2] == ("sb3-sac", "ant")} == {0}
    assert {run.seed for run in runs if run[:2] == ("sb3-sac", "humanoid")} == {0, 1, 2}
    assert [run.contestant for run in runs[: len(CONTESTANTS)]] == list(CONTESTANTS)  # they take turns


def test_what_is_there_is_not_missing_if_it_had_as_long(tmp_path, capsys):
    file = tmp_path / "minutes.jsonl"
    file.write_text("".join(json.dumps(result(seed=seed)) + "\n" for seed in (0, 2)))
    chosen = [str(file), "--contestants", "score", "sb3-ppo", "--tasks", "hopper", "--list"]
    assert benchmark_minutes.main(chosen) == 0
    listed = capsys.readouterr()
    assert listed.out == "sb3-ppo hopper seed 0\nscore hopper seed 1\n"
    assert listed.err == "2 runs, at most 1,200 seconds\n"
    assert benchmark_minutes.main([*chosen, "--minutes", "0.5"]) == 0
    assert capsys.readouterr().err == "4 runs, at most 120 seconds\n"


def test_who_is_not_installed_is_named_before_anything_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tianshou" else object())
    monkeypatch.setattr(benchmark_minutes, "run_all", lambda *_, **__: pytest.fail("a run"))
    assert benchmark_minutes.main([str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err == "not installed: tianshou; pip install 'trpo[peers,envpool]'\n"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("surrogate", OURS)
def test_ours_are_the_tasks_as_shipped(task, surrogate, tmp_path):
    register_schema()
    words = contest.arguments(Run(surrogate, task, 2), tmp_path)
    config = to_config(compose_jobs(words, None, multirun=False)[0])
    assert (config.env.id, config.seed, config.trust_region.surrogate) == (TASKS[task].id, 2, surrogate)
    assert (config.env.backend, config.env.pin, config.run.threads) == ("envpool", True, 2)
    assert config.run.total_steps == 1_000_000
    assert words[-1] == f"hydra.run.dir={contest.episodes_file(Run(surrogate, task, 2), tmp_path).parent}"
    typed = " ".join(words[:-1]).replace(f"task={task}", "task=TASK").replace("seed=2", "seed=SEED")
    assert CONTESTANTS[surrogate].told == f"`python -m trpo {typed}`"


@pytest.mark.parametrize("contestant", [name for name in CONTESTANTS if name not in OURS])
def test_settings_of_peers_can_be_kept_in_a_result(contestant):
    for task in TASKS:
        found = settings.settings_of(contestant, task)
        assert json.loads(json.dumps(found)) == found


def test_sb3_takes_the_settings():
    pytest.importorskip("sb3_contrib")
    from minutes import sb3_peers

    for contestant in ("sb3-contrib-trpo", "sb3-ppo", "sb3-sac"):
        for task in TASKS:
            model = sb3_peers.make_model(contestant, task, 0)
            for name, value in settings.settings_of(contestant, task)["algorithm"].items():
                found = getattr(model, name)
                assert name == "policy_kwargs" or (found(1.0) if name == "clip_range" else found) == value


def test_the_cell_is_the_median_as_if_who_did_not_pass_took_for_ever():
    def cell(*runs):
        return tables.cell([result(seconds=[at], final_mean=mean) for at, mean in runs], 2_500)

    assert cell() == ""
    assert cell((31.6, 2501.0)) == "32"
    assert cell((10.0, 2600.0), (90.0, 2600.0), (20.0, 2600.0)) == "20"
    assert cell((10.0, 2600.0), (None, 700.0), (1200.0, 2600.0)) == "1,200 (2 of 3)"
    assert cell((10.0, 2600.0), (None, 700.0), (None, 1900.0)) == "–, at 1,300 (1 of 3)"
    assert cell((None, 700.0), (None, -1234.4), (None, 1900.0)) == "–, at 700"
    assert cell((None, None)) == "–, no episode ended"


def test_the_page_has_a_row_for_every_threshold_and_only_who_ran(tmp_path, capsys):
    file = tmp_path / "minutes.jsonl"
    lines = [
        result("tianshou-ppo", "halfcheetah", seconds=[70.0, None], final_mean=4000.0),
        result("score", "halfcheetah", seconds=[20.0, 40.0]),
        result("score", "hopper", seconds=[50.0]),
        result("sb3-sac", "ant", minutes=1.0),
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert benchmark_minutes.main([str(file), "--report", str(tmp_path / "out" / "page")]) == 0
    page = (tmp_path / "out" / "page.md").read_text()
    assert capsys.readouterr().out == page + "\n"
    assert [line for line in page.splitlines() if line.startswith("|")] == [
        "| environment, return | trpo, score | tianshou PPO |",
        "| --- | ---: | ---: |",
        "| HalfCheetah-v5, 3,000 | 20 | 70 |",
        "| HalfCheetah-v5, 5,000 | 40 | –, at 4,000 |",
        "| Hopper-v5, 2,500 | 50 |  |",
    ]
    assert "not within 10 minutes" in page
    assert "\n\nSeed 0, CPU A:\n\n| environment" in page
    assert "`python -m trpo task=TASK surrogate=score seed=SEED env.backend=envpool run.threads=2" in page
    assert (tmp_path / "out" / "page.png").stat().st_size > 10_000


def test_seconds_of_different_machines_are_in_different_tables_the_one_with_the_most_runs_first():
    fast = [result("score", seed=0, seconds=[10.0], machine="CPU A")]
    slow = [result("score", seed=seed, seconds=[40.0], machine="CPU B") for seed in (2, 1)]
    page = tables.report([*fast, *slow, result("sb3-ppo", seed=1, seconds=[80.0], machine="CPU B")], 10.0)
    lines = [line for line in page.splitlines() if line.startswith(("Seed", "| Hopper")) and "start" not in line]
    assert lines == [
        "Seeds 1, 2, CPU B:",
        "| Hopper-v5, 2,500 | 40 | 80 |",
        "Seed 0, CPU A:",
        "| Hopper-v5, 2,500 | 10 |  |",
    ]


def test_the_figure_is_of_the_machine_with_the_most_runs():
    there = [result("score", seed=seed, machine="CPU B") for seed in (1, 2)]
    figure = tables.draw([result("sb3-sac", machine="CPU A"), *there])
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["trpo, score"]


def test_without_results_there_is_no_page(tmp_path, capsys):
    assert benchmark_minutes.main([str(tmp_path / "none.jsonl"), "--report", str(tmp_path / "page")]) == 1
    assert capsys.readouterr().err.endswith("none.jsonl holds no results of 10 minutes\n")


def test_seeds_are_together_from_where_all_have_begun_and_stay_where_they_ended():
    seconds, values = tables.together([np.array([[1.0, 0.0], [9.0, 80.0]]), np.array([[2.0, 10.0], [4.0, 30.0]])])
    assert (seconds[0], seconds[-1]) == (pytest.approx(2.0), pytest.approx(9.0))
    assert values[0] == pytest.approx(10 * (seconds - 1))
    assert values[1] == pytest.approx(np.minimum(10 * (seconds - 1), 30))


def test_the_figure_names_everybody_once_and_always_in_one_colour():
    figure = tables.draw([result("sb3-sac", "ant"), result("score", "hopper"), result("sb3-sac", "hopper")])
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["trpo, score", "sb3 SAC"]
    colours = {(p.get_title(), line.get_label()): line.get_color() for p in figure.axes for line in p.get_lines()}
    assert colours["Ant-v5", "sb3 SAC"] == colours["Hopper-v5", "sb3 SAC"] != colours["Hopper-v5", "trpo, score"]


@pytest.fixture
def program(monkeypatch):
    """Lets every run be a line of Python, with `folder` in it, and asks each tenth of a second."""

    def use(text):
        def start(run, folder, errors):
            with errors.open("wb") as file:
                head = f"import json, pathlib, sys, time; folder = pathlib.Path({str(folder)!r})\n"
                process = subprocess.Popen([sys.executable, "-c", head + text], stderr=file)
            started.append(process)
            return process

        monkeypatch.setattr(work, "start", start)
        return started

    started = []
    monkeypatch.setattr(work, "keep_to_cores", lambda: None)
    return use


# Twenty episodes that ended now, of a peer.
WRITES = """
row = {"wall_time": time.time(), "env_steps": 40, "rollout/episode_return": 2600.0, "rollout/episodes": 20}
(folder / "episodes.jsonl").write_text(json.dumps(row) + "\\n")
"""
RUN = Run("sb3-ppo", "hopper", 1)


def test_a_run_is_ended_when_it_has_passed_and_its_result_is_kept(program, tmp_path, capsys):
    (started, output) = program(WRITES + "time.sleep(60)"), tmp_path / "new" / "minutes.jsonl"
    assert work.run_all([RUN], output, minutes=1.0) == 0
    assert started[0].returncode == -signal.SIGTERM
    (found,) = benchmark_minutes.read_results(output, 1.0)
    assert (contest.run_of(found), found["ended"], found["env_steps"]) == (RUN, "passed", 40)
    assert 0 < found["seconds"]["2500"] < 30
    assert found["settings"] == settings.settings_of(*RUN[:2])
    assert "2,500 after" in capsys.readouterr().err


def test_a_run_is_ended_when_its_time_is_over(program):
    started = program("time.sleep(60)")
    found = work.measure(RUN, 0.002)
    assert (found["ended"], found["seconds"], found["final_mean"]) == ("time", {"2500": None}, None)
    assert started[0].returncode == -signal.SIGTERM


def test_a_process_need_not_agree_to_its_end(monkeypatch):
    monkeypatch.setattr(work, "PATIENCE", 0.1)
    unwilling = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", unwilling], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        work.stop(process)
        assert process.returncode == -signal.SIGKILL


def test_what_a_run_wrote_last_counts(program):
    program(WRITES)
    assert work.measure(RUN, 1.0)["ended"] == "passed"
    program("")
    assert work.measure(RUN, 1.0)["ended"] == "finished"


def test_who_dies_is_quoted_and_leaves_no_result(program, tmp_path, capsys):
    program("print('first', file=sys.stderr); sys.exit('no such thing')")
    assert work.run_all([RUN], tmp_path / "minutes.jsonl", minutes=1.0) == 1
    assert not (tmp_path / "minutes.jsonl").exists()
    assert capsys.readouterr().err == "sb3-ppo hopper seed 1: died, exit code 1: no such thing\n"
