"""`trpo-card`: what a card says is what the run's files say, read by another route."""

import io
import itertools
import json
import os
import re
import shlex
import shutil
import sys

import gymnasium
import numpy as np
import pytest
import yaml
from scipy import stats
from tiny_runs import compose, refusal, rows, summary, train_tiny

import trpo
from trpo.commands.card import card
from trpo.commands.compose import load_config
from trpo.commands.evaluate import evaluate
from trpo.commands.resume import changed
from trpo.commands.train import train

OVERRIDES = (
    "policy.hidden_sizes=[8]",
    "run.total_steps=512",
    "run.steps_per_iteration=64",
    "run.evaluation_episodes=7",
    "run.evaluate_every=128",
)
WITHOUT = ("run.total_steps=64", "run.evaluation_episodes=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert train_tiny(directory, *OVERRIDES, "seed=3", task="cartpole") == 0
    return directory


@pytest.fixture
def run(trained, tmp_path, monkeypatch, capsys):
    """A copy to write into and to damage, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    capsys.readouterr()  # what training said
    return tmp_path / "run"


def written(capsys, *arguments, file="run/README.md"):
    """The metadata of a card, and its text."""
    assert card([*map(str, arguments)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    with open(file, encoding="utf-8") as lines:
        empty, front, text = lines.read().split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(front), text


def table(text, head):
    """The rows of the table that begins with a head."""
    _, _, after = text.partition(f"\n{head}")
    lines = itertools.takewhile(lambda line: line.startswith("|"), after.splitlines()[2:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def scores(text):
    return table(text, "| policy |")


def health(text):
    return {
        name: [float(number) for number in re.findall(r"-?\d+\.?\d*", figure)] for name, figure in table(text, "| over")
    }


def test_the_metadata_is_what_the_hub_reads(run, capsys):
    told, _ = written(capsys, "run")
    final = summary(run)["final_evaluation"]
    assert told["library_name"] == "trpo"
    assert {"reinforcement-learning", "deep-reinforcement-learning", "trpo", "CartPole-v1"} == {*told["tags"]}
    (model,) = told["model-index"]
    (result,) = model["results"]
    assert model["name"] == "TRPO"
    assert result["task"]["type"] == "reinforcement-learning"
    assert result["dataset"] == {"name": "CartPole-v1", "type": "CartPole-v1"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["verified"]) == ("mean_reward", False)
    assert metric["value"] == f"{final['return_mean']:.2f} +/- {final['return_std']:.2f}"


def test_the_score_has_its_protocol_and_an_interval(run, capsys):
    _, text = written(capsys, "run")
    final = summary(run)["final_evaluation"]
    mean, std = final["return_mean"], final["return_std"]
    low, high = stats.t.interval(0.95, df=6, loc=mean, scale=std * np.sqrt(7 / 6) / np.sqrt(7))
    assert scores(text) == [
        ["its mode", f"{final['env_steps']} steps", "7", "3", f"{mean:.2f} ± {std:.2f}", f"{low:.2f} to {high:.2f}"]
    ]


@pytest.mark.parametrize("asked", [0, 200])
def test_the_episodes_are_those_that_were_played_whatever_is_asked_for_by_now(asked, run, capsys):
    _, before = written(capsys, "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"]["evaluation_episodes"] = asked
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    _, text = written(capsys, "run", "--force")
    assert scores(text) == scores(before)
    assert scores(text)[0][2] == "7"


def test_an_evaluation_before_the_end_is_not_that_of_the_finished_run(run, capsys):
    before = summary(run)["final_evaluation"]
    assert train(["run.resume=run", "run.total_steps=640", "run.evaluation_episodes=0"]) == 0
    capsys.readouterr()
    told, text = written(capsys, "run")
    assert "model-index" not in told
    assert [row[1:3] for row in scores(text)] == [["512 steps", "7"]]
    assert "an earlier policy" in text
    told, text = written(capsys, "run", "--force", "--episodes", "2")
    assert [row[1] for row in scores(text)] == ["640 steps", f"{before['env_steps']} steps"]
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == scores(text)[0][4].replace("±", "+/-")


def test_an_evaluation_anew_is_that_of_trpo_evaluate_and_the_metadata_has_it(run, capsys):
    arguments = ("--episodes", "5", "--seed", "11", "--stochastic")
    told, text = written(capsys, "run", *arguments)
    assert evaluate(["run", *arguments, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    score = f"{figures['return_mean']:.2f} ± {figures['return_std']:.2f}"
    first, second = scores(text)
    assert (first[0], first[2:5]) == ("its samples", ["5", "11", score])
    assert second[0] == "its mode"
    assert told["model-index"][0]["results"][0]["metrics"][0]["value"] == score.replace("±", "+/-")


def test_the_health_of_the_trust_region_is_that_of_the_metrics(run, capsys):
    _, text = written(capsys, "run")
    told, steps = health(text), [row for row in rows(run) if row.get("trust_region/accepted") is not None]
    taken = [row for row in steps if row["trust_region/accepted"]]
    spent = [row["trust_region/kl"] / row["trust_region/max_kl"] for row in taken]
    errors = [abs(1 - row["trust_region/kl_quadratic"] / row["trust_region/kl"]) for row in taken]
    assert told["policy steps"] == [len(steps), round(100 * len(taken) / len(steps), 1)]
    assert told["KL spent, as a share of δ"] == pytest.approx([100 * np.mean(spent), 100 * max(spent)], abs=0.06)
    relative = told["error of the Fisher model of the KL, relative"]
    assert relative == pytest.approx([100 * np.median(errors), 100 * max(errors)], abs=0.06)
    judged = [row for row in rows(run) if "trust_region/improvement_kept" in row]
    weights = [np.sqrt(row["trust_region/judged_kl"]) * row["trust_region/advantage_std"] for row in judged]
    kept = sum(row["trust_region/improvement_kept"] for row in judged) / sum(weights)
    promised = sum(row["trust_region/improvement_promised"] for row in judged) / sum(weights)
    gains = told["improvement per √nat, in standard deviations of the advantage"]
    assert gains[:2] == pytest.approx([promised, kept], abs=6e-4)


def test_the_command_of_the_card_makes_the_same_run(run, capsys):
    _, text = written(capsys, "run")
    (line,) = re.findall(r"^trpo-train .*$", text, re.MULTILINE)
    assert compose(*shlex.split(line)[1:]) == load_config(run / "config.yaml")
    assert "hydra" not in line  # where it was written is nobody's business
    assert str(run) not in text


def test_a_run_that_was_lengthened_is_not_said_to_come_from_one_command(run, capsys):
    for steps in (640, 768):
        assert train(["run.resume=run", f"run.total_steps={steps}"]) == 0
    (run / "summary.json").unlink()
    assert train(["run.resume=run"]) == 0  # without another length
    capsys.readouterr()
    _, text = written(capsys, "run")
    (line,) = re.findall(r"^trpo-train .*$", text, re.MULTILINE)
    first = load_config(run / "config.yaml")
    assert "run.total_steps=512" in shlex.split(line)
    assert compose(*shlex.split(line)[1:]) == changed(first, "run.total_steps", 512)
    assert "it went on with `run.total_steps=640`, then `run.total_steps=768`." in text
    assert "no single command makes this run again" in text


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath:UserWarning")
def test_the_length_that_a_task_gave_is_known_as_well(run, capsys):
    (run.parent / "mine" / "task").mkdir(parents=True)
    task = "# @package _global_\nenv: {id: CartPole-v1}\nrun: {total_steps: 64, steps_per_iteration: 32}\n"
    (run.parent / "mine" / "task" / "own.yaml").write_text(task)
    assert train(["--config-dir", "mine", "task=own", "run.evaluation_episodes=0", "hydra.run.dir=own"]) == 0
    assert train(["run.resume=own", "run.total_steps=96"]) == 0
    capsys.readouterr()
    _, text = written(capsys, "own", file="own/README.md")
    assert re.search(
        r"^trpo-train .* run\.total_steps=64\n```\n\nSo it was started; it went on with", text, re.MULTILINE
    )


def test_a_run_that_started_again_with_another_length_is_of_that_length(run, capsys):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").mkdir()
    assert train(["run.resume=run", "run.total_steps=640"]) == 0
    capsys.readouterr()
    _, text = written(capsys, "run")
    (line,) = re.findall(r"^trpo-train .*$", text, re.MULTILINE)
    assert compose(*shlex.split(line)[1:]) == load_config(run / "config.yaml")
    assert "went on" not in text


def test_a_run_on_an_environment_that_a_function_made_has_no_command(run, capsys):
    def lighter(**arguments):
        return gymnasium.make("CartPole-v1", **arguments)

    keys = {"run.steps_per_iteration": 32, "run.evaluation_episodes": 0, "hydra.run.dir": "own"}
    trpo.train(lighter, total_steps=64, **keys)
    capsys.readouterr()
    _, text = written(capsys, "own", file="own/README.md")
    assert "trpo-train" not in text
    assert "By `trpo.train` from Python, on an environment that a function made" in text
    assert "The other keys: `run.steps_per_iteration=32 run.evaluation_episodes=0 run.total_steps=64`." in text


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath:UserWarning")
def test_the_command_of_the_card_says_that_a_task_of_ones_own_has_a_directory(run, capsys):
    (run.parent / "mine" / "task").mkdir(parents=True)
    (run.parent / "mine" / "task" / "own.yaml").write_text("# @package _global_\nenv: {id: CartPole-v1}\n")
    assert train_tiny("own", *WITHOUT, task="own", flags=["--config-dir", "mine"]) == 0
    capsys.readouterr()
    _, text = written(capsys, "own", file="own/README.md")
    assert re.search(r"^trpo-train --config-dir DIR task=own ", text, re.MULTILINE)


def test_versions_and_commit_are_those_of_the_run(run, capsys):
    _, text = written(capsys, "run")
    told = summary(run)
    assert all(f"{name} {version}" in text for name, version in told["versions"].items())
    assert told["git_commit"] is None or f"commit {told['git_commit']}" in text


def test_a_run_that_was_killed_has_a_card_too(run, capsys):
    (run / "summary.json").unlink()
    told, text = written(capsys, "run", "-o", "card.md", file="card.md")
    assert len(told["model-index"]) == len(scores(text)) == 1
    assert "the run is unfinished" in text
    assert "Versions" not in text


def test_a_run_that_was_never_evaluated_claims_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_tiny(tmp_path / "run", *WITHOUT, task="cartpole") == 0
    capsys.readouterr()
    told, text = written(capsys, "run")
    assert "model-index" not in told
    assert "It has not been evaluated." in text
    _, text = written(capsys, "run", "--force", "--episodes", "1")
    assert scores(text)[0][-1] == "–"


def test_damage_is_told_and_the_rest_is_read(run, capsys):
    with open(run / "metrics.jsonl", "a") as file:
        file.write("{damaged\n")
    (run / "summary.json").write_text(json.dumps(summary(run) | {"versions": None}))
    assert card(["run"]) == 0
    assert "metrics.jsonl is damaged at line" in capsys.readouterr().err


def test_a_name_in_other_bytes_is_printed_as_it_is(run, monkeypatch):
    other = run.rename(os.fsdecode(b"caf\xe9"))
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stream)
    assert card([str(other)]) == 0
    assert stream.buffer.getvalue() == b"caf\xe9/README.md\n"


def test_what_makes_no_card_is_refused_in_one_line(run, trained):
    (run.parent / "empty").mkdir()
    (run.parent / "mine.md").write_text("mine")
    assert "there is no directory nowhere" in refusal(card, "nowhere")
    assert "is not a run directory" in refusal(card, "empty")
    assert "mine.md exists already; --force" in refusal(card, "run", "-o", "mine.md")
    for file in ("mine.md/card.md", "/proc/card.md", f"{'x' * 255}"):
        assert f"trpo-card: {file} cannot be written: " in refusal(card, "run", "-o", file)
    assert "--stochastic needs --episodes" in refusal(card, "run", "--stochastic")
    assert "--episodes must be at least 1" in refusal(card, "run", "--episodes", "0")
    for name in ("overrides.yaml", "config.yaml"):
        (run / name).write_bytes(b"- \xff\n")
        assert f"{name} is damaged" in refusal(card, "run")
    (run / "config.yaml").write_text("lr: 3\n")
    assert "is no configuration of a run" in refusal(card, "run")
    for name in ("overrides.yaml", "config.yaml"):
        shutil.copy(trained / name, run / name)
    (run / "metrics.jsonl").write_text("")
    assert "has no iteration yet" in refusal(card, "run")
    assert (run.parent / "mine.md").read_text() == "mine"


@pytest.mark.parametrize("package", ["jinja2", "scipy"])
def test_a_missing_package_is_named_with_its_extra(package, run, monkeypatch):
    for name in [name for name in sys.modules if re.match(r"trpo\.record\.(card|report|promises|intervals)", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"trpo-card needs {package}: pip install 'trpo[report]'" in refusal(card, "run")


def test_an_environment_that_is_gone_can_still_have_a_card(run, capsys):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("CartPole-v1", "gone:There/Was-v0"))
    told, _ = written(capsys, "run")
    assert told["model-index"][0]["results"][0]["dataset"] == {"name": "There/Was-v0", "type": "There-Was-v0"}
    assert "no module gone" in refusal(card, "run", "--force", "--episodes", "1")
