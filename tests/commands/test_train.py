"""What the person at the keyboard gets: one line for a mistake, help, and an exit code."""

import contextlib
import logging
import os
import shlex
import sys

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import SCRIPTS, TINY, process, refusal, summary

from trpo.commands.train import train
from trpo.console import console, shown
from trpo.keys import fields_by_key
from trpo.sampling.missing import import_package
from trpo.sampling.pool_env import only_in_envpool


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, in which nothing may appear, and no logging that Hydra set up for its help."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    root.handlers[:] = handlers
    root.setLevel(level)


# What is typed, and what the one line must say: the key as typed, and what is wrong or allowed.
MISTAKES = [
    (["task=cartpole", "trust_region.max_k=0.1"], ["trust_region.max_k", "trust_region.max_kl"]),
    (["task=cartpole", "learning_rate=0.1"], ["learning_rate", "critic.learning_rate"]),
    (["task=cartpole", "gamma=0.98"], ["'gamma'", "did you mean advantage.gamma?"]),
    (["task=cartpole", "max_kl=0.02"], ["'max_kl'", "did you mean trust_region.max_kl?"]),
    (["task=cartpole", "max_k=0.02"], ["'max_k'", "did you mean trust_region.max_kl?"]),
    (["task=cartpole", "lam=0.9"], ["'lam'", "advantage.lam"]),
    (["task=cartpole", "trust_region.gamma=0.98"], ["trust_region.gamma", "did you mean advantage.gamma?"]),
    (["task=cartpole", "env.seed=1"], ["env.seed", "did you mean seed?"]),
    (["task=cartpole", "env.kwargs.length=3"], ["'length'", "+env.kwargs.length=VALUE"]),
    (["cartpole"], ["'cartpole'", "KEY=VALUE", "did you mean task=cartpole?"]),
    (["task", "=", "cartpole"], ["'task'", "KEY=VALUE without spaces", "did you mean task=VALUE?"]),
    (["task=cartpole", "fast"], ["'fast'", "KEY=VALUE without spaces"]),
    (["task=cartpole", "zzz=1"], ["zzz", "--help"]),
    (["task=cartpole", "+critic.momentum=1"], ["critic.momentum"]),
    (["task=cartpole", "trust_region=null"], ["trust_region"]),
    (["task=cart"], ["'cart'", "cartpole"]),
    (["-m", "task=cartpole,cart"], ["'cart'", "cartpole"]),
    (["env.id=NoSuchThing-v0"], ["env.id=NoSuchThing-v0"]),
    (["env.id=no_such_package:Thing-v0"], ["no_such_package"]),
    (["task=cartpole", "+env.kwargs.gravity_of_mars=1"], ["gravity_of_mars"]),
    (["task=cartpole", "env.backend=threads"], ["env.backend", "sync, async, vector, envpool", "threads"]),
    (["env.id=Acrobot-v1", "env.backend=vector"], ["env.backend=vector", "Acrobot-v1"]),
    (["task=cartpole", "seed=many"], ["seed", "many"]),
    (["task=cartpole", "seed=1.5"], ["seed", "1.5"]),
    (["task=cartpole", "seed=null"], ["seed"]),
    (["task=cartpole", "normalize.rewards=perhaps"], ["normalize.rewards", "perhaps"]),
    (["task=cartpole", "policy.hidden_sizes=wide"], ["policy.hidden_sizes", "wide"]),
    (["task=cartpole", "policy.hidden_sizes=[64,0]"], ["policy.hidden_sizes", "at least 1"]),
    (["task=cartpole", f"critic.hidden_sizes=[{10**12},{10**12}]"], ["the memory", "critic.hidden_sizes=[10000000"]),
    (
        ["task=cartpole", "trust_region.max_kl=-0.01"],
        ["trust_region.max_kl", "at least 0 and at most 100", "got -0.01"],
    ),
    (["task=cartpole", "trust_region.max_kl=nan"], ["trust_region.max_kl", "nan"]),
    (["task=cartpole", "trust_region.max_kl=inf"], ["trust_region.max_kl", "inf"]),
    (["task=cartpole", "advantage.gamma=1.01"], ["advantage.gamma", "at least 0 and at most 1", "1.01"]),
    (["task=cartpole", "policy.initial_log_std=-6"], ["policy.initial_log_std", "policy.min_log_std"]),
    (["task=cartpole", "policy.noise_correlation=0.5"], ["policy.noise_correlation", "must be 0", "continuous"]),
    (["task=cartpole", "device=cuda:99"], ["device=cuda:99", "cpu"]),
    (["task=cartpole", "device=abacus"], ["device=abacus", "cpu"]),
    (["task=cartpole", "device=meta", "run.total_steps=1"], ["device=meta", "cpu"]),
    (["env.id=broken:DictActions-v0"], ["action space Dict", "Discrete, MultiDiscrete, MultiBinary"]),
    (["env.id=broken:TextObservations-v0"], ["observation space Sequence", "supported: Box, Discrete"]),
    ([], ["task=", "env.id="]),
    (["seed=3"], ["task=", "env.id="]),
    (["task=null"], ["task"]),
    (["task=cartpole", "~seed"], ["~seed"]),
    (["task=cartpole", "~task"], ["~task"]),
    (["task=cartpole", "seed"], ["'seed'", "KEY=VALUE", "did you mean seed=VALUE?"]),
    (["task=cartpole", "=3"], ["unknown key ''"]),
    (["task=cartpole", "seed=[1,"], ["[1,", "brackets must be closed"]),
    (["run.resume=it's ü"], ["run.resume=it's ü", "need quotes", r'''"run.resume='it\'s ü'"''']),
    (["task=cartpole", "run.init_from=(a) b"], ["need quotes", """"run.init_from='(a) b'\""""]),
    (["task=cartpole", "run.init_from='it's'"], ["need quotes", r'''"run.init_from='it\'s'"''']),
    (["task=cartpole", "run.init_from=é`"], ["need quotes", shlex.quote("run.init_from='é`'")]),
    (["task=cartpole", "env.num_envs=${no.such.key}"], ["no.such.key"]),
    (["task=cartpole", "hydra.run.dir=${no.such.key}"], ["no.such.key"]),
    (["task=cartpole", "seed=1,2"], ["seed=1,2", "-m"]),
    (["task=cartpole", "seed=range(3)"], ["seed=range(3)", "-m"]),
    (["-m", "task=cartpole", "seed=0,1,-1"], ["seed", "at least 0", "-1"]),
    (["-m", "task=cartpole,acrobot", "env.num_envs=4,0"], ["env.num_envs", "at least 1"]),
    (["-m", "task=cartpole", "seed=0,1", "run.total_steps=1", "hydra.sweep.subdir=same"], ["same"]),
    (["task=cartpole", "hydra.no_such_key=1"], ["hydra.no_such_key"]),
    (["-m", "task=cartpole", "+hydra.sweeper.params.seed=0,1"], ["hydra.sweeper.params", "-m seed=0,1"]),
    (["-m", "task=cartpole", "hydra.sweeper.params={seed: 1}"], ["hydra.sweeper.params", "-m seed=0,1"]),
    (["task=cartpole", "--config-dir", "missing"], ["missing"]),
    (["task=cartpole", "--config-name", "other"], ["--config-name"]),
    (["task=cartpole", "--no-such-flag"], ["--no-such-flag"]),
    (["task=cartpole", "--resolve"], ["--resolve"]),
]


LARGE = pytest.param(  # its first layer still fits, and is filled
    *(["task=cartpole", f"policy.hidden_sizes=[{10**8},{10**8}]"], ["the memory", "policy.hidden_sizes=[10000000"]),
    marks=pytest.mark.slow,
)


@pytest.mark.filterwarnings("ignore:provider=hydra.searchpath:UserWarning")
@pytest.mark.parametrize(("arguments", "said"), [*MISTAKES, LARGE], ids=lambda value: " ".join(value) or "nothing")
def test_a_mistake_is_one_line_exit_code_2_and_nothing_made(arguments, said):
    line = refusal(train, *arguments)
    assert line.startswith("trpo-train: ")
    assert all(words in line for words in said)


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "summary.json", "checkpoints/"])
def test_a_directory_that_holds_anything_of_a_run_is_refused(elsewhere, name):
    if name.endswith("/"):
        (elsewhere / "old" / name).mkdir(parents=True)
    else:
        (elsewhere / "old").mkdir()
        (elsewhere / "old" / name).write_text("precious")
    line = refusal(train, "task=cartpole", "hydra.run.dir=old")
    assert "another hydra.run.dir (with -m: hydra.sweep.dir)" in line
    assert ("run.resume=auto goes on" in line) == (name == "config.yaml")  # else there is nothing to go on with


@pytest.mark.parametrize("directory", ["file", "file/below"])
def test_a_file_in_place_of_the_run_directory_is_refused(elsewhere, directory):
    (elsewhere / "file").write_text("precious")
    assert "file" in refusal(train, "task=cartpole", f"hydra.run.dir={directory}")
    assert (elsewhere / "file").read_text() == "precious"


def test_one_job_of_a_sweep_whose_directory_is_taken_refuses_the_sweep(elsewhere):
    (elsewhere / "old" / "1").mkdir(parents=True)
    (elsewhere / "old" / "1" / "metrics.jsonl").write_text("")
    line = refusal(
        train, "-m", "task=cartpole", "seed=0,1", "hydra.sweep.dir=old", "hydra.sweep.subdir=${hydra.job.num}"
    )
    assert "old/1" in line


# The allowed ranges, written down a second time.
OUT_OF_RANGE = {
    "seed": st.integers(max_value=-1),
    "env.num_envs": st.integers(max_value=0),
    "env.timeout": st.floats(max_value=-1e-9),
    "env.restart_every": st.integers(max_value=-1),
    "env.max_episode_steps": st.integers(max_value=-1),
    "policy.memory_size": st.integers(max_value=0),
    "critic.memory_size": st.integers(max_value=0),
    "record.profile_every": st.integers(max_value=-1),
    "record.dump_every": st.integers(max_value=-1),
    "policy.initial_log_std": st.floats(min_value=5.001, allow_nan=False),
    "policy.min_log_std": st.floats(max_value=-20.001, allow_nan=False),
    "policy.final_std_scale": st.floats(max_value=0.0),
    "trust_region.entropy": st.floats(max_value=-1e-9),
    "policy.noise_correlation": st.floats(max_value=-1e-9) | st.floats(min_value=0.991),
    "advantage.gamma": st.floats(max_value=-1e-9) | st.floats(min_value=1.000001) | st.just(float("nan")),
    "advantage.lam": st.floats(max_value=-1e-9) | st.floats(min_value=1.000001) | st.just(float("nan")),
    "trust_region.max_kl": st.floats(max_value=-1e-9) | st.sampled_from([float("inf"), float("nan")]),
    "trust_region.anneal": st.floats(max_value=-1e-9) | st.floats(min_value=0.991),
    "trust_region.anneal_power": st.floats(max_value=-1e-9) | st.floats(min_value=10.001) | st.just(float("nan")),
    "trust_region.min_multiplier": st.floats(max_value=-1e-9),
    "trust_region.cg_iterations": st.integers(max_value=0),
    "trust_region.cg_tolerance": st.floats(max_value=-1e-9),
    "trust_region.damping": st.floats(max_value=-1e-9),
    "trust_region.relative_damping": st.floats(max_value=-1e-9),
    "trust_region.max_backtracks": st.integers(max_value=-1),
    "trust_region.backtrack_factor": st.floats(max_value=0.0) | st.floats(min_value=0.991),
    "trust_region.fisher_fraction": st.floats(max_value=0.0) | st.floats(min_value=1.000001),
    "trust_region.micro_batch": st.integers(max_value=-1),
    "action_values.networks": st.integers(max_value=0),
    "action_values.bins": st.integers(max_value=-1),
    "action_values.pessimism": st.floats(max_value=-1e-9) | st.just(float("nan")),
    "action_values.rollouts": st.integers(max_value=0),
    "action_values.drawn": st.integers(max_value=0),
    "action_values.minibatches": st.integers(max_value=0),
    "action_values.minibatch_size": st.integers(max_value=0),
    "action_values.learning_rate": st.floats(max_value=0.0),
    "action_values.trace": st.floats(max_value=-1e-9) | st.floats(min_value=1.000001),
    "action_values.noise": st.integers(max_value=0),
    "action_values.target_noise": st.integers(max_value=0),
    "action_values.warm_up": st.integers(max_value=-1),
    "critic.learning_rate": st.floats(max_value=0.0),
    "critic.anneal": st.floats(max_value=-1e-9) | st.floats(min_value=0.991),
    "critic.epochs": st.integers(max_value=0),
    "critic.minibatch_size": st.integers(max_value=0),
    "run.total_steps": st.integers(max_value=0),
    "run.steps_per_iteration": st.integers(max_value=0),
    "run.evaluate_every": st.integers(max_value=-1),
    "run.evaluation_episodes": st.integers(max_value=-1),
    "run.checkpoint_every": st.integers(max_value=-1),
    "run.keep_checkpoints": st.integers(max_value=0),
    "run.threads": st.integers(max_value=0),
}
KEYS = [name for name, _ in fields_by_key() if name != "env.kwargs"]
LISTS = {"policy.hidden_sizes", "critic.hidden_sizes", "action_values.hidden_sizes"}

out_of_range = st.sampled_from(sorted(OUT_OF_RANGE)).flatmap(
    lambda name: OUT_OF_RANGE[name].map(lambda value: (name, f"{name}={value!r}"))
)
one_letter_lost = st.sampled_from(KEYS).flatmap(
    lambda name: st.integers(0, len(name) - 1).map(lambda i: name[:i] + name[i + 1 :])
)
misspelt = one_letter_lost.filter(lambda name: name not in KEYS).map(lambda name: (name, f"{name}=1"))
wrong_type = st.tuples(
    st.sampled_from(sorted(OUT_OF_RANGE)), st.sampled_from(["abc", "[1]", "{a: 1}", "null", "'1 2'", "''"])
).map(lambda pair: (pair[0], "=".join(pair)))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(bad=out_of_range | misspelt | wrong_type, seed=st.integers(0, 9), first=st.booleans())
def test_no_bad_configuration_gets_past_the_command(bad, seed, first):
    name, override = bad
    good = ["task=cartpole", "env.num_envs=3", f"run.total_steps={seed + 1}"]
    good = [line for line in good if line.split("=")[0] != name]  # a later one would win
    assert name in refusal(train, *([override, *good] if first else [*good, override]))


def test_every_number_of_the_configuration_is_in_the_table_of_ranges():
    numbers = {name for name, field in fields_by_key() if field.type in ("int", "float", "float | None")}
    assert set(OUT_OF_RANGE) == numbers - {"run.stop_at_return"}  # which has no range


def test_the_help_names_every_task_and_every_key(capsys, elsewhere):
    assert train(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for task in ("cartpole", "hopper", "humanoid", "swimmer", "walker2d"):
        assert any(line.split()[:1] == [task] for line in lines)
    for name, _ in fields_by_key():
        assert sum(line.startswith(f"  {name}=") for line in lines) == 1, name
    assert list(elsewhere.iterdir()) == []


def test_the_help_says_what_a_key_takes_as_it_is_typed(capsys):
    train(["--help"])
    _, keys = capsys.readouterr().out.split("Keys and their defaults:\n")
    shown = {line.split("=")[0].strip(): line for line in keys.split("\n\n")[0].splitlines()}
    for name, field in fields_by_key():
        assert all(choice in shown[name].split("=", 1)[1] for choice in field.metadata["choices"]), name
        assert "None" not in shown[name]
    assert "run.stop_at_return=null " in shown["run.stop_at_return"]
    assert shown["env.backend"].count("sync") == 3  # the default and two in its line of help, not said again


def test_the_help_of_every_task_names_an_environment_that_one_of_the_libraries_has(capsys):
    train(["-h"])
    _, tasks = capsys.readouterr().out.split("Tasks (task=…):\n")
    for line in tasks.split("\n\n")[0].splitlines():
        id = line.split()[1]
        import_package(id)
        assert id in gymnasium.registry or only_in_envpool(id)


def test_showing_the_configuration_runs_nothing_and_makes_no_directory(capsys, elsewhere):
    assert train(["task=hopper", "seed=7", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "id: Hopper-v5" in shown
    assert list(elsewhere.iterdir()) == []


def test_showing_a_configuration_with_a_mistake_is_refused_too():
    assert "nonsense" in refusal(train, "task=cartpole", "nonsense=7", "--cfg", "job")


def test_hydras_own_help_is_there(capsys, elsewhere):
    with contextlib.suppress(SystemExit):  # Hydra ends the process itself
        assert train(["--hydra-help"]) == 0
    assert "--multirun" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []


# As a person meets them: real processes.
PROCESSES = [
    ([sys.executable, "-m", "trpo", "task=cart"], "trpo-train: there is no task 'cart'"),
    ([SCRIPTS / "trpo-train", "task=cartpole", "trust_region.max_kl=-1"], "trpo-train: trust_region.max_kl must be"),
    ([SCRIPTS / "trpo-train", "env.id=HalfCheetah-v2"], "trpo-train: env.id=HalfCheetah-v2 cannot be made"),
    ([SCRIPTS / "trpo-evaluate", "missing"], "trpo-evaluate: there is no directory missing"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "said"), PROCESSES, ids=["module", "script", "warned", "evaluate"])
def test_a_process_with_a_mistake_says_one_line_and_exits_2(command, said, elsewhere):
    ended = process(*command, cwd=elsewhere)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(said)
    assert list(elsewhere.iterdir()) == []


UNREAD = {  # and the exit code, as if a shell had seen the closed pipe end it; a run does not end
    "the help": (["trpo-train", "--help"], 141),
    "argparse's help": (["trpo-report", "--help"], 141),
    "a run": (["trpo-train", "task=cartpole", *TINY, "hydra.run.dir=run"], 0),
    "a finished run": (["trpo-train", "task=cartpole", *TINY, "hydra.run.dir=run", "run.resume=auto"], 0),
}


@pytest.mark.slow
def test_whoever_reads_the_output_may_stop_and_nothing_is_said_of_it(elsewhere, unread, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # it hides what Python itself does at its end
    for name, ((program, *arguments), code) in UNREAD.items():
        ended = process(SCRIPTS / program, *arguments, cwd=elsewhere, stdout=unread)
        assert (ended.returncode, ended.stderr) == (code, ""), name
    assert summary(elsewhere / "run")["exit_reason"] == "finished"


def test_what_cannot_be_shown_for_another_reason_is_told_and_the_run_goes_on(capsys, monkeypatch):
    with open(os.devnull, "w", encoding="ascii") as narrow, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", narrow)
        with shown():
            console.info("return 1 ± 0")
    assert "UnicodeEncodeError" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [arguments for arguments, _ in MISTAKES[::4]], ids=" ".join)
def test_every_fourth_mistake_as_a_process_says_one_line_and_exits_2(arguments, elsewhere):
    ended = process(SCRIPTS / "trpo-train", *arguments, cwd=elsewhere)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("trpo-train: ")
    assert list(elsewhere.iterdir()) == []
