"""`trpo-export`: a file that runs elsewhere, or one line about what is wrong and nothing written."""

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from pages import blocks
from tiny_runs import checkpoints, compose, process, refusal, train_tiny

import trpo
import trpo.exported
from trpo.commands.compose import tasks
from trpo.commands.export import export
from trpo.config import EnvConfig
from trpo.models.observations import MASK
from trpo.record.run_directory import git_commit
from trpo.sampling.making import make_env

SHORT = ("run.total_steps=64", "run.evaluation_episodes=0")
RUNS = {
    "pendulum": ["task=pendulum"],
    "frozenlake": ["env.id=FrozenLake-v1"],
    "marked": ["env.id=probes:Marked-v0"],
}
REMEMBERING = ("policy.memory=gru", "policy.memory_inputs=[action,reward]", "policy.memory_size=8")
TRPO = str(trpo.__path__[0])
LOADED = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec:FutureWarning")  # torch's own


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny run of each kind, made when it is first asked for."""
    directories = {}

    def run_of(name):
        if name not in directories:
            directories[name] = tmp_path_factory.mktemp(name) / "run"
            own = {**RUNS, "remembering": ["task=pendulum", *REMEMBERING]}.get(name, [f"task={name}"])
            assert train_tiny(directories[name], *SHORT, *own) == 0
        return directories[name]

    return run_of


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_line_of_the_manual_for_python_exports(made, elsewhere):
    """In a process of its own: here, other modules have imported it already."""
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    ((first, line),) = re.findall(r"In Python, after `(.*)`, `(.*)` does what the command does", page)
    line = line.replace("RUN_DIR", str(made("pendulum"))).replace(".onnx", ".pt2")
    ended = process(sys.executable, "-c", f"{first}; {line}", cwd=elsewhere)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (elsewhere / "policy.pt2").exists()


def recorded(config: EnvConfig, count: int):
    """Raw observations of an environment as the agent's actions meet it, valid ones where it has masks."""
    env, seen = make_env(config), []
    env.action_space.seed(0)
    generator = np.random.default_rng(0)
    observation, _ = env.reset(seed=0)
    while len(seen) < count:
        seen.append(observation)
        action = env.action_space.sample()
        if isinstance(observation, dict) and MASK in observation:
            action = generator.choice(np.flatnonzero(observation[MASK]))
        observation, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
    env.close()
    if not isinstance(seen[0], dict):
        return np.stack(seen)
    parts = env.observation_space.spaces  # EnvPool says int64 and gives int32
    return {name: np.stack([one[name] for one in seen]).astype(part.dtype) for name, part in parts.items()}


def named(raw, seen):
    """Arrays by the names of the inputs, for observations without nested parts of which the policy has `seen` some."""
    if not isinstance(raw, dict):
        return {"observation": raw}
    asked = {name: rows for name, rows in raw.items() if not seen or name in (MASK, *seen)}
    return {name if name in (MASK, "observation") else f"observation.{name}": rows for name, rows in asked.items()}


def answers(file, inputs):
    if file.suffix == ".onnx":
        return onnxruntime.InferenceSession(file).run(["action"], inputs)[0]
    tensors = {name: torch.from_numpy(rows) for name, rows in inputs.items()}
    return torch.export.load(file).module()(tensors)["action"].numpy()


def check_answers(run, file, raw):
    """At the start of an episode file and agent do the same; where two logits are one to rounding, either is right."""
    agent = trpo.load(run)
    expected, _ = agent.predict(raw, deterministic=True)
    memory = agent.agent.memory.of_policy() if agent.agent.memory else {}
    nothing = {name: np.zeros((len(expected), size), np.float32) for name, size in memory.items()}
    found = answers(file, {**named(raw, agent.config.policy.observations), **nothing})
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if np.issubdtype(expected.dtype, np.floating):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        return
    seen = agent.agent.recall(len(expected)).seen(agent.interface.encode(raw))
    logits = agent.agent.policy(agent.agent.normalize(seen)).sort(dim=-1).values
    clear = (logits[:, -1] - logits[:, -2] > 1e-5).numpy()  # the shipped tasks have one dimension
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.slow
@LOADED
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_becomes_a_file_that_answers_for_what_its_environment_gives(name, suffix, made, elsewhere, capsys):
    run, file = made(name), elsewhere / f"policy{suffix}"
    capsys.readouterr()  # what training said
    assert export([str(run), file.name]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"policy{suffix}: ")
    assert "largest difference from the agent in 1,000 random observations: " in printed.out
    assert (len(printed.out.splitlines()), printed.err) == (1, "")
    assert [path.name for path in elsewhere.iterdir()] == [file.name]
    check_answers(run, file, recorded(trpo.load(run).config.env, 200))


@pytest.mark.slow
@LOADED
@pytest.mark.parametrize("task", tasks())
def test_every_shipped_task_can_be_exported(task, made, elsewhere):
    config = compose(f"task={task}")
    raw = recorded(config.env, 1_000)
    for suffix in (".onnx", ".pt2"):
        assert export([str(made(task)), f"policy{suffix}"]) == 0
        check_answers(made(task), elsewhere / f"policy{suffix}", raw)


ALONE = """
import sys
for name in ("torch", "trpo", "gymnasium", "onnx"):
    sys.modules[name] = None
import numpy, onnxruntime
parts = dict(numpy.load(sys.argv[2]))
print(onnxruntime.InferenceSession(sys.argv[1]).run(["action"], parts)[0].tolist())
"""


@pytest.mark.slow
def test_an_onnx_file_runs_with_onnxruntime_and_numpy_alone(made, elsewhere):
    run, raw = made("marked"), recorded(EnvConfig(id="probes:Marked-v0"), 300)
    assert export([str(run), "policy.onnx"]) == 0
    np.savez("parts.npz", **named(raw, seen=()))
    ended = process(sys.executable, "-c", ALONE, "policy.onnx", "parts.npz", cwd=elsewhere)
    assert json.loads(ended.stdout) == trpo.load(run).act(raw).tolist(), ended.stderr


def told_by(file):
    """What a file says of itself."""
    if file.suffix == ".onnx":
        return onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    with zipfile.ZipFile(file) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("extra/metadata.json")]
        return json.loads(archive.read(name))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_says_what_it_is_and_nothing_of_the_machine(suffix, made, elsewhere):
    run, file = made("pendulum"), elsewhere / f"policy{suffix}"
    assert export([str(checkpoints(run)[-1]), file.name]) == 0  # a checkpoint will do
    told = told_by(file)
    assert {name: told[name] for name in ("env_id", "env_steps")} == {"env_id": "Pendulum-v1", "env_steps": "64"}
    assert told.get("git_commit") == git_commit()
    action = {"type": "Box", "low": -2.0, "high": 2.0, "shape": [1], "dtype": "float32"}
    assert json.loads(told["action_space"]) == action
    assert json.loads(told["observation_space"])["high"] == [1.0, 1.0, 8.0]
    assert told["trpo_version"]
    assert json.loads(told["memory"]) == {}
    assert TRPO.encode() not in file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_says_what_its_policy_remembers(suffix, made, elsewhere):
    file = elsewhere / f"policy{suffix}"
    assert export([str(made("remembering")), file.name]) == 0
    memory = {"memory.policy_state": 8, "memory.action": 1, "memory.reward": 1}
    assert json.loads(told_by(file)["memory"]) == memory


@pytest.mark.slow
@pytest.mark.parametrize("name", ["remembering", "pendulum"])
def test_the_loop_of_the_manual_plays_as_the_agent_does(name, made, elsewhere):
    assert export([str(made(name)), "policy.onnx"]) == 0
    (block,) = [
        block.values[0] for block in blocks("python") if block.id.startswith("export:") and "play" in block.values[0]
    ]
    names = {}
    exec(block, names)
    env = make_env(EnvConfig(id="Pendulum-v1", max_episode_steps=60))
    assert names["play"](env, 3) == pytest.approx(played(trpo.load(made(name)), env, 3), rel=1e-4)
    env.close()


def played(agent, env, seed):
    """The return of one episode by the agent itself."""
    (observation, _), state, reward, rewards, over = env.reset(seed=seed), None, None, [], False
    while not over:
        action, state = agent.predict(observation, state, deterministic=True, reward=reward)
        observation, reward, terminated, truncated, _ = env.step(action)
        rewards, over = [*rewards, reward], terminated or truncated
    return sum(rewards)


def test_what_cannot_be_exported_is_refused_in_one_line(made, elsewhere):
    run = str(made("frozenlake"))
    shutil.copytree(run, "damaged")
    for file in checkpoints(elsewhere / "damaged"):
        file.write_bytes(file.read_bytes()[:1000])
    (elsewhere / "there.onnx").write_text("mine")
    (elsewhere / "folder.pt2").mkdir()
    assert "there is no checkpoint nowhere" in refusal(export, "nowhere", "policy.onnx")
    assert "is not a run directory" in refusal(export, "folder.pt2", "policy.onnx")
    assert "no checkpoint that can be read" in refusal(export, "damaged", "policy.onnx")
    assert "damaged, or not one" in refusal(export, str(checkpoints(elsewhere / "damaged")[-1]), "policy.pt2")
    assert "must end in .onnx or .pt2, got .pt" in refusal(export, run, "policy.pt")
    assert "got no ending" in refusal(export, run, "policy")
    assert "there.onnx exists already; --force" in refusal(export, run, "there.onnx")
    assert "is a directory" in refusal(export, run, "folder.pt2", "--force")
    assert "the following arguments are required: FILE" in refusal(export, run)
    for file in ("there.onnx/policy.pt2", "/proc/policy.pt2", f"{'x' * 251}.pt2"):  # before the run is looked for
        assert f"trpo-export: {file} cannot be written: " in refusal(export, "nowhere", file)
    assert (elsewhere / "there.onnx").read_text() == "mine"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(package, made, elsewhere, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(export, str(made("frozenlake")), "policy.onnx")
    assert f"needs {package}: pip install 'trpo[export]'" in line
    assert export([str(made("frozenlake")), "policy.pt2"]) == 0


def test_without_onnxruntime_a_file_is_written_and_that_nobody_compared_it_is_said(
    made, elsewhere, monkeypatch, capsys
):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", None)
        assert export([str(made("frozenlake")), "policy.onnx"]) == 0
    assert "not compared with the agent: that needs onnxruntime" in capsys.readouterr().out
    check_answers(made("frozenlake"), elsewhere / "policy.onnx", np.arange(16))


def test_a_file_that_differs_from_its_agent_is_never_written(made, elsewhere, monkeypatch):
    """As if the normaliser were forgotten, which is how exports go wrong; what was there before stays."""
    (elsewhere / "policy.pt2").write_text("mine")
    monkeypatch.setattr(trpo.exported, "rescalers", lambda normalizer: {})
    line = refusal(export, str(made("pendulum")), "policy.pt2", "--force")
    assert "the file and its agent differ by" in line
    assert (elsewhere / "policy.pt2").read_text() == "mine"


def test_force_overwrites_a_file(made, elsewhere):
    (elsewhere / "policy.pt2").write_text("mine")
    assert export([str(made("frozenlake")), "policy.pt2", "--force"]) == 0
    assert told_by(elsewhere / "policy.pt2")["env_id"] == "FrozenLake-v1"
