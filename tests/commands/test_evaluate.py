"""`trpo-evaluate`: the returns of a trained agent, or one line about what is wrong."""

import json
import shutil

import pytest
import torch
from tiny_runs import agent_of, checkpoints, refusal, train_tiny

from trpo.commands.compose import load_config
from trpo.commands.evaluate import evaluate as evaluate_command
from trpo.record import checkpoint
from trpo.sampling import evaluation
from trpo.sampling.making import check_environment
from trpo.trainer import agent_for

KEYS = {"return_mean", "return_std", "return_min", "return_max", "length_mean", "episodes"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two policies far apart: one checkpoint per iteration."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    large = ["trust_region.max_kl=1.0", "trust_region.damping=0.001", "run.total_steps=352"]
    assert train_tiny(directory, *large, "run.checkpoint_every=32", "run.keep_checkpoints=99") == 0
    return directory


@pytest.fixture
def run(trained, tmp_path, monkeypatch):
    """A copy to damage, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def fresh(run):
    """A checkpoint of an agent that never learned and acts at random; what others become differs from CPU to CPU."""
    config = load_config(run / "config.yaml")
    untrained = agent_for(config, check_environment(config.env)).state_dict()
    checkpoint.save(run / "fresh.pt", checkpoint.load(checkpoints(run)[-1]) | {"agent": untrained})
    return run / "fresh.pt"


def evaluate(capsys, *arguments):
    assert evaluate_command([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def figures(capsys, *arguments):
    return json.loads(evaluate(capsys, *arguments, "--json"))


def test_the_object_has_the_keys_of_the_contract_and_hangs_together(run, capsys):
    told = figures(capsys, run, "--episodes", 7)
    assert set(told) == KEYS
    assert told["episodes"] == 7
    assert told["return_min"] <= told["return_mean"] <= told["return_max"]
    assert 0 <= told["return_std"] <= told["return_max"] - told["return_min"]
    assert told["length_mean"] == told["return_mean"]  # CartPole gives 1 per step


@pytest.mark.parametrize("flags", [[], ["--stochastic"]])
def test_the_figures_are_those_of_the_saved_agents_episodes(run, capsys, flags):
    config = load_config(run / "config.yaml")
    agent = agent_of(config, checkpoints(run)[-1])
    outcome = evaluation.evaluate(agent, config.env, episodes=range(5), seed=3, stochastic=bool(flags))
    returns = torch.tensor(outcome.returns)
    told = figures(capsys, run, "--episodes", 5, "--seed", 3, *flags)
    assert told["return_mean"] == pytest.approx(returns.mean().item())
    assert told["return_std"] == pytest.approx(returns.std(correction=0).item(), rel=1e-5)
    assert (told["return_min"], told["return_max"]) == (returns.min().item(), returns.max().item())


def test_the_same_seed_tells_the_same_and_another_does_not(run, fresh, capsys):
    told = [figures(capsys, run, "--checkpoint", fresh, "--stochastic", "--seed", seed) for seed in (0, 0, 1)]
    assert told[0] == told[1] != told[2]


def test_samples_are_not_the_mode(run, fresh, capsys):
    assert figures(capsys, run, "--checkpoint", fresh) != figures(capsys, run, "--checkpoint", fresh, "--stochastic")


def test_another_checkpoint_is_another_agent_and_the_newest_is_the_default(run, fresh, capsys):
    assert figures(capsys, run, "--checkpoint", checkpoints(run)[-1]) == figures(capsys, run)
    assert figures(capsys, run, "--checkpoint", fresh, "--stochastic") != figures(capsys, run, "--stochastic")


def test_the_text_says_environment_steps_episodes_and_return(run, capsys):
    text = evaluate(capsys, run, "--episodes", 4)
    told = figures(capsys, run, "--episodes", 4)
    assert "CartPole-v1 after 352 steps, 4 episodes" in text
    assert f"return {told['return_mean']:.2f} ± {told['return_std']:.2f}" in text
    assert f"length {told['length_mean']:.1f}" in text


def test_an_evaluation_changes_nothing_in_the_run(run, capsys):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    evaluate(capsys, run)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_video_is_written_where_it_is_asked_for(run, capsys):
    evaluate(capsys, run, "--episodes", 1, "--video", run / "videos")
    (video,) = (run / "videos").glob("*.mp4")
    assert video.stat().st_size > 0


def test_a_video_is_never_mixed_with_those_of_another_evaluation(run):
    (run / "videos").mkdir()
    (run / "videos" / "rl-video-episode-1.mp4").write_bytes(b"mine")
    line = refusal(evaluate_command, "run", "--episodes", "1", "--video", "run/videos")
    assert "--video run/videos holds episodes already (rl-video-episode-1.mp4): give another directory" in line


OF_ANOTHER = {
    "policy.activation=relu": "policy.activation is 'relu' there, and 'tanh' in this run",
    "policy.memory=gru": "policy.memory is 'gru' there, and 'none' in this run",
    "critic.activation=elu": "critic.activation is 'elu' there, and 'tanh' in this run",
    "normalize.observations=false": "normalize.observations is False there, and True in this run",
}


@pytest.mark.parametrize(("override", "said"), OF_ANOTHER.items())
def test_a_checkpoint_of_another_kind_of_agent_is_refused_by_the_key_that_differs(override, said, run, capsys):
    assert train_tiny("other", override) == 0
    capsys.readouterr()
    newest = str(checkpoints(run.parent / "other")[-1].relative_to(run.parent))
    line = refusal(evaluate_command, "run", "--checkpoint", newest)
    assert f"{newest} is another run's: {said}" in line


def test_a_checkpoint_for_another_environment_is_refused_before_one_is_made(run, capsys):
    assert train_tiny("other", "env.id=Acrobot-v1", task="acrobot") == 0
    capsys.readouterr()
    newest = str(checkpoints(run.parent / "other")[-1].relative_to(run.parent))
    assert "env.id is 'Acrobot-v1' there, and 'CartPole-v1' in this run" in refusal(
        evaluate_command, "run", "--checkpoint", newest
    )


def test_a_checkpoint_of_another_seed_and_other_steps_is_an_agent_of_the_same_kind(run, capsys):
    assert train_tiny("other", "seed=5", "trust_region.max_kl=0.02", "advantage.gamma=0.9") == 0
    capsys.readouterr()
    assert figures(capsys, run, "--checkpoint", checkpoints(run.parent / "other")[-1])["episodes"] == 20


def test_another_environment_than_the_checkpoints_does_not_fit(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("CartPole-v1", "Acrobot-v1"))
    line = refusal(evaluate_command, "run")
    assert checkpoints(run)[-1].name in line
    assert "does not fit" in line
    assert "size mismatch for policy.network.0.weight" in line


def test_a_damaged_checkpoint_is_refused_by_name(run):
    newest = checkpoints(run)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    assert newest.name in refusal(evaluate_command, "run", "--checkpoint", str(newest))


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(run, capsys, caplog):
    *_, before, newest = checkpoints(run)
    newest.write_bytes(newest.read_bytes()[:1000])
    assert evaluate_command(["run", "--episodes", "1"]) == 0
    assert f"after {checkpoint.load(before)['env_steps']} steps" in capsys.readouterr().out
    assert newest.name in caplog.text


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run):
    for file in checkpoints(run):
        file.write_bytes(file.read_bytes()[:1000])
    assert "no checkpoint that can be read" in refusal(evaluate_command, "run")


def test_a_checkpoint_of_something_else_is_refused_by_name(run):
    checkpoint.save(run / "other.pt", {"weights": torch.ones(3)})
    assert "other.pt" in refusal(evaluate_command, "run", "--checkpoint", "run/other.pt")


@pytest.mark.parametrize("left", ["checkpoints", "nothing"])
def test_a_run_without_a_checkpoint_says_so(run, left):
    for file in (run / "checkpoints").iterdir():
        file.unlink()
    if left == "nothing":
        (run / "checkpoints").rmdir()
    assert "no checkpoint" in refusal(evaluate_command, "run")


# What is typed next to a whole run, and what the one line must say.
MISTAKES = [
    (["missing"], "there is no directory missing"),
    (["."], "not a run directory"),
    (["run/config.yaml"], "run/config.yaml"),
    (["run", "--checkpoint", "missing.pt"], "missing.pt"),
    (["run", "--checkpoint", "run/config.yaml"], "run/config.yaml"),
    (["run", "--episodes", "0"], "--episodes must be at least 1"),
    (["run", "--episodes", "-3"], "--episodes must be at least 1"),
    (["run", "--seed", "-1"], "--seed"),
    (["run", "--episodes", "many"], "--episodes"),
    (["missing", "--video", "run/config.yaml"], "--video run/config.yaml cannot be written"),
    (["missing", "--video", "/proc/videos"], "--video /proc/videos cannot be written"),
    (["run", "--no-such-flag"], "--no-such-flag"),
    ([], "RUN_DIR"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
@pytest.mark.usefixtures("run")
def test_a_mistake_is_one_line_and_exit_code_2(arguments, said):
    line = refusal(evaluate_command, *arguments)
    assert line.startswith("trpo-evaluate: ")
    assert said in line
