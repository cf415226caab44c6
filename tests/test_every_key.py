"""No key is without effect: a changed value changes the policy, or something else that can be seen."""

import dataclasses
import functools
import operator
import os
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from tiny_runs import TINY, checkpoints, compose, fingerprints, rows

from trpo.commands.compose import load_config
from trpo.commands.resume import Composed, plan_job
from trpo.config import UserError
from trpo.keys import fields_by_key
from trpo.record import progress, run_directory
from trpo.run import train
from trpo.sampling.backend import Backend
from trpo.system.device import resolve_device

# Keys that change what is learned: a changed value changes the policy within two iterations.
# The problem is Pendulum; CARTPOLE where only CartPole has what the key is about.
CARTPOLE = "env.id=CartPole-v1"
PARTS = "env.id=probes:Pictured-v0"
THROUGH_VALUES = (
    *("trust_region.surrogate=pathwise", "action_values.warm_up=0", "action_values.hidden_sizes=[8]"),
    *("action_values.minibatches=3", "action_values.minibatch_size=16"),
)
LEARNED = {
    "seed": ["seed=1"],
    "env.id": ["env.id=MountainCarContinuous-v0"],
    "env.backend": ["env.backend=vector", CARTPOLE],  # its starts come from one seed, not from one per episode
    "env.num_envs": ["env.num_envs=3"],
    "env.restart_every": ["env.restart_every=30", CARTPOLE, "env.backend=vector"],
    "env.kwargs": ["+env.kwargs.g=1.0"],  # Pendulum's gravity
    "env.max_episode_steps": ["env.max_episode_steps=10"],
    "policy.memory": ["policy.memory=gru"],
    "policy.memory_size": ["policy.memory_size=5", "policy.memory=gru"],
    "policy.memory_inputs": ["policy.memory_inputs=[reward]", "policy.memory=gru"],
    "critic.memory": ["critic.memory=lstm"],
    "critic.memory_size": ["critic.memory_size=5", "critic.memory=lstm"],
    "policy.network": ["policy.network=own_networks:Plain"],
    "policy.network_kwargs": ["+policy.network_kwargs.width=9", "policy.network=own_networks:Plain"],
    "critic.network": ["critic.network=own_networks:Value"],
    "critic.network_kwargs": ["+critic.network_kwargs.width=9", "critic.network=own_networks:Value"],
    "env.wrappers": ["env.wrappers=[gymnasium.wrappers:TimeAwareObservation]"],
    "policy.hidden_sizes": ["policy.hidden_sizes=[8,8]"],
    "policy.activation": ["policy.activation=relu"],
    "policy.initial_log_std": ["policy.initial_log_std=0.0"],
    "policy.min_log_std": ["policy.min_log_std=-1.5"],
    "policy.noise_correlation": ["policy.noise_correlation=0.5"],
    "policy.observations": ["policy.observations=[speed]", PARTS],
    "policy.images": ["policy.images=[picture]", PARTS, "+env.kwargs.top=254"],
    "policy.grids": ["policy.grids=[picture]", PARTS],
    "policy.vectors": ["policy.vectors=[picture]", PARTS],
    "normalize.observations": ["normalize.observations=false"],
    "normalize.rewards": ["normalize.rewards=false"],
    "normalize.advantages": ["normalize.advantages=false"],
    "advantage.gamma": ["advantage.gamma=0.5"],
    "advantage.lam": ["advantage.lam=0.5"],
    "trust_region.surrogate": ["trust_region.surrogate=pathwise", "action_values.warm_up=0"],
    "action_values.hidden_sizes": ["action_values.hidden_sizes=[9]", *THROUGH_VALUES],
    "action_values.networks": ["action_values.networks=3", *THROUGH_VALUES],
    "action_values.bins": ["action_values.bins=20", *THROUGH_VALUES],
    "action_values.pessimism": ["action_values.pessimism=1", *THROUGH_VALUES],
    "action_values.rollouts": ["action_values.rollouts=1", *THROUGH_VALUES],
    "action_values.drawn": ["action_values.drawn=1", *THROUGH_VALUES],
    "action_values.minibatches": ["action_values.minibatches=4", *THROUGH_VALUES],
    "action_values.minibatch_size": ["action_values.minibatch_size=8", *THROUGH_VALUES],
    "action_values.learning_rate": ["action_values.learning_rate=0.01", *THROUGH_VALUES],
    "action_values.trace": ["action_values.trace=0.5", *THROUGH_VALUES],
    "action_values.noise": ["action_values.noise=2", *THROUGH_VALUES],
    "action_values.target_noise": ["action_values.target_noise=1", *THROUGH_VALUES],
    "action_values.warm_up": ["action_values.warm_up=0", "trust_region.surrogate=pathwise"],
    "trust_region.max_kl": ["trust_region.max_kl=0.02"],
    "trust_region.anneal": ["trust_region.anneal=0.5"],
    "trust_region.anneal_power": ["trust_region.anneal_power=2", "trust_region.anneal=0.5"],
    "trust_region.min_multiplier": ["trust_region.min_multiplier=10.0"],
    "trust_region.cg_iterations": ["trust_region.cg_iterations=1"],
    "trust_region.cg_tolerance": ["trust_region.cg_tolerance=0.5"],
    "trust_region.damping": ["trust_region.damping=0.5"],
    "trust_region.relative_damping": ["trust_region.relative_damping=0.5"],
    "policy.bounds": ["policy.bounds=tanh"],
    "policy.std": ["policy.std=state"],
    "policy.final_std_scale": ["policy.final_std_scale=0.5"],
    "trust_region.entropy": ["trust_region.entropy=0.1"],
    "trust_region.line_search": ["trust_region.line_search=off"],  # full steps miss the bound by a few per cent
    "trust_region.max_backtracks": ["trust_region.max_backtracks=0"],  # full steps miss the bound by a few per cent
    "trust_region.backtrack_factor": [
        "trust_region.backtrack_factor=0.99",
        "trust_region.max_kl=1.0",
        "trust_region.damping=0.1",
    ],  # a full step far out
    "trust_region.fisher": ["trust_region.fisher=hessian"],  # in the last bits
    "trust_region.fisher_fraction": ["trust_region.fisher_fraction=0.5"],
    "trust_region.micro_batch": ["trust_region.micro_batch=7"],  # in the last bits
    "critic.hidden_sizes": ["critic.hidden_sizes=[9]"],
    "critic.activation": ["critic.activation=relu"],
    "critic.learning_rate": ["critic.learning_rate=0.01"],
    "critic.anneal": ["critic.anneal=0.5"],
    "critic.epochs": ["critic.epochs=3"],
    "critic.minibatch_size": ["critic.minibatch_size=8"],
    "critic.observations": ["critic.observations=[speed]", PARTS],
    "run.steps_per_iteration": ["run.steps_per_iteration=48"],
}

TINY_PENDULUM = ("env.id=Pendulum-v1", *TINY, "run.evaluation_episodes=0")


def trained(directory, *overrides):
    config = compose(*TINY_PENDULUM, *overrides)
    train(config, directory, [])
    return directory


@functools.cache
def policy_of(*overrides):
    """What the policy of a run is in the end: several keys are compared with the same run."""
    with tempfile.TemporaryDirectory() as directory:
        return fingerprints(trained(Path(directory) / "run", *overrides))[-1]


def without(context, override):
    """The context with an override in the place of its own line for that key, if it has one."""
    key = override.partition("=")[0]
    return [*(line for line in context if line.partition("=")[0] != key), override]


@pytest.mark.parametrize("name", LEARNED)
def test_a_key_of_learning_changes_the_policy(name):
    override, *context = LEARNED[name]
    assert policy_of(*context) != policy_of(*without(context, override))


def test_the_agent_to_start_from_changes_the_policy(tmp_path):
    """Not in the table, as its value is made first."""
    before = trained(tmp_path / "before")
    after = trained(tmp_path / "after", f"run.init_from={before}")
    assert fingerprints(after)[-1] != fingerprints(before)[-1]


def device_of(config, directory):
    try:
        return resolve_device(config).type
    except UserError:
        return "refused"


def run_of(config, directory):
    train(config, directory, [])
    return directory


def bar_is_shown(config, directory):
    with progress.Progress(config) as shown:
        return not shown.bar.disable


def threads_after(config, directory):
    run_of(config, directory)
    return torch.get_num_threads()


def evaluated_rows(config, directory):
    return ["evaluation/return_mean" in row for row in rows(run_of(config, directory))]


def timeout_of(config, directory):
    backend = Backend(config.env)
    backend.close()
    return backend.timeout


def pinned(config, directory):
    """How many threads may run on one core only while EnvPool's are there."""
    backend = Backend(dataclasses.replace(config.env, num_envs=len(os.sched_getaffinity(0))))
    backend.reset(seed=[0] * backend.envs.num_envs)
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    count = sum(len(os.sched_getaffinity(thread)) == 1 for thread in threads)
    backend.close()
    return count


def files_in(folder):
    return lambda config, directory: len(list((run_of(config, directory) / folder).glob("*")))


def deterministic_after(config, directory):
    run_of(config, directory)
    on = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    return on


def saved_elsewhere(config, directory):
    """What is in the fallback directory after a run whose checkpoints cannot be written: a file is in their place."""
    elsewhere = directory.parent / "elsewhere"
    settings = dataclasses.replace(config.run, fallback_directory=config.run.fallback_directory and str(elsewhere))
    run_directory.write_config(directory, {}, [])
    (directory / "checkpoints").touch()
    with pytest.raises(RuntimeError, match="cannot be written"):
        train(dataclasses.replace(config, run=settings), directory, [], resume=True)
    return [file.name for file in elsewhere.rglob("*.pt")]


def mirrored_to(config, directory):
    """The projects on Weights & Biases that a run asks for."""
    with patch("wandb.init") as init:
        run_of(config, directory)
    return [call.kwargs["project"] for call in init.call_args_list]


def goes_on(config, directory):
    composed = Composed([], lambda key: operator.attrgetter(key)(config), lambda: config)
    return plan_job(composed, run_of(config, directory), load_config).resume


# The other keys: what is seen elsewhere, with two values that must show differently.
SEEN = {
    "device": (device_of, ["device=cpu"], ["device=cuda:99"]),
    "env.timeout": (
        timeout_of,
        ["env.backend=async", "env.timeout=0"],
        ["env.backend=async", "env.timeout=30"],
    ),
    "env.pin": (pinned, ["env.backend=envpool"], ["env.backend=envpool", "env.pin=false"]),
    "record.profile_every": (files_in("profiles"), ["record.profile_every=0"], ["record.profile_every=1"]),
    "record.dump_every": (files_in("dumps"), ["record.dump_every=0"], ["record.dump_every=1"]),
    "run.deterministic": (deterministic_after, ["run.deterministic=false"], ["run.deterministic=true"]),
    "run.resume": (goes_on, [], ["run.resume=auto"]),
    "run.fallback_directory": (saved_elsewhere, [], ["run.fallback_directory=elsewhere"]),
    "record.wandb": (mirrored_to, [], ["record.wandb=mine"]),
    "record.progress": (bar_is_shown, ["record.progress=true"], ["record.progress=false"]),
    "run.total_steps": (lambda c, d: len(rows(run_of(c, d))), ["run.total_steps=96"], ["run.total_steps=128"]),
    "run.evaluate_every": (
        evaluated_rows,
        ["run.evaluation_episodes=1", "run.evaluate_every=0"],
        ["run.evaluation_episodes=1", "run.evaluate_every=32"],
    ),
    "env.evaluation_kwargs": (
        lambda c, d: rows(run_of(c, d))[-1]["evaluation/return_mean"],
        ["run.evaluation_episodes=1"],
        ["run.evaluation_episodes=1", "+env.evaluation_kwargs.g=1.0"],
    ),
    "run.stop_at_return": (
        lambda c, d: len(rows(run_of(c, d))),
        ["run.evaluation_episodes=1", "run.evaluate_every=32"],
        ["run.evaluation_episodes=1", "run.evaluate_every=32", "run.stop_at_return=-9999"],
    ),
    "record.info_keys": (
        lambda c, d: "rollout/info_x_position" in rows(run_of(c, d))[-1],
        ["env.id=Swimmer-v5", "env.max_episode_steps=9"],
        ["env.id=Swimmer-v5", "env.max_episode_steps=9", "record.info_keys=[x_position]"],
    ),
    "run.evaluation_episodes": (evaluated_rows, ["run.evaluation_episodes=0"], ["run.evaluation_episodes=1"]),
    "run.checkpoint_every": (
        lambda c, d: len(checkpoints(run_of(c, d))),
        ["run.checkpoint_every=0"],
        ["run.checkpoint_every=32"],
    ),
    "run.keep_checkpoints": (
        lambda c, d: len(checkpoints(run_of(c, d))),
        ["run.checkpoint_every=32", "run.keep_checkpoints=1"],
        ["run.checkpoint_every=32", "run.keep_checkpoints=2"],
    ),
    "run.threads": (threads_after, ["run.threads=1"], ["run.threads=2"]),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_key_of_running_changes_what_is_seen(name, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    look, overrides, changed = SEEN[name]
    before = look(compose(*TINY_PENDULUM, *overrides), tmp_path / "before")
    after = look(compose(*TINY_PENDULUM, *changed), tmp_path / "after")
    assert before != after


def test_every_key_is_in_one_of_the_two_tables():
    assert sorted([*LEARNED, *SEEN, "run.init_from"]) == sorted(name for name, _ in fields_by_key())
