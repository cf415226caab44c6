"""Training under torchrun, as people start it: what it writes, how it stops, dies, goes on and refuses."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from same_runs import assert_same_run
from tiny_runs import (
    PATIENCE,
    TINY,
    agent_of,
    checkpoints,
    environment_variables,
    fingerprints,
    has_rows,
    rows,
    summary,
)

from trpo.commands.compose import load_config
from trpo.commands.evaluate import evaluate as evaluate_command
from trpo.commands.train import train
from trpo.record import checkpoint
from trpo.sampling.evaluation import evaluate
from trpo.system import seeds

pytestmark = pytest.mark.slow

# Three environments for two ranks; six iterations after the warm-up.
ARGUMENTS = (
    "task=cartpole",
    *TINY,
    "env.num_envs=3",
    "run.total_steps=231",
    "run.checkpoint_every=33",
    "run.keep_checkpoints=99",
    "run.evaluate_every=66",
    "run.evaluation_episodes=3",
)
ENDLESS = ("run.total_steps=100_000_000", "run.evaluate_every=0")


def start(directory, *arguments, count=2, flags=()):
    """Start torchrun; the output of all ranks, and its own, comes to one pipe each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", count, "--standalone", *flags]
    command += ["-m", "trpo", *ARGUMENTS, *arguments, f"hydra.run.dir={directory}"]
    return subprocess.Popen(
        [str(part) for part in command],
        env=environment_variables() | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def torchrun(request):
    """Starts torchrun, and sees to its end and that of its ranks."""
    started = []

    def function(*arguments, **options):
        started.append(start(*arguments, **options))
        return started[-1]

    yield function
    for process in started:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def ended(process):
    """The exit code of torchrun, what was printed, and the errors but for what torchrun itself says."""
    output, errors = process.communicate(timeout=2 * PATIENCE)
    own = [line for line in errors.splitlines() if line.startswith(("trpo-train: ", "rank "))]
    return process.returncode, output.splitlines(), own, errors


def wait_until(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def rank_process(launcher, number):
    """The id of a rank's process, a child of torchrun."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if int(parent) == launcher.pid and f"RANK={number}".encode() in variables:
            return int(folder.name)
    raise AssertionError(f"no rank {number}")


def kill_rank(launcher, number):
    os.kill(rank_process(launcher, number), signal.SIGKILL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody disturbed."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    code, output, own, errors = ended(start(directory))
    assert (code, own) == (0, []), errors
    assert [line for line in output if "2 ranks" in line]
    assert sum("finished: " in line for line in output) == 1
    return directory


def test_the_leader_leaves_a_whole_run_directory(whole):
    assert {path.name for path in whole.iterdir() if not path.name.startswith("events")} == {
        *("config.yaml", "overrides.yaml", "metrics.jsonl", "checkpoints", "summary.json", "train.log")
    }
    assert len(list(whole.glob("events.*"))) == 1
    assert [row["env_steps"] for row in rows(whole)] == list(range(66, 232, 33))  # of all ranks
    assert len(checkpoints(whole)) == 6
    assert all(re.fullmatch("[0-9a-f]{16}", line) for line in fingerprints(whole))
    assert summary(whole)["exit_reason"] == "finished"
    assert len(checkpoint.load(checkpoints(whole)[-1])["ranks"]) == 2


def test_its_evaluation_is_that_of_one_process(whole):
    config, file = load_config(whole / "config.yaml"), checkpoints(whole)[-1]
    alone = evaluate(agent_of(config, file), config.env, episodes=range(3), seed=config.seed, number=6).figures()
    final = summary(whole)["final_evaluation"]
    assert {name: final[name] for name in alone} == alone


def test_trpo_evaluate_works_on_it(whole, capsys):
    assert evaluate_command([str(whole), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == 2


def test_its_first_iteration_starts_from_the_statistics_of_one_process(whole, tmp_path):
    """The warm-up is the same to the bit, as its actions are discrete: so are the first policy, and what it met."""
    assert train([*ARGUMENTS, f"hydra.run.dir={tmp_path / 'alone'}"]) == 0
    first, alone = rows(whole)[0], rows(tmp_path / "alone")[0]
    for tag in ("rollout/episodes", "policy/entropy", "trust_region/gradient_norm", "trust_region/kl"):
        assert first.get(tag) == pytest.approx(alone.get(tag), rel=1e-4), tag


def test_a_signal_saves_and_the_run_goes_on_as_if_nothing_had_happened(whole, torchrun, tmp_path):
    run = tmp_path / "run"
    rare = ("run.checkpoint_every=0", "run.evaluate_every=66")
    process = torchrun(run, *ENDLESS[:1], *rare)
    wait_until(lambda: has_rows(run, 1), process)
    process.send_signal(signal.SIGTERM)
    code, _, own, errors = ended(process)
    assert (code != 0, own) == (True, []), errors
    assert summary(run)["exit_reason"] == "SIGTERM"
    assert len(checkpoints(run)) == 1
    iterations = summary(run)["iterations"]
    total = max(33 * (iterations + 2), 231)
    assert ended(torchrun(run, f"run.total_steps={total}", *rare, "run.resume=auto"))[0] == 0
    longer = tmp_path / "longer"
    assert ended(torchrun(longer, f"run.total_steps={total}", *rare))[0] == 0
    assert_same_run(run, longer)
    assert fingerprints(run)[:6] == fingerprints(whole)


PATHWISE = (
    *("trust_region.surrogate=pathwise", "action_values.hidden_sizes=[8]", "action_values.minibatches=3"),
    *("action_values.minibatch_size=15", "action_values.rollouts=4", "action_values.warm_up=1"),
    "action_values.bins=20",
)


PARTS = ("env.id=probes:Marked-v0",)  # a grid, a number and a mask


@pytest.mark.parametrize("seen", [(), PARTS], ids=["a vector", "parts and masks"])
def test_action_values_and_their_replay_go_on_as_if_nothing_had_happened(seen, torchrun, tmp_path):
    """Each rank has rollouts of its own; killed when the replay is half full, both go on."""
    run, whole, through_values = tmp_path / "run", tmp_path / "whole", (*seen, *PATHWISE)
    process = torchrun(run, *through_values, *ENDLESS[:1])
    wait_until(lambda: has_rows(run, 2), process)
    kill_rank(process, 1)
    assert ended(process)[0] != 0
    iterations = len(checkpoints(run))
    total = max(33 * (iterations + 3), 231)
    code, _, _, errors = ended(torchrun(run, *through_values, f"run.total_steps={total}", "run.resume=auto"))
    assert code == 0, errors
    code, _, _, errors = ended(torchrun(whole, *through_values, f"run.total_steps={total}"))
    assert code == 0, errors
    assert_same_run(run, whole)
    assert {"accepted", "warming_up"} <= {row["outcome"] for row in rows(whole)}
    own = checkpoint.load(checkpoints(whole)[-1])["ranks"]
    assert [len(one["source"]["replay"]) for one in own] == [4, 4]
    assert [one["source"]["replay"][0]["rollout"]["rewards"].shape[1] for one in own] == [1, 2]


MEMORY = (
    *("policy.memory=gru", "critic.memory=lstm", "policy.memory_size=6", "critic.memory_size=6"),
    "policy.memory_inputs=[action,reward]",
)


def test_what_is_remembered_goes_on_as_if_nothing_had_happened(torchrun, tmp_path):
    """Each rank carries the memory of its environments, and takes the critic's steps with whole segments of them."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    process = torchrun(run, *PARTS, *MEMORY, *ENDLESS[:1])
    wait_until(lambda: has_rows(run, 2), process)
    kill_rank(process, 1)
    assert ended(process)[0] != 0
    total = max(33 * (len(checkpoints(run)) + 3), 231)
    code, _, _, errors = ended(torchrun(run, *PARTS, *MEMORY, f"run.total_steps={total}", "run.resume=auto"))
    assert code == 0, errors
    code, _, _, errors = ended(torchrun(whole, *PARTS, *MEMORY, f"run.total_steps={total}"))
    assert code == 0, errors
    assert_same_run(run, whole)


EARLY = "trust_region.cg_iterations=6"  # the last of ten magnify the rounding of a product ten thousand times here


@pytest.mark.parametrize("memory", [(), (*MEMORY, EARLY)], ids=["no memory", "memory"])
def test_parts_and_masks_on_two_ranks_are_those_of_one_process(memory, torchrun, tmp_path):
    """The statistics of every part are merged over ranks, and each row keeps its own mask."""
    settings = (*PARTS, *memory, "run.total_steps=66", "run.evaluate_every=0")
    assert ended(torchrun(tmp_path / "run", *settings))[0] == 0
    assert train([*ARGUMENTS, *settings, f"hydra.run.dir={tmp_path / 'alone'}"]) == 0
    first, alone = rows(tmp_path / "run")[0], rows(tmp_path / "alone")[0]
    tags = ("policy/entropy", "gradient_norm", "kl", "kl_quadratic", "improvement", "normalizer_kl")
    tags += ("state_kl",) if memory else ()
    for tag in (tag if "/" in tag else f"trust_region/{tag}" for tag in tags):
        assert first[tag] == pytest.approx(alone[tag], rel=1e-4), tag


def test_a_rank_that_dies_takes_the_job_down_with_its_cause(torchrun, tmp_path):
    run = tmp_path / "run"
    process = torchrun(run, *ENDLESS)
    wait_until(lambda: has_rows(run, 2), process)
    kill_rank(process, 1)
    code, _, own, errors = ended(process)
    assert code == 1
    assert len(own) == 1, errors
    assert "ConnectionError: another rank ended" in own[0]
    assert "Signal 9 (SIGKILL)" in errors
    assert "another rank ended" in (run / "train.log").read_text()
    assert not (run / "summary.json").exists()


LONGER = ("run.total_steps=3300", "run.evaluate_every=0")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A run that nobody disturbed, and that lasts until somebody could."""
    directory = tmp_path_factory.mktemp("longer") / "run"
    code, _, _, errors = ended(start(directory, *LONGER))
    assert code == 0, errors
    return directory


@pytest.mark.parametrize("victim", [1, 0])
def test_torchrun_restarts_from_the_last_checkpoint(victim, torchrun, longer, tmp_path):
    run = tmp_path / "run"
    process = torchrun(run, *LONGER, "run.resume=auto", flags=("--max-restarts", 1))
    wait_until(lambda: has_rows(run, 3), process)
    kill_rank(process, victim)
    code, output, _, errors = ended(process)
    assert code == 0, errors
    assert sum("going on from" in line for line in output) == 1
    assert_same_run(run, longer)


def test_an_environment_that_fails_on_one_rank_is_named_with_its_number(torchrun, tmp_path):
    of_environment_2 = seeds.integer(0, seeds.Role.ENVIRONMENTS, 2, 0)
    fault = ("env.id=broken:NaNReward-v0", f"+env.kwargs.seed={of_environment_2}")
    # Without evaluations: its episodes never end.
    code, _, own, errors = ended(torchrun(tmp_path / "run", *fault, "run.evaluate_every=0"))
    assert code == 1
    assert "rank 1: the run failed" in own
    assert "reward of environment 2 is nan after its step 40 of this run" in errors
    assert any("ConnectionError" in line for line in own if line.startswith("trpo-train"))


def test_another_number_of_ranks_is_refused(whole, torchrun, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    before = sorted(run.rglob("*"))
    process = torchrun(run, "run.total_steps=330", "run.resume=auto", count=3)
    code, output, own, _ = ended(process)
    assert (code, output) == (1, [])
    assert own == [f"trpo-train: {run} is a run of 2 rank(s), and a run keeps them; here are 3"]
    assert train([f"run.resume={run}", "run.total_steps=330"]) == 2
    assert "is a run of 2 rank(s)" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


MISTAKES = {
    "env.num_envs=1": "trpo-train: env.num_envs=1 is too few for 2 ranks: each needs one",
    "env.nope=1": "trpo-train: unknown key 'env.nope'; did you mean env.pin or env.wrappers or env.num_envs?",
    "-m": "trpo-train: -m starts a process for each job: run it without torchrun, or one job at a time with it",
    "record.dump_every=1": "trpo-train: record.dump_every: no rank has the whole of an update; "
    "dump updates of one process",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_made(argument, torchrun, tmp_path):
    code, output, own, _ = ended(torchrun(tmp_path / "run", argument))
    assert (code, output, own) == (1, [], [MISTAKES[argument]])
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_left_alone(whole, torchrun):
    before = sorted(whole.rglob("*"))
    code, output, own, errors = ended(torchrun(whole, "run.resume=auto"))
    assert (code, own) == (0, []), errors
    assert output == [f"{whole} holds a finished run: nothing to do"]
    assert sorted(whole.rglob("*")) == before
