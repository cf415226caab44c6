"""The training loop: collect → batch → policy step → critic fit → statistics → log → save."""

import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

import torch

from trpo import seeds
from trpo.batch import Batch, Rollout, make_batch
from trpo.config import Config, UserError
from trpo.critic import fit_critic, make_optimizer
from trpo.models.agent import Agent, make_agent
from trpo.models.distributions import DiagonalGaussian
from trpo.numerics.params import flatten
from trpo.record import checkpoint, run_directory
from trpo.record.logger import Logger
from trpo.record.progress import Progress
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.sampling.evaluation import evaluate
from trpo.signals import StopRequest
from trpo.trust_region import Outcome, trust_region_step

log = logging.getLogger(__name__)
console = logging.getLogger("trpo.console")  # what the person at the terminal should see

FINISHED = "finished"

LARGEST_CPU_LAYER = 512  # `device=auto` keeps narrower networks on the CPU, where a launch costs more than the work


class Score(TypedDict):
    """One evaluation, as the summary keeps it."""

    env_steps: int
    return_mean: float
    return_std: float
    length_mean: float


class Trainer:
    """Owns everything that lives longer than an iteration; holds no formula."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = resolve_device(config)
        torch.set_num_threads(config.run.threads)
        self.environments = Environments(config.env, config.seed)
        interface = self.environments.interface
        self.agent = make_agent(
            config,
            observation_size=interface.observation_size,
            one_hot=interface.one_hot,
            distribution=interface.distribution,
        ).to(self.device)
        self.optimizer = make_optimizer(self.agent.critic, config.critic)
        self.minibatches = seeds.generator(config.seed, seeds.Role.MINIBATCHES)
        self.collector = Collector(
            self.environments,
            steps=-(-config.run.steps_per_iteration // config.env.num_envs),
            generator=seeds.generator(config.seed, seeds.Role.ACTIONS, device=self.device),
        )
        self.iteration = 0
        self.env_steps = 0

    def warm_up(self) -> None:
        """Give the running statistics one rollout of the first policy, before its first step.

        Without it they would jump after the first iteration, and the policy with them: by 1.7 to 2.8 δ.
        """
        if self.agent.normalizer is None and self.agent.reward_scale is None:
            return
        rollout = self.collector.collect(self.agent)
        self.env_steps += rollout.size
        self._update_reward_scale(rollout)
        if self.agent.normalizer is not None:
            self.agent.normalizer.update(rollout.observations[rollout.valid])

    def iterate(self) -> dict[str, float | str]:
        """Run one iteration and return its row of metrics: tags of the design's contract to numbers."""
        config, agent = self.config, self.agent
        clock = Laps()
        rollout = self.collector.collect(agent)
        clock.lap("collect")
        self._update_reward_scale(rollout)
        batch = make_batch(
            agent,
            rollout,
            gamma=config.advantage.gamma,
            lam=config.advantage.lam,
            normalize=config.normalize.advantages,
        )
        step = trust_region_step(agent.policy, batch, config.trust_region)
        clock.lap("policy")
        fit = fit_critic(
            agent.critic, self.optimizer, batch.observations, batch.returns, config.critic, self.minibatches
        )
        clock.lap("critic")
        policy_figures, normalizer_figures = self._update_normalizer(rollout, batch)
        self.iteration += 1
        self.env_steps += rollout.size
        if step.outcome is not Outcome.ACCEPTED:
            log.warning("iteration %d: the policy step was rejected: %s", self.iteration, step.outcome.value)
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_time": time.time(),
            "outcome": step.outcome.name.lower(),
            "fingerprint": fingerprint(agent),
            **tagged("rollout", rollout.figures()),
            **tagged("trust_region", step.figures() | normalizer_figures),
            **tagged("policy", policy_figures),
            **tagged("critic", fit.figures()),
            **tagged("time", clock.figures(rollout.size)),
        }

    def evaluate(self) -> dict[str, float]:
        """Return the figures of deterministic episodes on environments of their own."""
        evaluation = evaluate(
            self.agent,
            self.config.env,
            episodes=self.config.run.evaluation_episodes,
            seed=self.config.seed,
            number=self.iteration,
        )
        return evaluation.figures()

    @property
    def finished(self) -> bool:
        """Whether the steps are done; there is at least one iteration, however few were asked for."""
        return self.iteration > 0 and self.env_steps >= self.config.run.total_steps

    def due(self, every: int, previous: int) -> bool:
        """Return whether what is done `every` so many steps (0: at the end) is due, having been at `previous`."""
        return self.finished or (every > 0 and self.env_steps // every > previous // every)

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def state(self) -> dict[str, Any]:
        """Return everything that decides the future, as tensors and plain data."""
        return {
            "config": dataclasses.asdict(self.config),
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "agent": self.agent.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": {
                "actions": self.collector.generator.get_state(),
                "minibatches": self.minibatches.get_state(),
            },
        }

    def _update_reward_scale(self, rollout: Rollout) -> None:
        """Take in rewards before they are scaled: the policy does not see the scale, so nothing is frozen."""
        if self.agent.reward_scale is not None:
            ended = rollout.terminated | rollout.truncated
            self.agent.reward_scale.update(rollout.rewards, ended, rollout.valid)

    @torch.no_grad()
    def _update_normalizer(self, rollout: Rollout, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
        """Move the observation statistics; return the policy's figures and the KL that the move caused."""
        policy, normalizer = self.agent.policy, self.agent.normalizer
        before = policy(batch.observations)
        figures = {"entropy": float(policy.distribution.entropy(before).mean())}
        if isinstance(policy.distribution, DiagonalGaussian):
            std = before.chunk(2, dim=-1)[1].exp()
            figures |= {"std_mean": float(std.mean()), "std_min": float(std.min())}
        if normalizer is None:
            return figures, {}
        observations = rollout.observations[rollout.valid]
        normalizer.update(observations)
        after = policy(normalizer(observations))
        return figures, {"normalizer_kl": float(policy.distribution.kl(before, after).mean())}


def train(config: Config, directory: Path, overrides: list[str]) -> dict[str, Any]:
    """Train one agent into `directory` and return its summary, which is also the last file written."""
    run_directory.check_free(directory)
    run_directory.write_config(directory, dataclasses.asdict(config), overrides)
    with run_directory.log_file(directory), StopRequest() as stop, closing(Trainer(config)) as trainer:
        announce(trainer, directory)
        started = time.monotonic()
        final, best = run(trainer, directory, stop)
        seconds = time.monotonic() - started
        summary = {
            "exit_reason": stop.reason or FINISHED,
            "iterations": trainer.iteration,
            "env_steps": trainer.env_steps,
            "seconds": seconds,
            "steps_per_second": trainer.env_steps / seconds,
            "final_evaluation": final,
            "best_evaluation": best,
        }
        run_directory.write_summary(directory, summary)
        conclude(summary)
    return summary


def run(trainer: Trainer, directory: Path, stop: StopRequest) -> tuple[Score | None, Score | None]:
    """Iterate until the steps are done or a signal asks to stop; return the last and the best evaluation."""
    settings = trainer.config.run
    final: Score | None = None
    best: Score | None = None
    trainer.warm_up()
    with Logger(directory) as logger, Progress(trainer.config) as progress:
        while not trainer.finished and not stop.requested:
            previous = trainer.env_steps
            row = trainer.iterate()
            if trainer.due(settings.evaluate_every, previous) and settings.evaluation_episodes:
                figures = trainer.evaluate()
                row |= tagged("evaluation", figures)
                final = Score(env_steps=trainer.env_steps, **figures)
                if best is None or final["return_mean"] >= best["return_mean"]:
                    best = final
                    checkpoint.save(directory / run_directory.CHECKPOINTS / checkpoint.BEST, trainer.state())
            logger.write(row, env_steps=trainer.env_steps)
            progress.show(row)
            if trainer.due(settings.checkpoint_every, previous) or stop.requested:
                save(trainer, directory)
    return final, best


def save(trainer: Trainer, directory: Path) -> None:
    """Write a numbered checkpoint."""
    checkpoint.save_numbered(
        directory / run_directory.CHECKPOINTS,
        trainer.state(),
        env_steps=trainer.env_steps,
        keep=trainer.config.run.keep_checkpoints,
    )


def announce(trainer: Trainer, directory: Path) -> None:
    """Say what is about to run, where, and how long."""
    config, run = trainer.config, trainer.config.run
    size = trainer.collector.steps * config.env.num_envs
    iterations = math.ceil(run.total_steps / size)
    console.info("%s, seed %d, in %s", config.env.id, config.seed, directory)
    console.info(
        "%s steps (%s asked) in iterations of %s, %d environments (%s), %s policy parameters on %s, "
        "%d torch thread(s) for updates",
        *(f"{iterations * size:,}", f"{run.total_steps:,}", f"{size:,}"),
        *(config.env.num_envs, config.env.backend),
        *(f"{len(flatten(trainer.agent.policy)):,}", trainer.device, run.threads),
    )


def conclude(summary: dict[str, Any]) -> None:
    """Say how it ended."""
    console.info(
        "%s: %s steps in %.0f s (%.0f steps/s)",
        summary["exit_reason"],
        f"{summary['env_steps']:,}",
        summary["seconds"],
        summary["steps_per_second"],
    )
    if (final := summary["final_evaluation"]) is not None:
        console.info("evaluation: return %.2f ± %.2f", final["return_mean"], final["return_std"])


def resolve_device(config: Config) -> torch.device:
    """Return the device for networks and updates. Raises `UserError` if it does not exist."""
    if config.device == "auto":
        widest = max((*config.policy.hidden_sizes, *config.critic.hidden_sizes), default=0)
        return torch.device("cuda" if torch.cuda.is_available() and widest > LARGEST_CPU_LAYER else "cpu")
    try:
        device = torch.device(config.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UserError(f"device={config.device} does not exist; there is: {', '.join(there)}") from error
    return device


def fingerprint(agent: Agent) -> str:
    """Return a hash of θ: equal in two runs up to the first iteration in which they differ in a single bit."""
    return hashlib.sha256(flatten(agent.policy).cpu().numpy().tobytes()).hexdigest()[:16]


def tagged(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Return figures under `group/name`."""
    return {f"{group}/{name}": value for name, value in figures.items()}


class Laps:
    """The seconds that each part of an iteration took."""

    def __init__(self) -> None:
        self.started = self.latest = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self.latest
        self.latest = now

    def figures(self, env_steps: int) -> dict[str, float]:
        """Return every lap, the total so far and the rate."""
        total = time.perf_counter() - self.started
        return {**self.seconds, "total": total, "steps_per_second": env_steps / total}
