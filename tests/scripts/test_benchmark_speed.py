"""The benchmark's own arithmetic, and that it runs; no figure of it depends on how fast this machine is."""

import itertools
import json
import math
import sys
from pathlib import Path

import benchmark_speed
import pytest
import torch
from speed import rate, tables, targets, timing, training
from speed.rows import Row, extend, find, from_data, to_data
from tiny_runs import process

SCRIPT = Path(benchmark_speed.__file__)
CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until something takes time on it."""

    class Clock:
        now = 0.0

        def take(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.0, 1.7])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = [10, 37, 500, 9_000]
    assert timing.exponent(sizes, [3.2 * size**power for size in sizes]) == pytest.approx(power, abs=1e-12)


def test_the_exponent_of_scattered_figures_is_the_least_squares_slope():
    # log10 of (1, 1), (10, 10), (100, 1): (0, 0), (1, 1), (2, 0), whose best line is level
    assert timing.exponent([1, 10, 100], [1, 10, 1]) == pytest.approx(0, abs=1e-12)
    assert math.isnan(timing.exponent([5, 5], [1, 2]))


def test_contestants_take_turns_and_the_first_round_does_not_count():
    turns = []
    figures = itertools.count()

    def contestant(name):
        def measure():
            turns.append(name)
            return float(next(figures))

        return measure

    values = timing.alternate({name: contestant(name) for name in "ABC"}, repetitions=2)
    assert "".join(turns) == "ABC" * 3
    assert values == {"A": [3, 6], "B": [4, 7], "C": [5, 8]}


def test_a_first_round_that_tries_the_patience_counts_and_is_the_last(clock):
    figures = itertools.count()
    values = timing.alternate({"A": lambda: clock.take(11) or next(figures)}, repetitions=5, patience=10)
    assert values == {"A": [0]}


def test_rounds_go_on_until_the_time_has_passed(clock):
    values = timing.alternate({"A": lambda: clock.take(1) or 1.0}, repetitions=2, seconds=6)
    assert len(values["A"]) == 5  # and one before them that warmed up


def test_a_call_is_timed_without_its_preparation_as_often_as_it_takes(clock):
    calls = []
    seconds = timing.seconds_per_call(
        lambda: calls.append(clock.take(0.02)), CPU, prepare=lambda: clock.take(5), least=0.05
    )
    assert seconds == pytest.approx(0.02)
    assert len(calls) == 3


ROWS = [
    Row("trpo", {"samples": 1_000, "threads": 1}, [3.0, 1.0, 2.0]),
    Row("other", {"samples": 1_000, "threads": 1}, [8.0]),
    Row("trpo", {"samples": 10_000, "threads": 1}, [200.0]),
    Row("other", {"samples": 10_000, "threads": 1}, [], "other is not installed"),
]


def test_a_row_is_its_median_with_the_least_and_the_greatest():
    assert ROWS[0].median == 2.0
    assert tables.spread(ROWS[0]) == "2 (1–3)"
    assert tables.spread(Row("", {}, [1234.5])) == "1,234 (1,234–1,234)"
    assert (ROWS[3].median, tables.spread(ROWS[3])) == (None, "–")


def test_a_pivot_table_has_cases_contestants_ratios_and_exponents():
    assert tables.pivot_table(ROWS, "ms", (("trpo", "other"),), fitted=True).splitlines() == [
        "| samples | threads | trpo, ms | other, ms | trpo / other |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| 1,000 | 1 | 2 (1–3) | 8 (8–8) | 0.25 |",
        "| 10,000 | 1 | 200 (200–200) | – | – |",
        "| grows as size to the power of |  | 2.00 | – |  |",
    ]
    assert tables.notes(ROWS) == "- other is not installed"


def test_a_list_table_has_contestants_and_where_their_time_went():
    rows = [Row("ours", {}, [10.0], parts={"collect": 0.625}), Row("bare", {}, [20.0])]
    assert tables.list_table(rows, "steps/s").splitlines()[2:] == [
        "| ours | 10 (10–10) | 62% |",
        "| bare | 20 (20–20) |  |",
    ]


def test_rows_survive_the_file_and_further_repetitions_are_added():
    assert from_data(json.loads(json.dumps(to_data(ROWS)))) == ROWS
    more = extend(ROWS, [Row("trpo", {"samples": 1_000, "threads": 1}, [9.0]), Row("new", {"samples": 5}, [1.0])])
    assert more[0].values == [3.0, 1.0, 2.0, 9.0]
    assert more[1:4] == ROWS[1:]
    assert more[4].contestant == "new"
    assert find(more, "trpo", samples=10_000) == 200.0
    assert find(more, "trpo", samples=7) is None


def test_targets_are_judged_on_their_side_of_the_bound():
    case = {"samples": 2_048, "hidden": "64×64", "threads": 1}
    training_rows = [Row("trpo, sync, 16 envs", {}, [9.0]), Row("sb3-contrib TRPO, 16 envs, 1 thread", {}, [4.0])]
    update = [Row("trpo", case, [46.0]), Row("sb3-contrib", case, [100.0])]
    lines = targets.targets_table({"training": training_rows, "update": update}).splitlines()
    verdicts = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines}
    assert verdicts["trpo, sync / sb3-contrib, both 16 envs"] == ["9 / 4", "2.25", "≥ 2.2", "yes |"]
    assert verdicts["policy update / sb3-contrib's, N = 2,048, 1 thread(s)"] == ["46 / 100", "0.46", "≤ 0.45", "no |"]
    assert verdicts["trpo / tianshou's best"][0] == "not measured"


def test_the_rate_of_a_run_leaves_out_its_first_iterations_and_nothing_between(tmp_path):
    steps_and_clock = [(100, 10.0), (200, 20.0), (300, 22.0), (400, 25.0)]
    parts = {"time/collect": 1.0, "time/policy": 0.5, "time/critic": 0.25}
    rows = [{"env_steps": steps, "wall_time": clock, **parts} for steps, clock in steps_and_clock]
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("\n".join(map(json.dumps, rows)))
    shares = {"collect": 0.4, "policy": 0.2, "critic": 0.1}
    assert rate.rate_of_run(metrics, skipped=2) == {"steps": 200, "seconds": 5.0, "parts": shares}


def test_contestants_are_commands_and_one_that_fails_is_asked_once_and_says_why(tmp_path):
    runs = tmp_path / "runs"
    fails = f"import sys; open({str(runs)!r}, 'a').write('x'); print('first'); sys.exit('trpo-train: no such thing')"
    contestants = {
        "runs": (sys.executable, "-c", "print('noise'); print('{\"steps\": 30, \"seconds\": 2}')"),
        "fails": (sys.executable, "-c", fails),
    }
    done, failed = training.race(contestants, benchmark_speed.Options(CPU, repetitions=2, quick=True))
    assert (done.values, done.note) == ([15.0, 15.0], "")
    assert (failed.values, failed.note) == ([], "not available: no such thing")
    assert runs.read_text() == "x"


def test_the_shipped_task_is_among_the_contestants_and_marked():
    config = training.shipped("task=halfcheetah")
    (marked,) = [name for name in training.training_contestants("cpu") if "the shipped task" in name]
    assert f"{config.env.backend}, {config.env.num_envs} envs, {config.run.threads} thread" in marked


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sections_run_and_one_that_is_run_again_replaces_its_part(tmp_path, capsys):
    arguments = ("--quick", "--output", str(tmp_path / "speed"), "--only")
    ended = process(sys.executable, SCRIPT, *arguments, "fisher", "critic", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    first = json.loads((tmp_path / "speed.json").read_text())
    threads = torch.get_num_threads()
    assert benchmark_speed.main([*arguments, "fisher"]) == 0
    torch.set_num_threads(threads)
    second = json.loads((tmp_path / "speed.json").read_text())
    assert list(second) == ["fisher", "critic"]
    assert second["critic"] == first["critic"]
    assert second["fisher"]["rows"] != first["fisher"]["rows"]
    rows = from_data(second["fisher"]["rows"])
    assert all(len(row.values) == 1 or "pip install" in row.note for row in rows)
    assert find(rows, "trpo") > 0 < find(rows, "floor")
    markdown = (tmp_path / "speed.md").read_text()
    assert capsys.readouterr().out == markdown + "\n"
    assert "**One Fisher product**" in markdown
    assert f"torch {torch.__version__}" in markdown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.md"]
