"""What may change when a run goes on, what may not, and what is no run to go on with."""

import json
import shutil
from unittest.mock import Mock

import pytest
import yaml
from tiny_runs import TINY, everything_below, fingerprints, refusal, rows, summary, train_tiny

from trpo.commands.compose import load_config
from trpo.commands.resume import CHANGEABLE
from trpo.commands.train import train
from trpo.keys import fields_by_key, flat
from trpo.record import checkpoint, run_directory

# One iteration after the warm-up.
SHORT = ("run.total_steps=64", "run.evaluation_episodes=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("finished") / "run"
    assert train_tiny(directory, *SHORT) == 0
    return directory


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of a finished run, to be changed; it is `run` of the working directory. Nothing is mirrored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wandb.init", Mock())
    return shutil.copytree(finished, tmp_path / "run")


def contents(directory):
    return {path: path.read_bytes() for path in everything_below(directory) if path.is_file()}


def sweep(*arguments):
    return train(["-m", "task=cartpole", *TINY, *SHORT, "hydra.sweep.dir=sweep", *arguments])


# run.resume=auto


def test_auto_starts_in_an_empty_directory_and_in_one_that_is_not_there(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        assert train_tiny(name, *SHORT, "run.resume=auto") == 0
        assert fingerprints(tmp_path / name) == fingerprints(run)


def test_auto_leaves_a_finished_run_alone_and_says_so(run, capsys):
    before = contents(run)
    assert train_tiny("run", *SHORT, "run.resume=auto") == 0
    told = capsys.readouterr()
    assert told.out == f"{run} holds a finished run: nothing to do\n"
    assert told.err == ""
    assert contents(run) == before


@pytest.mark.parametrize("from_the_start", [True, False], ids=["asked from the start", "asked afterwards"])
def test_auto_resumes_every_job_of_a_sweep(from_the_start, run, tmp_path):
    again = ["seed=0,1", "run.resume=auto"]
    assert sweep(*again[: 1 + from_the_start]) == 0
    jobs = sorted((tmp_path / "sweep").glob("[01]*"))
    expected = [fingerprints(job) for job in jobs]
    untouched = contents(jobs[0])
    (jobs[1] / "summary.json").unlink()  # as if it had been killed
    shutil.rmtree(jobs[1] / "checkpoints")
    assert sweep(*again) == 0
    assert sorted((tmp_path / "sweep").glob("[01]*")) == jobs
    assert contents(jobs[0]) == untouched
    assert [fingerprints(job) for job in jobs] == expected
    assert summary(jobs[1])["exit_reason"] == "finished"


# Directories that the same line does not find again, and the key that is to be given.
TIMED = [
    ([], "hydra.run.dir=DIR"),
    (["hydra.run.dir=mine/${hydra.job.name}_${now:%H-%M-%S}"], "hydra.run.dir=DIR"),
    (["hydra.sweep.dir=mine"], "hydra.run.dir=DIR"),  # which is not a sweep's without -m
    (["-m", "seed=0,1"], "hydra.sweep.dir=DIR"),
    (["-m", "hydra.run.dir=mine"], "hydra.sweep.dir=DIR"),
    (["-m", "seed=0,1", "hydra.sweep.dir=mine", "hydra.sweep.subdir=${seed}_${now:%f}"], "hydra.sweep.subdir=DIR"),
    (["hydra.run.dir=${hydra.sweep.dir}"], "hydra.run.dir=DIR"),
]


@pytest.mark.parametrize(("arguments", "said"), TIMED)
def test_auto_is_refused_where_the_same_line_would_start_again(arguments, said, run):
    line = refusal(train, "task=cartpole", *TINY, "run.resume=auto", *arguments)
    assert said in line
    assert "has the time in it" in line


def test_auto_goes_on_in_a_directory_whose_name_is_made_of_what_stays(run, tmp_path):
    line = ["task=cartpole", *TINY, "run.resume=auto", "hydra.run.dir=named_${seed}_${env.num_envs}"]
    for steps in (64, 96):
        assert train([*line, f"run.total_steps={steps}"]) == 0
    assert summary(tmp_path / "named_0_2")["env_steps"] == 96


# run.resume=DIR


def test_a_finished_run_is_refused_unless_more_steps_are_asked_for(run):
    before = contents(run)
    line = refusal(train, "run.resume=run")
    assert "finished" in line
    assert "run.total_steps" in line
    assert contents(run) == before
    assert train(["run.resume=run", "run.total_steps=96"]) == 0
    assert summary(run)["env_steps"] == 96


@pytest.mark.parametrize("asked", [63, 64])
@pytest.mark.parametrize("reason", ["SIGINT", "stopped", None], ids=["interrupted", "stopped", "killed"])
@pytest.mark.parametrize("resume", ["run", "auto"])
def test_fewer_steps_than_an_unfinished_run_has_done_are_refused(asked, reason, resume, run):
    cut_short(run, reason)
    before = contents(run)
    line = ["task=cartpole", *TINY, *SHORT, "hydra.run.dir=run", f"run.resume={resume}", f"run.total_steps={asked}"]
    if (resume, reason) == ("auto", "stopped"):  # which is as it was meant to be
        assert train(line) == 0
    else:
        assert f"run has done 64 steps already, and run.total_steps={asked} leaves" in refusal(train, *line)
    assert contents(run) == before


def cut_short(run, reason):
    """Make a finished run one that was to have 128 steps and ended at 64 for another reason, if for any."""
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("total_steps: 64\n", "total_steps: 128\n"))
    if reason is None:
        (run / "summary.json").unlink()
    else:
        (run / "summary.json").write_text(json.dumps({**summary(run), "exit_reason": reason}))


def test_fewer_steps_than_the_run_was_to_have_but_more_than_it_has_done_are_enough(run):
    cut_short(run, "SIGINT")
    assert train(["run.resume=run", "run.total_steps=96"]) == 0
    assert (summary(run)["exit_reason"], summary(run)["env_steps"]) == ("finished", 96)


def test_a_run_that_was_killed_after_its_last_step_is_finished_by_the_line_that_started_it(run):
    (run / "summary.json").unlink()
    assert train_tiny("run", *SHORT, "run.total_steps=64", "run.resume=auto") == 0
    assert summary(run)["exit_reason"] == "finished"


@pytest.mark.parametrize("resume", ["run", "auto"])
def test_a_run_that_another_process_writes_is_refused_and_left_to_it(resume, run):
    before = contents(run)
    with run_directory.locked(run):
        line = refusal(train, "task=cartpole", *TINY, "hydra.run.dir=run", f"run.resume={resume}")
    assert line == f"trpo-train: {run} is being written by another process"
    assert contents(run) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra.run.dir=other"], "leave hydra.run.dir=other out"),
        (["hydra.run.dir='the other'"], "run.init_from=run"),
        (["-m"], "go on with a sweep by run.resume=auto"),
        (["-m", "run.resume=run,other"], "runs go on one by one"),
        (["-m", "seed=0,1", "hydra.sweep.dir=sweep"], "go on with a sweep by run.resume=auto"),
    ],
)
def test_a_run_goes_on_where_it_is_and_alone(arguments, said, run):
    before = contents(run)
    assert said in refusal(train, "run.resume=run", "run.total_steps=96", *arguments)
    assert contents(run) == before


def test_the_directory_of_a_run_that_goes_on_may_be_said_twice(run):
    assert train(["run.resume=run", "run.total_steps=96", f"hydra.run.dir={run}"]) == 0
    assert summary(run)["env_steps"] == 96


def test_a_directory_that_is_no_run_is_refused_by_name(run, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").touch()
    for name in ("absent", "notes", "file"):
        assert name in refusal(train, f"run.resume={name}")


@pytest.mark.parametrize("names", [("config.yaml",), ("overrides.yaml",), ("config.yaml", "overrides.yaml")])
@pytest.mark.parametrize("text", ["", "a: [", "7\n"])
def test_a_run_whose_files_are_damaged_is_refused_or_goes_on_but_never_fails(names, text, run):
    (run / "summary.json").unlink()
    for name in names:
        (run / name).write_text(text)
    try:
        code = train(["run.resume=run", "run.total_steps=96"])
    except Exception as error:
        pytest.fail(f"a traceback for the person: {error!r}")
    assert code in (0, 2)
    assert (len(rows(run)) == 2) == (code == 0)


def test_an_agent_that_was_made_differently_is_refused_and_its_checkpoints_left_as_they_are(run, capsys):
    """As one-hot agents of the time before they knew their scale."""
    (file,) = (run / "checkpoints").glob("step_*.pt")
    state = checkpoint.load(file)
    del state["agent"]["normalizer.scale"]
    checkpoint.save(file, state)
    before = contents(run / "checkpoints")
    assert train(["run.resume=run", "run.total_steps=96"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not fit" in line
    assert not any(words in line for words in ("UserError", "traceback"))
    assert 'Missing key(s) in state_dict: "normalizer.scale"' in line
    assert contents(run / "checkpoints") == before


# Overrides


def test_overrides_that_repeat_what_the_run_has_are_accepted(run):
    repeated = ["task=cartpole", *TINY, *SHORT, "seed=0", "trust_region.max_kl=0.04"]
    assert train([*repeated, "run.resume=run", "run.total_steps=96"]) == 0


@pytest.mark.slow
def test_an_override_is_compared_with_what_the_run_has_and_not_with_the_defaults(run):
    own = ["env.backend=async", "env.timeout=20", "policy.min_log_std=-9", "policy.initial_log_std=-8"]
    assert train_tiny("own", *SHORT, *own) == 0
    for steps, override in enumerate(own, start=3):
        assert train([override, "run.resume=own", f"run.total_steps={32 * steps}"]) == 0, override


# Another value of every key that may change.
APPLIED = {
    "env.pin": False,
    "run.total_steps": 96,
    "run.evaluate_every": 32,
    "run.evaluation_episodes": 1,
    "run.checkpoint_every": 32,
    "run.keep_checkpoints": 2,
    "run.fallback_directory": "elsewhere",
    "record.progress": False,
    "record.profile_every": 1,
    "record.dump_every": 1,
    "record.info_keys": ("x",),
    "run.stop_at_return": 9999.0,
    "record.wandb": "mine",
}
# Another value of every key that may not.
REFUSED = {
    "seed": 1,
    "device": "cpu",
    "env.id": "Acrobot-v1",
    "env.backend": "async",
    "env.num_envs": 3,
    "env.timeout": 3.0,
    "env.restart_every": 50,
    "env.max_episode_steps": 7,
    "env.wrappers": ["gymnasium.wrappers:TimeAwareObservation"],
    "policy.hidden_sizes": [8, 8],
    "policy.activation": "relu",
    "policy.initial_log_std": 0.0,
    "policy.min_log_std": -4.0,
    "policy.bounds": "tanh",
    "policy.std": "state",
    "policy.final_std_scale": 0.5,
    "policy.noise_correlation": 0.5,
    "policy.observations": ["observation"],
    "policy.images": ["observation"],
    "policy.grids": ["observation"],
    "policy.vectors": ["observation"],
    "policy.memory": "gru",
    "policy.memory_size": 8,
    "policy.memory_inputs": ["action"],
    "critic.memory": "lstm",
    "critic.memory_size": 8,
    "policy.network": "module:Class",
    "critic.network": "module:Class",
    "run.init_from": "elsewhere",
    "normalize.observations": False,
    "normalize.rewards": False,
    "normalize.advantages": False,
    "advantage.gamma": 0.5,
    "advantage.lam": 0.5,
    "trust_region.max_kl": 0.02,
    "trust_region.entropy": 0.01,
    "trust_region.line_search": False,
    "trust_region.anneal": 0.5,
    "trust_region.anneal_power": 2.0,
    "trust_region.min_multiplier": 0.5,
    "trust_region.cg_iterations": 3,
    "trust_region.cg_tolerance": 0.5,
    "trust_region.damping": 0.5,
    "trust_region.relative_damping": 0.5,
    "trust_region.max_backtracks": 1,
    "trust_region.backtrack_factor": 0.5,
    "trust_region.fisher": "hessian",
    "trust_region.fisher_fraction": 0.5,
    "trust_region.micro_batch": 7,
    "trust_region.surrogate": "pathwise",
    "action_values.hidden_sizes": [9],
    "action_values.networks": 3,
    "action_values.bins": 20,
    "action_values.pessimism": 1.0,
    "action_values.rollouts": 5,
    "action_values.drawn": 2,
    "action_values.minibatches": 7,
    "action_values.minibatch_size": 8,
    "action_values.learning_rate": 0.01,
    "action_values.trace": 0.5,
    "action_values.noise": 3,
    "action_values.target_noise": 1,
    "action_values.warm_up": 1,
    "critic.hidden_sizes": [9],
    "critic.activation": "relu",
    "critic.learning_rate": 0.01,
    "critic.anneal": 0.5,
    "critic.epochs": 3,
    "critic.minibatch_size": 8,
    "critic.observations": ["observation"],
    "run.steps_per_iteration": 48,
    "run.threads": 2,
    "run.deterministic": True,
}


# Those that are typed an entry at a time.
MAPPINGS = {"env.kwargs", "env.evaluation_kwargs", "policy.network_kwargs", "critic.network_kwargs"}


def typed(key, value):
    return f"{key}={list(value) if isinstance(value, tuple) else value}".replace(" ", "").replace("'", "")


def test_every_key_is_in_one_of_the_two_tables():
    assert set(APPLIED) | {"run.resume", "env.evaluation_kwargs"} == set(CHANGEABLE)
    assert set(APPLIED) | set(REFUSED) | {"run.resume"} | MAPPINGS == {key for key, _ in fields_by_key()}


@pytest.mark.parametrize("key", APPLIED)
def test_a_key_of_length_and_recording_is_applied_and_recorded(key, run):
    assert str(flat(load_config(run / "config.yaml"))[key]) != str(APPLIED[key])
    assert train(["run.resume=run", "run.total_steps=96", typed(key, APPLIED[key])]) == 0
    assert str(flat(load_config(run / "config.yaml"))[key]) == str(APPLIED[key])
    assert typed(key, APPLIED[key]) in yaml.safe_load((run / "overrides.yaml").read_text())


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_decides_the_numbers_is_refused_with_both_values(key, run):
    before, has = contents(run), flat(load_config(run / "config.yaml"))[key]
    line = refusal(train, "run.resume=run", "run.total_steps=96", typed(key, REFUSED[key]))
    assert line.startswith(f"trpo-train: {key}")
    assert str(has) in line.removeprefix(key)
    assert str(REFUSED[key]).strip("[]") in line
    assert contents(run) == before


@pytest.mark.parametrize(
    "override",
    ["+env.kwargs.sutton_barto_reward=true", "+policy.network_kwargs.width=3", "task=acrobot", "task=pendulum"],
)
def test_another_task_and_other_arguments_of_the_environment_are_refused(override, run):
    before = contents(run)
    line = refusal(train, "run.resume=run", "run.total_steps=96", override)
    assert override.lstrip("+").split("=")[0] in line
    assert contents(run) == before


def test_arguments_of_the_evaluation_are_applied_and_recorded(run):
    line = "+env.evaluation_kwargs.sutton_barto_reward=true"
    assert train(["run.resume=run", "run.total_steps=96", line]) == 0
    assert load_config(run / "config.yaml").env.evaluation_kwargs == {"sutton_barto_reward": True}
    assert line in yaml.safe_load((run / "overrides.yaml").read_text())


def test_a_run_can_be_repeated_from_the_overrides_that_its_resumption_recorded(run, tmp_path):
    assert train_tiny("run", *SHORT, "run.total_steps=96", "run.resume=auto") == 0
    recorded = yaml.safe_load((run / "overrides.yaml").read_text())
    assert train([*recorded, "hydra.run.dir=again"]) == 0
    assert fingerprints(tmp_path / "again") == fingerprints(run)
    assert load_config(tmp_path / "again" / "config.yaml") == load_config(run / "config.yaml")
