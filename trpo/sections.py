"""The sections of the configuration, as frozen dataclasses that hold every default and refuse every value out of range.

A task file in `configs/task/` states only what it changes. Each field carries its own line of help and its own
bounds, so the command line, the error messages and the README speak from one source. Standard library only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from trpo.fields import Section, UserError, key

# δ, the share of it that is gone by the end of a run, and the power to which what is left is raised.
GAUSSIAN = (0.04, 0.9, 1.0)
PATHWISE = (0.15, 0.99, 2.0)  # of Gaussians: a gradient worth a longer step; as late ones are noise, length falls
DISCRETE = (0.01, 0.9, 1.0)  # eight steps of 0.04 turn six even chances into certainty


@dataclass(frozen=True, kw_only=True)
class EnvConfig(Section):
    """The environments that are stepped."""

    path: ClassVar[str] = "env"
    id: str = key("", "a Gymnasium id; `package:Name-v0` imports the package first")
    backend: str = key(
        "sync",
        "sync: one process; async: one each; vector: the environment's own vector entry point; envpool: EnvPool's",
        choices=("sync", "async", "vector", "envpool"),
    )
    num_envs: int = key(16, "environments stepped together, by all ranks", at_least=1)
    timeout: float = key(0.0, "seconds an async environment may take for a step or reset; 0: for ever", at_least=0)
    restart_every: int = key(
        0, "steps between restarts of vector and envpool, since which resume replays; 0: ten time limits", at_least=0
    )
    pin: bool = key(True, "EnvPool's threads keep to a core each, if it has as many; false beside other runs")
    max_episode_steps: int = key(0, "the time limit; 0: the environment's own", at_least=0)
    kwargs: dict[str, Any] = key({}, "for the environment's constructor: +env.kwargs.goal_velocity=0.1")
    evaluation_kwargs: dict[str, Any] = key({}, "added to those, or in their place, where the agent is evaluated")
    wrappers: tuple[Any, ...] = key((), "around each one, innermost first: [{wrapper: module:Class, argument: 1}]")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timeout and self.backend != "async":
            raise UserError(f"env.timeout needs env.backend=async: {self.backend} environments cannot be interrupted")
        if self.max_episode_steps and "max_episode_steps" in {**self.kwargs, **self.evaluation_kwargs}:
            raise UserError("env.max_episode_steps is among the kwargs too: give one of them")

    @property
    def arguments(self) -> dict[str, Any]:
        """What the environment is made with."""
        limit = {"max_episode_steps": self.max_episode_steps} if self.max_episode_steps else {}
        return {**self.kwargs, **limit}

    @property
    def evaluation(self) -> EnvConfig:
        """The environments that the agent is evaluated on."""
        return dataclasses.replace(self, kwargs={**self.kwargs, **self.evaluation_kwargs}, evaluation_kwargs={})


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Section):
    """The policy network."""

    path: ClassVar[str] = "policy"
    hidden_sizes: tuple[int, ...] = key((64, 64), "widths of the hidden layers", at_least=1)
    activation: str = key("tanh", "between layers", choices=("tanh", "relu", "elu", "silu"))
    initial_log_std: float = key(-1.0, "log σ of a Gaussian policy at the start", at_most=5.0)
    min_log_std: float = key(-2.3, "smooth floor under log σ", at_least=-20.0)
    bounds: str = key(
        "clip",
        "of continuous actions: clip what is drawn outside; censor: clip, and compare what is sent; tanh: squash all",
        choices=("clip", "censor", "tanh"),
    )
    std: str = key("shared", "of a Gaussian policy: shared by all states, or of the state", choices=("shared", "state"))
    final_std_scale: float = key(1.0, "what σ is multiplied by by the end, a step an iteration; 1: nothing", above=0.0)
    noise_correlation: float = key(0.0, "of a Gaussian's noise with the step before", at_least=0.0, at_most=0.99)
    observations: tuple[str, ...] = key((), "the parts of an observation that it sees; []: all")
    images: tuple[str, ...] = key((), "parts to be taken as pictures, by all networks, whatever their shape says")
    grids: tuple[str, ...] = key((), "parts to be taken as grids of a few cells")
    vectors: tuple[str, ...] = key((), "parts to be flattened")
    memory: str = key("none", "between encoding and deciding: none, gru, lstm", choices=("none", "gru", "lstm"))
    memory_size: int = key(64, "numbers that are remembered", at_least=1)
    memory_inputs: tuple[str, ...] = key(
        (), "seen besides, by the critic's too: action, reward", choices=("action", "reward")
    )
    network: str = key("", "a trpo.Policy of one's own, module:Class, in place of hidden_sizes and activation")
    network_kwargs: dict[str, Any] = key({}, "for that class: +policy.network_kwargs.width=64")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.initial_log_std <= self.min_log_std:
            raise UserError(
                f"policy.initial_log_std must be above policy.min_log_std ({self.min_log_std}), "
                f"got {self.initial_log_std}"
            )


@dataclass(frozen=True, kw_only=True)
class NormalizeConfig(Section):
    """What is rescaled."""

    path: ClassVar[str] = "normalize"
    observations: bool = key(True, "shift and scale observations to zero mean and unit variance; one-hot ones by √n")
    rewards: bool = key(True, "divide rewards by the standard deviation of the discounted return")
    advantages: bool = key(True, "shift and scale the advantages of each batch")


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig(Section):
    """Generalised advantage estimation."""

    path: ClassVar[str] = "advantage"
    gamma: float = key(0.99, "γ, the discount", at_least=0.0, at_most=1.0)
    lam: float = key(0.95, "λ of GAE: 0 trusts the critic, 1 trusts the returns", at_least=0.0, at_most=1.0)


@dataclass(frozen=True, kw_only=True)
class TrustRegionConfig(Section):
    """The policy step.

    >>> import trpo
    >>> trpo.TrustRegionConfig(max_kl=0.02, anneal=0.5).bound(1.0, discrete=False)
    0.01
    """

    path: ClassVar[str] = "trust_region"
    surrogate: str = key(
        "score", "score: the paper's; pathwise: by action values from the last rollouts", choices=("score", "pathwise")
    )
    max_kl: float = key(
        0.0,
        f"δ ≥ a step's mean joint KL, nats; 0: {GAUSSIAN[0]}, pathwise {PATHWISE[0]}, discrete {DISCRETE[0]}",
        at_least=0.0,
        at_most=100.0,
    )
    anneal: float | None = key(
        None, "share of δ gone by the end, 0: none; null: 0.9, pathwise 0.99 unless discrete", at_least=0, at_most=0.99
    )
    anneal_power: float | None = key(
        None, "what is left of δ is raised to it; null: 1, pathwise 2 unless discrete", at_least=0.0, at_most=10.0
    )
    min_multiplier: float = key(
        0.01, "λ_min, standard deviations of the return that a nat of KL must buy, or less is spent", at_least=0.0
    )
    entropy: float = key(
        0.0, "β, standard deviations of the return that a nat of the policy's entropy is worth", at_least=0.0
    )
    cg_iterations: int = key(10, "Fisher products that conjugate gradient may spend", at_least=1)
    cg_tolerance: float = key(1e-3, "stop when ‖g − (F + damping·I)x‖ ≤ tolerance · ‖g‖", at_least=0.0)
    damping: float = key(0.0, "added to the Fisher matrix's diagonal in the solve", at_least=0.0)
    relative_damping: float = key(0.03, "share of gᵀFg / gᵀg, the curvature along g, added to damping", at_least=0.0)
    line_search: bool = key(True, "false: the full step, whatever it does: the natural policy gradient, KL not bounded")
    max_backtracks: int = key(10, "shorter candidates the line search may try", at_least=0)
    backtrack_factor: float = key(0.8, "least shrinking per backtrack", above=0.0, at_most=0.99)
    fisher: str = key(
        "gauss_newton",
        "gauss_newton: JᵀMJ; hessian: the KL differentiated twice; the same matrix at θ_old",
        choices=("gauss_newton", "hessian"),
    )
    fisher_fraction: float = key(1.0, "share of the samples used for the solve", above=0.0, at_most=1.0)
    micro_batch: int = key(0, "most samples in one forward pass, the same up to rounding; 0: all at once", at_least=0)

    def bound(self, progress: float, *, discrete: bool) -> float:
        """Return δ(1 − anneal · progress)^power, progress in [0, 1]; what is not given goes by surrogate and kind."""
        usual = DISCRETE if discrete else PATHWISE if self.surrogate == "pathwise" else GAUSSIAN
        given = (self.max_kl or None, self.anneal, self.anneal_power)
        max_kl, anneal, power = (other if one is None else one for one, other in zip(given, usual, strict=True))
        return max_kl * float((1 - anneal * progress) ** power)


@dataclass(frozen=True, kw_only=True)
class CriticConfig(Section):
    """The value function and its fit.

    >>> import trpo
    >>> trpo.CriticConfig(anneal=0.5).annealed(1.0).learning_rate
    0.0005
    """

    path: ClassVar[str] = "critic"
    hidden_sizes: tuple[int, ...] = key((64, 64), "widths of the hidden layers", at_least=1)
    activation: str = key("tanh", "between layers", choices=("tanh", "relu", "elu", "silu"))
    learning_rate: float = key(1e-3, "of Adam", above=0.0)
    anneal: float = key(0.0, "share of the learning rate gone by the end, linearly", at_least=0.0, at_most=0.99)
    epochs: int = key(10, "passes over each batch", at_least=1)
    minibatch_size: int = key(64, "most samples per Adam step; an epoch is split evenly", at_least=1)
    observations: tuple[str, ...] = key((), "the parts of an observation that it sees; []: all")
    memory: str = key("none", "the critic's own: none, gru, lstm", choices=("none", "gru", "lstm"))
    memory_size: int = key(64, "numbers that are remembered", at_least=1)
    network: str = key("", "a torch.nn.Module of one's own, module:Class, in place of hidden_sizes and activation")
    network_kwargs: dict[str, Any] = key({}, "for that class: +critic.network_kwargs.width=64")

    def annealed(self, progress: float) -> CriticConfig:
        """Return the section with learning_rate · (1 − anneal · progress), progress in [0, 1]."""
        return dataclasses.replace(self, learning_rate=self.learning_rate * (1 - self.anneal * progress))


@dataclass(frozen=True, kw_only=True)
class ActionValuesConfig(Section):
    """The action values of surrogate=pathwise and their fit."""

    path: ClassVar[str] = "action_values"
    hidden_sizes: tuple[int, ...] = key((128, 128), "widths of the hidden layers", at_least=1)
    networks: int = key(2, "side by side: the step is along their mean", at_least=1)
    bins: int = key(0, "of distributions whose means the values are, fitted by cross-entropy; 0: none", at_least=0)
    pessimism: float | None = key(
        None, "deviations of targets below the networks' mean; null: 0.5, discrete 1", at_least=0.0
    )
    rollouts: int = key(32, "the last ones, which are kept", at_least=1)
    drawn: int = key(16, "of those, the newest among them, to which they are fitted in an iteration", at_least=1)
    minibatches: int = key(100, "steps of AdamW in each iteration", at_least=1)
    minibatch_size: int = key(256, "samples per step, from the rollouts that were drawn", at_least=1)
    learning_rate: float = key(1e-3, "of AdamW", above=0.0)
    trace: float = key(0.9, "λ of Retrace: 0 trusts the action values, 1 the returns", at_least=0.0, at_most=1.0)
    noise: int = key(4, "actions drawn in each state for the step, if they are continuous", at_least=1)
    target_noise: int = key(2, "actions drawn in each next state for the targets", at_least=1)
    warm_up: int = key(10, "iterations that only fit them, before the first policy step", at_least=0)


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Section):
    """What is shown and kept."""

    path: ClassVar[str] = "record"
    progress: bool = key(True, "a progress bar, if the output is a terminal")
    profile_every: int = key(50, "iterations between profiles along the step; 0: none", at_least=0)
    dump_every: int = key(0, "iterations between dumps of a whole update; 0: none", at_least=0)
    wandb: str = key("", "a project on Weights & Biases, which mirrors the event file")
    info_keys: tuple[str, ...] = key((), "figures of an episode's last info; is_success and success by themselves")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """How long a run is and what it keeps. All counts are environment steps unless a name says otherwise."""

    path: ClassVar[str] = "run"
    total_steps: int = key(1_000_000, "rounded up to whole iterations", at_least=1)
    steps_per_iteration: int = key(2_048, "samples per policy step, over all environments", at_least=1)
    evaluate_every: int = key(100_000, "0: only at the end", at_least=0)
    evaluation_episodes: int = key(20, "deterministic episodes per evaluation; 0: never evaluate", at_least=0)
    stop_at_return: float | None = key(None, "end once an evaluation's mean return is this much; null: never")
    checkpoint_every: int = key(100_000, "0: only at the end", at_least=0)
    keep_checkpoints: int = key(3, "newest checkpoints kept, besides the best by evaluation", at_least=1)
    threads: int = key(1, "torch threads for updates; more only if nothing else runs: they wait awake", at_least=1)
    deterministic: bool = key(False, "refuse torch operations that are not deterministic (they matter on a GPU)")
    init_from: str = key("", "a run, or a checkpoint, whose agent this one starts as, with an optimiser of its own")
    resume: str = key("", "a run directory to go on with; auto: that of hydra.run.dir, if it holds an unfinished run")
    fallback_directory: str = key("", "where the state goes if the run directory cannot be written")
