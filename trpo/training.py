"""Training from Python: the keys of the command line, the same bits, and environments that a function makes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trpo import run
from trpo.commands.compose import compose_jobs, register_schema
from trpo.commands.notation import quoted
from trpo.commands.plans import check_jobs, job_directory, resumed_directory
from trpo.config import UserError
from trpo.keys import mapping_of
from trpo.record import run_directory
from trpo.sampling.making import registered
from trpo.trained import TrainedAgent, load
from trpo.trainer import Trainer

Callback = Callable[[Mapping[str, float | str], TrainedAgent], Any]
PLAIN = re.compile(
    r"(?!(true|false|null|nan|inf)$)[a-z][\w./-]*", re.ASCII | re.IGNORECASE
)  # texts that need no quotes


class Run(NamedTuple):
    """What training left.

    >>> import trpo
    >>> run = trpo.train("CartPole-v1", total_steps=2_048, **{"run.evaluation_episodes": 0})
    >>> sorted(path.name for path in run.directory.iterdir() if path.suffix == ".yaml")
    ['config.yaml', 'overrides.yaml']
    >>> run.summary["outcomes"], run.agent.config.env.id
    ({'accepted': 1}, 'CartPole-v1')
    """

    directory: Path
    summary: dict[str, Any]  # as in summary.json
    agent: TrainedAgent  # as its newest checkpoint has it


def train(
    env: str | Callable[..., Any] | None = None,
    *,
    total_steps: int | None = None,
    callback: Callback | None = None,
    **keys: Any,
) -> Run:
    """Train an agent as `trpo-train` does with the same keys, and return where the run is, its summary and the agent.

    Args:
        env: an id (`env.id`), or a function that makes an environment; a `task` may name one instead. A run whose
            environment a function makes cannot be resumed, swept or evaluated by a command, which could not call it.
        total_steps: short for `run.total_steps`, the only short form.
        callback: called after every iteration with its row (the tags of TensorBoard) and the agent as it is; the run
            is saved and ends when it returns False, with the exit reason `callback`.
        keys: as they are typed, `**{"trust_region.max_kl": 0.02}`; also `task`, `surrogate` and `hydra.run.dir`.

    Raises `UserError` for what the command would refuse, before anything has been made.

    >>> import trpo
    >>> run = trpo.train("CartPole-v1", total_steps=4_096, **{"run.evaluation_episodes": 5})
    >>> run.summary["exit_reason"], run.summary["env_steps"]
    ('finished', 4096)
    >>> int(run.agent.act([0.0, 0.0, 0.1, 0.0])) in (0, 1)
    True
    """
    if total_steps is not None:
        if "run.total_steps" in keys:
            raise UserError("total_steps is short for run.total_steps: give one of them")
        keys["run.total_steps"] = total_steps
    if not callable(env):
        check_is_id(env)
        return started({**({} if env is None else {"env.id": env}), **keys}, callback)
    if keys.get("run.resume"):
        raise UserError("run.resume: a run whose environment a function makes cannot be resumed")
    with registered(env) as id:
        return started({"env.id": id, **keys}, callback)


def check_is_id(env: object) -> None:
    """Raise `UserError` for what is neither an id nor nothing: of one environment no others can be made."""
    if env is None or isinstance(env, str):
        return
    kind = "an environment" if hasattr(env, "reset") else f"of type {type(env).__name__}"
    raise UserError(f"env is {kind}; several are needed: give its id, or a function that makes one")


def started(keys: Mapping[str, Any], callback: Callback | None) -> Run:
    """Return the run of these keys, checked as the command checks it."""
    register_schema()
    lines = [line for key, value in keys.items() for line in typed(key, value)]
    if before := resumed_directory(lines):
        lines += typed("hydra.run.dir", before)
    jobs = compose_jobs(lines, None, multirun=False)
    (plan,) = check_jobs(jobs, multirun=False)
    directory = job_directory(jobs[0], 0, None)
    if not plan.finished:
        watch = watching(callback) if callback else None
        run.train(plan.config, directory, plan.overrides, resume=plan.resume, watch=watch)
    summary = json.loads((directory / run_directory.SUMMARY).read_text(encoding="utf-8"))
    return Run(directory, summary, load(directory))


def watching(callback: Callback) -> run.Watch:
    """Return the callback as a run calls it: with the agent as anybody would have it."""
    agents: list[TrainedAgent] = []

    def watch(row: Mapping[str, float | str], trainer: Trainer) -> str | None:
        if not agents:
            interface = trainer.environments.interface
            agents.append(TrainedAgent(trainer.agent, trainer.config, interface=interface, env_steps=0))
        agents[0].env_steps = trainer.env_steps
        answer = callback(row, agents[0])
        return run_directory.CALLBACK if answer is not None and not answer else None

    return watch


def typed(key: str, value: Any) -> Iterator[str]:
    """Yield a key and its value as one types them on the command line: an entry of a mapping is a line of its own."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield f"++{key}.{name}={written(part)}"
    else:
        yield f"{'++' if mapping_of(key) else ''}{key}={written(value)}"


def written(value: Any) -> str:
    """Return a value in Hydra's notation of overrides."""
    if hasattr(value, "tolist"):  # of NumPy or torch: numbers and arrays
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {written(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(written(part) for part in value) + "]"
    text = str(value)
    return text if PLAIN.fullmatch(text) else quoted(text)
