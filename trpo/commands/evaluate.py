"""The command `trpo-evaluate`: returns of a trained agent."""

import argparse
import json
import operator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trpo.commands.compose import load_config
from trpo.commands.exit_codes import command, refuse
from trpo.config import Config, UserError
from trpo.keys import fields_by_key, nested
from trpo.models.agent import load_agent
from trpo.record import checkpoint, run_directory
from trpo.record.targets import check_room
from trpo.sampling.evaluation import Evaluation
from trpo.sampling.evaluation import evaluate as evaluate_agent
from trpo.sampling.making import check_environment
from trpo.trainer import agent_for

OF_AN_AGENT = ("env.id", "policy.", "critic.", "normalize.")  # how the keys begin that decide what an agent is
VIDEOS = "rl-video-episode-*.mp4"  # as Gymnasium calls them


@command("trpo-evaluate")
def evaluate(arguments: list[str]) -> int:
    """Evaluate the agent of a run directory and print its returns."""
    options = evaluation_parser().parse_args(arguments)
    if options.video and options.render:
        raise UserError("--video and --render human are two ways to watch: choose one")
    if options.video:
        check_room(options.video, f"--video {options.video}")
        check_no_videos(options.video)
    evaluated = evaluate_run(
        options.run_directory,
        options.checkpoint,
        episodes=options.episodes,
        seed=options.seed,
        stochastic=options.stochastic,
        video=options.video,
        shown=options.render == "human",
    )
    figures = describe(evaluated.evaluation)
    if options.json:
        print(json.dumps(figures))
    else:
        print(f"{evaluated.env_id} after {evaluated.env_steps:,} steps, {options.episodes} episodes:")
        print("return {return_mean:.2f} ± {return_std:.2f} ({return_min:.2f} to {return_max:.2f})".format(**figures))
        print(f"length {figures['length_mean']:.1f}")
        for name in [name for name in figures if name.startswith(("success", "info_"))]:
            print(f"{name.removeprefix('info_').replace('_', ' ')} {figures[name]:.4g}")
    return 0


def evaluation_parser() -> argparse.ArgumentParser:
    """Return the parser of `trpo-evaluate`."""
    parser = argparse.ArgumentParser(
        prog="trpo-evaluate",
        description="Returns of a trained agent: mean ± standard deviation over episodes.",
    )
    parser.error = refuse  # type: ignore[method-assign]
    parser.add_argument("run_directory", type=Path, metavar="RUN_DIR", help="where trpo-train wrote the run")
    parser.add_argument("--episodes", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--stochastic", action="store_true", help="sample actions instead of taking the mode")
    parser.add_argument("--seed", type=int, default=0, help="of initial states and actions (default: 0)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="of the run (default: its newest)")
    parser.add_argument("--video", type=Path, metavar="DIR", help="write every episode as MP4 into DIR")
    parser.add_argument("--render", choices=["human"], help="show the episodes on the screen, one by one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


class Evaluated(NamedTuple):
    """What was evaluated, and what came out."""

    env_id: str
    env_steps: int
    evaluation: Evaluation


def evaluate_run(
    directory: Path,
    chosen: Path | None = None,
    *,
    episodes: int,
    seed: int,
    stochastic: bool,
    video: Path | None = None,
    shown: bool = False,
) -> Evaluated:
    """Return the outcome of episodes of the agent of a run, as the chosen checkpoint has it or else the newest.

    Raises `UserError` for what is no run, no checkpoint of it, no environment that can be made, or no episodes.
    """
    if episodes < 1 or seed < 0:
        raise UserError(f"--episodes must be at least 1 and --seed at least 0: {episodes}, {seed}")
    run_directory.check_is_run(directory)
    config = load_config(directory / run_directory.CONFIG)
    file, state = read_checkpoint(directory / run_directory.CHECKPOINTS, chosen)
    if chosen is not None:
        check_is_of_run(file, state, config)
    environment = config.env.evaluation
    agent = agent_for(config, check_environment(environment))
    load_agent(agent, state, str(file))
    evaluation = evaluate_agent(
        agent,
        environment,
        episodes=range(episodes),
        seed=seed,
        stochastic=stochastic,
        video=video,
        shown=shown,
        info_keys=config.record.info_keys,
        kept=config.sees,
    )
    return Evaluated(config.env.id, state["env_steps"], evaluation)


def read_checkpoint(folder: Path, chosen: Path | None) -> tuple[Path, dict[str, Any]]:
    """Return the chosen checkpoint or the newest that can be read. Raises `UserError` if there is none."""
    if chosen is not None:
        return chosen, checkpoint.load(chosen)
    return checkpoint.newest(folder)


def check_is_of_run(file: Path, state: dict[str, Any], config: Config) -> None:
    """Raise `UserError`, naming the first key that differs, if a checkpoint holds another agent than a run's `config`.

    Shapes alone do not tell: under another activation the same weights act otherwise.
    """
    if "config" not in state:
        return  # no run's at all, as loading the agent will say
    own: Config = nested(state["config"])
    for name in (name for name, _ in fields_by_key() if name.startswith(OF_AN_AGENT)):
        there, here = (operator.attrgetter(name)(one) for one in (own, config))
        if there != here:
            raise UserError(f"{file} is another run's: {name} is {there!r} there, and {here!r} in this run")


def check_no_videos(directory: Path) -> None:
    """Raise `UserError` if a directory holds episodes already: some would be overwritten, others stay beside them."""
    if found := sorted(directory.glob(VIDEOS)):
        raise UserError(f"--video {directory} holds episodes already ({found[0].name}): give another directory")


def describe(evaluation: Evaluation) -> dict[str, float]:
    """Return the figures of `trpo-evaluate --json`."""
    returns = np.array(evaluation.returns)
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length_mean": float(np.mean(evaluation.lengths)),
        "episodes": len(returns),
        **{name: value for name, value in evaluation.figures().items() if name.startswith(("success", "info_"))},
    }
