"""Run directories read back: real ones, and real ones that were damaged."""

import json
import shutil
import signal

import gymnasium
import pytest
import yaml
from broken import Broken
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tiny_runs import compose, rows, summary, train_tiny

from trpo.commands.train import train
from trpo.config import UserError
from trpo.keys import flat
from trpo.record.logger import SWEEP_METRICS
from trpo.record.runs import find_runs, read_run
from trpo.run import Session


class Stopping(Broken):
    """Sends the training process a signal at its 20th step, as `kill` would."""

    def step(self, action):
        if self.steps == 20:
            signal.raise_signal(signal.SIGTERM)
        return super().step(action)


gymnasium.register("Stopping-v0", Stopping, kwargs={"fault": "none"})

FAILED = "failed: RuntimeError: the simulator fell over"  # and said why, in a second line
ENDINGS = {  # environment and further overrides, exit code, status
    "finished": ([], 0, "finished"),
    "stopped": (["env.id=test_runs:Stopping-v0"], 143, "stopped by SIGTERM"),
    "failed": (["env.id=broken:Raising-v0"], 1, FAILED),
    "failed in the warm-up": (["env.id=broken:Raising-v0", "+env.kwargs.at=3"], 1, FAILED),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, (overrides, code, _) in ENDINGS.items():
        longer = ("run.total_steps=192", "record.profile_every=2", "run.evaluation_episodes=0", "seed=3")
        assert train_tiny(folder / name, *longer, *overrides) == code
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(folder / "finished", tmp_path / "copy")


@pytest.mark.parametrize("name", ENDINGS)
def test_the_status_says_how_a_run_ended(name, folder):
    assert read_run(folder / name).status == ENDINGS[name][2]


@pytest.mark.parametrize("name", ENDINGS)
def test_every_run_is_found_however_it_ended(name, folder):
    assert str(folder / name) in [run.name for run in find_runs([folder])]


def test_a_run_is_what_its_files_say(folder):
    run = read_run(folder / "finished")
    assert (run.name, run.warnings) == (str(folder / "finished"), [])
    assert (run.rows, run.summary) == (rows(folder / "finished"), summary(folder / "finished"))
    assert [profile["name"] for profile in run.profiles] == ["step_000000000096", "step_000000000160"]
    written = yaml.safe_load((folder / "finished" / "overrides.yaml").read_text())
    config = {name: str(value) for name, value in flat(compose(*written)).items()}
    read = {name: str(tuple(value) if isinstance(value, list) else value) for name, value in run.config.items()}
    assert read == config


def test_a_column_has_a_tag_where_it_exists(folder):
    run = read_run(folder / "finished")
    part = run._replace(rows=[{"env_steps": 1, "a/b": 0.5}, {"env_steps": 2}, {"env_steps": 3, "a/b": 0.0}])
    assert part.column("a/b") == ([1, 3], [0.5, 0.0])
    assert part.values("a/b") == [0.5, 0.0]
    assert part.column("a/c") == ([], [])


def test_a_run_without_a_summary_is_unfinished(copy):
    (copy / "summary.json").unlink()
    assert read_run(copy).status == "unfinished"
    (copy / "train.log").unlink()
    assert read_run(copy).status == "unfinished"


def test_a_failed_run_that_was_resumed_and_is_under_way_is_not_shown_as_failed(folder, tmp_path):
    run = shutil.copytree(folder / "failed", tmp_path / "run")
    with open(run / "train.log", "a") as log:
        log.write("2026-01-01 00:00:00,000 INFO trpo.console: going on from step_000000000064.pt\n")
    assert read_run(run).status == "unfinished"


@pytest.mark.parametrize("name", ["failed", "failed in the warm-up"])
def test_a_failed_run_is_unfinished_from_the_start_of_the_next_attempt_to_its_end(name, folder, tmp_path, monkeypatch):
    """With a checkpoint, from which it goes on, and without one."""
    run, seen, restore = shutil.copytree(folder / name, tmp_path / "run"), [], Session.resume
    monkeypatch.setattr(
        Session, "resume", lambda *arguments: (seen.append(read_run(run).status), restore(*arguments))[1]
    )
    assert train([f"run.resume={run}"]) == 1
    assert [*seen, read_run(run).status] == ["unfinished", FAILED]


TRACES = {  # what stands in the log after the failure, and the line that names it
    "a message with an indent": ("Traceback (most):\n  File 1\n    a()\nA: it\n  broke\nnow\n", "A: it"),
    "one after another": (
        "Traceback (most):\n  File 1\nA: first\n\nThe above was the cause:\n\nTraceback (most):\n  File 2\nm.B: x\ny\n",
        "m.B: x",
    ),
    "and a note": ("Traceback (most):\n  File 1\nA\na note\n2026-01-01 00:00:00,000 INFO a: b\n", "A"),
    "no stack": ("ValueError: x\n", "ValueError: x"),
    "cut": ("Traceback (most):\n  File 1\n", "  File 1"),
    "nothing": ("", "see train.log"),
}


@pytest.mark.parametrize(("trace", "named"), TRACES.values(), ids=TRACES)
def test_a_failed_run_has_the_line_that_names_the_exception(trace, named, copy):
    (copy / "summary.json").unlink()
    (copy / "train.log").write_text(f"2026-01-01 00:00:00,000 ERROR trpo.console: the run failed\n{trace}")
    assert read_run(copy).status == f"failed: {named}"


DAMAGES = {  # what is done to the lines of metrics.jsonl, the line that is reported, the rows that are left
    "cut in the last line": (lambda lines: [*lines[:-1], lines[-1][:50]], 5, 4),
    "cut in the middle of a letter": (lambda lines: [*lines[:3], b'{"outcome": "\xce'], 4, 3),
    "a line of zeros": (lambda lines: [*lines[:2], b"\0" * 40, *lines[2:]], 3, 2),
    "a number for an object": (lambda lines: [lines[0], b"17", *lines[1:]], 2, 1),
    "a row without its steps": (lambda lines: [b"{}", *lines], 1, 0),
    "steps without end": (lambda lines: [*lines[:2], b'{"env_steps": Infinity}', *lines[2:]], 3, 2),
    "an empty line": (lambda lines: [*lines[:4], b"", *lines[4:]], 5, 4),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_metrics_are_read_up_to_their_damage_with_a_warning(damage, copy):
    change, number, left = DAMAGES[damage]
    file = copy / "metrics.jsonl"
    whole = rows(copy)
    file.write_bytes(b"".join(line + b"\n" for line in change(file.read_bytes().splitlines())))
    run = read_run(copy)
    assert run.rows == whole[:left]
    assert run.warnings == [f"{file} is damaged at line {number}: read up to there"]


@pytest.mark.parametrize("written", [1, 500, -1])
def test_a_last_row_that_is_not_whole_yet_is_left_out_and_is_no_damage(written, copy):
    """As a reader sees a run that goes on, or one that was killed; a whole row counts without the end of its line."""
    file = copy / "metrics.jsonl"
    *before, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(before) + last[:written])
    run = read_run(copy)
    assert len(run.rows) == len(before) + (written == -1)
    within = f"{file} ends within line {len(before) + 1}, so its run goes on or was killed: read up to there"
    assert run.warnings == ([] if written == -1 else [within])


def test_metrics_without_a_row_are_no_damage(copy):
    (copy / "metrics.jsonl").write_text("")
    run = read_run(copy)
    assert (run.rows, run.warnings) == ([], [])


@pytest.mark.parametrize("file", ["profiles/step_000000000096.json", "summary.json"])
def test_another_file_that_was_cut_costs_a_warning_and_not_the_run(file, copy):
    whole = read_run(copy)
    (copy / file).write_bytes((copy / file).read_bytes()[:100])
    run = read_run(copy)
    assert run.rows == whole.rows
    assert [file in warning for warning in run.warnings] == [True]


def test_runs_come_in_the_order_of_their_names_and_each_one_once(folder):
    below = [run.name for run in find_runs([folder])]
    assert below == sorted(below)
    assert str(folder / "finished") in below
    twice = find_runs([folder / "finished", folder / "failed", folder / "finished"])
    assert [run.name for run in twice] == [str(folder / "finished"), str(folder / "failed")]


@pytest.mark.parametrize(("name", "text"), [("notes", "{}"), ("step_1", '{"kl": [0.5]}'), ("step_x", "")])
def test_foreign_files_among_the_profiles_cost_a_warning(name, text, copy):
    whole = read_run(copy)
    file = copy / "profiles" / f"{name}.json"
    file.write_text(text or (copy / "profiles" / "step_000000000096.json").read_text())
    run = read_run(copy)
    assert run.profiles == whole.profiles
    assert run.warnings == [f"{file} is no profile of a step: left out"]


@pytest.mark.parametrize("versions", [None, [], "2.0"])
def test_versions_that_are_none_are_none(versions, copy):
    assert read_run(copy).versions == summary(copy)["versions"]
    (copy / "summary.json").write_text(json.dumps(summary(copy) | {"versions": versions}))
    assert read_run(copy).versions == {}


def test_the_order_in_which_arguments_were_typed_is_none_of_the_configuration(copy):
    config = yaml.safe_load((copy / "config.yaml").read_text())
    read = []
    for names in ("ab", "ba"):
        kwargs = {name: [{one: 1 for one in names}] for name in names}
        config["env"] |= {"kwargs": kwargs, "wrappers": [{"wrapper": "m:W", **kwargs}]}
        (copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        read.append(read_run(copy).config)
    assert str(read[0]) == str(read[1])
    assert read[0]["env.kwargs"] == kwargs


def test_runs_behind_links_are_found_and_each_one_once_whatever_leads_to_it(folder, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(folder / "finished", runs / "b" / "run")
    (runs / "a").symlink_to(runs / "b")
    (runs / "b" / "latest").symlink_to(runs / "b" / "run")
    (runs / "b" / "again").symlink_to(runs)  # in a circle
    (runs / "elsewhere").symlink_to(folder / "failed")
    (runs / "nowhere").symlink_to(tmp_path / "absent")
    names = [str(runs / "b" / "run"), str(runs / "elsewhere")]
    assert [run.name for run in find_runs([runs])] == names
    assert [
        run.name for run in find_runs([runs, runs / "b" / "latest", folder / "failed", runs / "b" / "run"])
    ] == names
    assert [run.name for run in find_runs([runs / "b" / "latest", runs])] == [str(runs / "b" / "latest"), names[1]]


def test_a_run_deep_below_is_found(folder, tmp_path):
    shutil.copytree(folder / "finished", tmp_path / "a" / "b" / "run")
    assert [run.name for run in find_runs([tmp_path])] == [str(tmp_path / "a" / "b" / "run")]


# What a config.yaml holds that tells nothing of a run, and what is said of it.
UNKNOWN = {
    "another project's": (b"model: {layers: 3}\nseed: 1\n", "is no configuration of a run"),
    "without a seed": (b"env: {id: CartPole-v1}\n", "is no configuration of a run"),
    "other bytes": (b"env: {id: \xff}\n", "is damaged"),
    "cut": (b"env: {id: [", "is damaged"),
    "a number": (b"7\n", "is damaged"),
}


@pytest.mark.parametrize(("data", "said"), UNKNOWN.values(), ids=UNKNOWN)
def test_what_tells_nothing_of_a_run_costs_a_warning_among_others_and_alone_is_a_mistake(data, said, copy):
    other = copy.parent / "other"
    other.mkdir()
    (other / "train.log").touch()
    (other / "config.yaml").write_bytes(data)
    warnings = []
    assert [run.name for run in find_runs([copy.parent], warnings)] == [str(copy)]
    (warning,) = warnings
    assert warning.startswith(f"{other / 'config.yaml'} {said}")
    with pytest.raises(UserError, match=said):
        find_runs([other])


def test_a_missing_folder_and_one_without_runs_are_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"there is no directory .*absent"):
        find_runs([tmp_path / "absent"])
    (tmp_path / "config.yaml").write_text("seed: 1\n")  # somebody else's
    with pytest.raises(UserError, match="holds no run"):
        find_runs([tmp_path])


def test_the_hyperparameters_are_in_the_one_event_file_of_the_run(folder):
    run = folder / "finished"
    assert [path.parent for path in run.rglob("*tfevents*")] == [run]
    assert {path.name for path in run.iterdir() if path.is_dir()} == {"checkpoints", "profiles"}
    contents = EventAccumulator(str(run)).Reload().PluginTagToContent("hparams").values()
    data = [plugin_data_pb2.HParamsPluginData.FromString(content) for content in contents]
    (session,) = [one.session_start_info for one in data if one.HasField("session_start_info")]
    kept = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    assert kept == flat(compose(*yaml.safe_load((run / "overrides.yaml").read_text())))
    assert (kept["trust_region.max_kl"], kept["run.total_steps"], kept["policy.hidden_sizes"]) == (0.04, 192, "(8,)")
    (experiment,) = [one.experiment for one in data if one.HasField("experiment")]
    assert {info.name.tag for info in experiment.metric_infos} == set(SWEEP_METRICS)
