"""The page that trpo-report writes, read with an HTML parser."""

import base64
import contextlib
import html.parser
import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_runs import everything_below, refusal, rows, summary, train_tiny

from trpo.commands.report import report as report_command
from trpo.record.report import differing_keys, group_runs, short_names, worst_iterations
from trpo.record.runs import find_runs

LONGER = ("run.total_steps=224", "run.steps_per_iteration=32", "run.evaluate_every=96")
RUNS = {  # one differing key, two seeds, and what is merely recorded
    "a0": ["seed=0", "record.profile_every=2"],
    "a1": ["seed=1", "run.checkpoint_every=64"],
    "b0": ["seed=0", "trust_region.max_kl=0.05"],
    "b1": [
        "seed=1",
        "trust_region.max_kl=0.05",
        "run.keep_checkpoints=1",
        "env.pin=false",
        "run.fallback_directory=/tmp",
    ],
}
EVIL = "<script>alert('1')</script>"


class Page(html.parser.HTMLParser):
    """Tables of cells, texts of headings and paragraphs, tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tables, self.texts, self.text = [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th", "h2", "h3", "p", "title"):
            self.text = ""

    def handle_data(self, data):
        self.text += data

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self.text)
        elif tag in ("h2", "h3", "p", "title"):
            self.texts.setdefault(tag, []).append(" ".join(self.text.split()))


def report(*arguments):
    """The page, as text and parsed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert report_command([str(argument) for argument in arguments]) == 0
    text = Path(printed.getvalue().removesuffix("\n")).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    for name, overrides in RUNS.items():
        assert train_tiny(folder / name, *LONGER, *overrides) == 0
    return folder


@pytest.fixture(scope="module")
def page(sweep, tmp_path_factory):
    return report(sweep, "--output", tmp_path_factory.mktemp("out") / "new" / "page")


@pytest.fixture
def run(sweep, tmp_path):
    """A copy of one run, to be changed."""
    return shutil.copytree(sweep / "a0", tmp_path / "runs" / "copy")


def change_config(run, section, **values):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[section].update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_nothing_is_fetched_from_anywhere(page):
    text, parsed = page
    assert not re.search(r"https?:|@import|url\(", text)
    sources = [attributes["src"] for _, attributes in parsed.tags if "src" in attributes]
    assert sources
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name == "href" or name.startswith("on")]


def test_the_table_of_runs_has_a_row_for_each_with_what_differs(page):
    head, *body = page[1].tables[0]
    assert head[:4] == ["run", "status", "seed", "trust_region.max_kl"]
    assert [row[:4] for row in body] == [
        ["a0", "finished", "0", "0.04"],
        ["a1", "finished", "1", "0.04"],
        ["b0", "finished", "0", "0.05"],
        ["b1", "finished", "1", "0.05"],
    ]


def test_a_row_has_the_figures_of_its_run(page, sweep):
    head, *body = page[1].tables[0]
    for row in body:
        told, told_rows = dict(zip(head, row, strict=True)), rows(sweep / row[0])
        taken = [one for one in told_rows if one["outcome"] == "accepted"]
        returns = [one["rollout/episode_return"] for one in told_rows if "rollout/episode_return" in one]
        evaluations = [one["evaluation/return_mean"] for one in told_rows if "evaluation/return_mean" in one]
        spent = np.median([one["trust_region/kl"] / one["trust_region/max_kl"] for one in taken])
        errors = np.median([abs(one["trust_region/kl_error_relative"]) for one in taken])
        assert told["env steps"] == "224"
        assert told["return, training"] == f"{np.mean(returns[-10:]):,.1f}"
        assert told["evaluation, final"] == f"{summary(sweep / row[0])['final_evaluation']['return_mean']:,.1f}"
        assert told["best"] == f"{max(evaluations):,.1f}"
        assert told["KL spent of δ"] == f"{100 * spent:.1f}%"
        assert told["|relative error|"] == f"{100 * errors:.1f}%"
        assert told["rejected"] == f"{100 * (1 - len(taken) / len(told_rows)):.1f}%"


def test_scores_are_grouped_by_everything_but_the_seed(page, sweep):
    head, *body = page[1].tables[1]
    assert head[:2] == ["configuration", "seeds"]
    assert [row[:2] for row in body] == [["max_kl=0.04", "2"], ["max_kl=0.05", "2"]]
    for names, row in ((("a0", "a1"), body[0]), (("b0", "b1"), body[1])):
        scores = [summary(sweep / name)["final_evaluation"]["return_mean"] for name in names]
        assert row[2:] == [f"{np.mean(scores):,.1f}", f"{min(scores):,.1f} to {max(scores):,.1f}"]


def test_a_label_tells_the_policys_keys_from_the_critics(sweep):
    first, *_ = find_runs([sweep])
    changes = {"policy.memory": "gru", "critic.memory": "lstm"}
    other = first._replace(name="other", config={**first.config, **changes, "trust_region.max_kl": 0.5})
    assert list(group_runs([first, other])) == [
        "policy.memory=none, max_kl=0.04,\ncritic.memory=none",
        "policy.memory=gru, max_kl=0.5,\ncritic.memory=lstm",
    ]


def test_what_is_merely_recorded_tells_no_runs_apart(sweep):
    runs = find_runs([sweep])
    assert differing_keys(runs) == ["seed", "trust_region.max_kl"]
    groups = {label: [run.config["seed"] for run in group] for label, group in group_runs(runs).items()}
    assert groups == {"max_kl=0.04": [0, 1], "max_kl=0.05": [0, 1]}
    assert list(group_runs(runs[:2])) == ["all"]
    assert list(short_names(runs).values()) == list(RUNS)
    assert list(short_names(runs[:1]).values()) == ["a0"]


@pytest.mark.slow
def test_relative_and_absolute_directories_have_names_in_common(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(sweep.parent)
    _, parsed = report(Path(sweep.name) / "a0", sweep / "a1", "--output", tmp_path / "out")
    assert [row[0] for row in parsed.tables[0][1:]] == ["a0", "a1"]


@pytest.mark.slow
def test_a_seed_counts_once_and_the_page_says_which_run_of_it_does_not(run, sweep, tmp_path):
    folders = [sweep / "a0", sweep / "a1", run]
    _, parsed = report(*folders, "--output", tmp_path / "out")
    assert len(parsed.tables[0][1:]) == 3
    _, (scores,), (promises,) = ([row[:2] for row in table[1:]] for table in parsed.tables[:3])
    assert scores == promises == ["all", "2"]
    (told,) = [text for text in parsed.texts["p"] if "repeat" in text]
    first, *_ = short_names(find_runs(folders)).values()
    assert told.endswith(f": {first}.")


def test_of_several_runs_of_a_seed_the_scored_the_longest_the_last_one_counts(sweep):
    whole, other = find_runs([sweep / "a0", sweep / "a1"])
    last, short = whole._replace(name="last"), whole._replace(name="short", rows=whole.rows[:4])
    unscored = whole._replace(name="unscored", status="failed: no")
    longer = unscored._replace(name="longer", rows=[*whole.rows, {"env_steps": 1000}])

    def counted(*runs):
        return [run.name for run in group_runs(runs)["all"]]

    assert counted(whole, other, last) == ["last", other.name]
    assert counted(whole, short) == counted(short, whole) == [whole.name]
    assert counted(whole, longer) == counted(longer, unscored, whole) == [whole.name]
    assert counted(longer, unscored) == ["longer"]


def test_the_worst_iterations_come_first(page, sweep):
    for name in RUNS:
        told = [row for row in rows(sweep / name) if "trust_region/kl_error_relative" in row]
        told.sort(key=lambda row: abs(row["trust_region/kl_error_relative"]), reverse=True)
        (run,) = find_runs([sweep / name])
        assert [worst["iteration"] for worst in worst_iterations(run)] == [row["iteration"] for row in told[:5]]
        (table,) = [table[1:] for table in page[1].tables[2:-1] if table[1][4] == percent(told[0])]
        assert [row[0] for row in table] == [str(row["iteration"]) for row in told[:5]]
        assert [row[4] for row in table] == [percent(row) for row in told[:5]]


def percent(row):
    return f"{100 * row['trust_region/kl_error_relative']:+.1f} %"


@pytest.mark.slow
def test_every_picture_is_also_a_file_beside_the_page(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, parsed = report(sweep)  # without --output: ./report
    pictures = [path.name for path in everything_below(tmp_path / "report") if path.suffix == ".png"]
    assert len(pictures) == 4 + 4 + 1  # of the environment, of each run, and the one profile
    assert len([tag for tag, _ in parsed.tags if tag == "img"]) == len(pictures)
    assert {"CartPole-v1_learning.png", "run0_trust_region.png", "run0_profile.png"} <= set(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(("holds", "is_shown"), [("trial_0000", True), ("a0", False)])
def test_the_figure_of_a_search_beside_the_folder_of_its_trials_is_on_the_page(
    holds, is_shown, sweep, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / holds).symlink_to(sweep / "a0")
    picture = base64.b64decode("iVBORw0KGgo=")
    (tmp_path / "study.png").write_bytes(picture)
    _, parsed = report(Path("study"))
    shown = [dict(attributes) for tag, attributes in parsed.tags if tag == "img"]
    expected = ["data:image/png;base64,iVBORw0KGgo="] if is_shown else []
    assert [one["src"] for one in shown if one["alt"] == "search: study"] == expected


def test_the_common_configuration_and_the_versions_are_on_the_page(page, sweep):
    table = dict(page[1].tables[-1])
    assert table["run.total_steps"] == "224"
    assert not {"seed", "trust_region.max_kl", "record.profile_every"} & set(table)
    for package, version in summary(sweep / "a0")["versions"].items():
        assert f"{package} {version}" in page[1].texts["p"][-1]


@pytest.mark.slow
def test_what_differs_between_environments_stands_by_environment(sweep, tmp_path):
    """And nothing that differs under the heading that says it is the same in all runs."""
    copies = [shutil.copytree(sweep / name, tmp_path / "other" / name) for name in ("a0", "a1")]
    for copy in copies:
        change_config(copy, "env", id="Other-v0", num_envs=3)
        change_config(copy, "run", evaluation_episodes=5)
    _, parsed = report(sweep / "a0", sweep / "a1", *copies, "--output", tmp_path / "out")
    own, common = ({key: values for key, *values in table} for table in parsed.tables[-2:])
    assert own == {
        "env.id": ["CartPole-v1", "Other-v0"],
        "env.num_envs": ["2", "3"],
        "run.evaluation_episodes": ["2", "5"],
    }
    configs = [run.config for run in find_runs([sweep / "a0", sweep / "a1", *copies])]
    assert common == {key: [str(value)] for key, value in configs[0].items() if all(c[key] == value for c in configs)}


def break_run(run, how):
    if how == "failed":
        (run / "train.log").write_text(f"ERROR the run failed\nTraceback\nValueError: {EVIL}\n")
    if how != "stopped":
        (run / "summary.json").unlink()
    else:
        (run / "summary.json").write_text(json.dumps(summary(run) | {"exit_reason": "SIGTERM"}))


STATUSES = {"failed": f"failed: ValueError: {EVIL}", "unfinished": "unfinished", "stopped": "stopped by SIGTERM"}


@pytest.mark.slow
@pytest.mark.parametrize("how", STATUSES)
def test_a_run_that_did_not_finish_is_shown_as_such(how, run, sweep, tmp_path):
    break_run(run, how)
    text, parsed = report(sweep / "b0", run, "--output", tmp_path / "out")
    assert [row[1] for row in parsed.tables[0][1:]] == ["finished", STATUSES[how]]
    cells = [attributes["class"] for tag, attributes in parsed.tags if tag == "td" and "class" in attributes]
    assert [cell.split() for cell in cells[:2]] == [["text"], ["text", "unhealthy"]]
    assert sorted(row[1] for row in parsed.tables[1][1:]) == ["0 (1 without a score)", "1"]
    assert EVIL not in text


STOPPED = {-1.0: "stopped at a return of -1.0", 501.0: "stopped", None: "stopped"}  # by run.stop_at_return


@pytest.mark.slow
@pytest.mark.parametrize("enough", STOPPED)
def test_a_run_that_learned_enough_is_healthy_and_has_a_score(enough, run, tmp_path):
    """At the return that is in its configuration, or at one that was there before."""
    change_config(run, "run", stop_at_return=enough)
    (run / "summary.json").write_text(json.dumps(summary(run) | {"exit_reason": "stopped"}))
    _, parsed = report(run, "--output", tmp_path / "out")
    assert [row[1] for row in parsed.tables[0][1:]] == [STOPPED[enough]]
    assert ("td", {"class": "text "}) in parsed.tags
    assert ("td", {"class": "text unhealthy"}) not in parsed.tags
    assert parsed.tables[1][1][1:3] == ["1", f"{summary(run)['final_evaluation']['return_mean']:,.1f}"]
    assert parsed.texts["h3"] == [f"copy ({STOPPED[enough]})"]


@pytest.mark.slow
def test_an_evaluation_before_the_end_of_a_run_is_no_final_one(run, sweep, tmp_path):
    """As of a run that went on without evaluations."""
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"env_steps": 256}) + "\n")
    _, parsed = report(sweep / "b1", run, "--output", tmp_path / "out")
    head, _, row = parsed.tables[0]
    assert dict(zip(head, row, strict=True))["evaluation, final"] == "–"
    assert sorted(row[1] for row in parsed.tables[1][1:]) == ["0 (1 without a score)", "1"]


def test_damaged_metrics_are_read_up_to_the_damage_and_the_page_says_so(run, tmp_path):
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole[:-100] + b"\n")
    _, parsed = report(run, "--output", tmp_path / "out")
    assert parsed.texts["p"][0] == f"{run / 'metrics.jsonl'} is damaged at line 6: read up to there"
    assert parsed.tables[0][1][2] == "192"


def test_a_foreign_configuration_among_the_runs_is_left_out_and_said_on_the_page_and_in_the_shell(
    run, tmp_path, capsys
):
    (run.parent / "theirs").mkdir()
    (run.parent / "theirs" / "config.yaml").write_text("lr: 3\n")
    (run.parent / "theirs" / "train.log").touch()
    _, parsed = report(run.parent, "--output", tmp_path / "out")
    told = (
        f"{run.parent / 'theirs' / 'config.yaml'} is no configuration of a run: it has no env.id or no seed: left out"
    )
    assert parsed.texts["p"][0] == told
    assert capsys.readouterr().err == f"trpo-report: {told}\n"


@pytest.mark.slow
def test_what_is_damaged_or_named_in_other_bytes_costs_no_page(run, tmp_path):
    (run / "profiles" / "notes.json").write_text("{}")
    (run / "summary.json").write_text(json.dumps(summary(run) | {"versions": None}))
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"env_steps": Infinity}\n')
    other = run.rename(os.fsdecode(os.fsencode(run.parent) + b"/caf\xe9"))
    shutil.copytree(other, run.parent / "b")
    _, parsed = report(run.parent, "--output", tmp_path / "out")
    assert [row[0] for row in parsed.tables[0][1:]] == ["b", r"caf\udce9"]
    assert len([text for text in parsed.texts["p"] if "damaged" in text or "no profile" in text]) == 4


def test_names_and_values_are_text_and_never_tags(sweep, tmp_path):
    folder = tmp_path / f"{EVIL.replace('/', chr(92))}"
    for name in ("<img src=x onerror=alert(1)>", '"><b>'):
        shutil.copytree(sweep / "a0", folder / name)
        change_config(folder / name, "env", id=EVIL, kwargs={"note": EVIL + name, f"key{EVIL}": 1})
        change_config(folder / name, "trust_region", fisher=EVIL)
        (folder / name / "metrics.jsonl").write_text("<u>damaged</u>")
        told = summary(sweep / "a0")
        told |= {"exit_reason": EVIL, "versions": {EVIL: EVIL}}
        (folder / name / "summary.json").write_text(json.dumps(told))
    _, parsed = report(folder, "--output", tmp_path / "out")
    known = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table", "tr", "th", "td"}
    assert {tag for tag, _ in parsed.tags} <= known | {"img", "span", "code"}
    assert all(attributes["src"].startswith("data:") for tag, attributes in parsed.tags if tag == "img")
    assert [row[0] for row in parsed.tables[0][1:]] == ['"><b>', "<img src=x onerror=alert(1)>"]
    assert EVIL in parsed.texts["h2"]
    assert not any("<" in path.name for path in (tmp_path / "out").iterdir())


def test_a_run_without_a_single_row_has_a_row_of_dashes(run, sweep, tmp_path):
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").unlink()
    _, parsed = report(sweep / "b0", run, "--output", tmp_path / "out")
    assert parsed.tables[0][2][-8:] == ["–"] * 8


def test_a_missing_folder_and_one_without_a_run_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert refusal(report_command, "absent") == "trpo-report: there is no directory absent"
    assert refusal(report_command, "empty").startswith("trpo-report: empty holds no run")
    assert "required" in refusal(report_command)


def test_an_output_that_cannot_be_made_is_one_line(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    assert "taken" in refusal(report_command, str(sweep), "--output", "taken")
