"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477) that shows whether its approximation holds.

Read a training iteration top-down: `trainer` → `update.trust_region` → `update.objective` → `numerics.fisher`,
`numerics.conjugate_gradient`, `numerics.line_search` → `models.distributions`.

    config, keys    the configuration; keys as they are typed
    sections        every key, default and range; fields: what a key is
    training        training from Python: train
    trained         a trained agent away from where it was trained: load, act
    exported        its policy as one file for who has no trpo
    commands/       what a person types: one file a command; arguments to checked jobs (Hydra lives only here)
    search/         trials of settings, one study for many processes (Optuna lives only here)
    run, writer     one run: when to log, evaluate, save and stop; what it writes
    console         what the person at the terminal is told
    trainer         one iteration: collect → batch → policy step → critic fit → statistics
    batch           what flows between the rooms
    update/         one policy step, its objective and figures, what lies along it; one value fit
    sampling/       environments, rollouts, evaluation          (Gymnasium lives only here)
    record/         TensorBoard, metrics, checkpoints           (files are written only here)
    models/         networks, distributions, running statistics
    numerics/       pure functions of tensors
    system/         several processes, devices, threads, memory, seeds, signals, how long things took

Shapes: T steps per environment, B environments, N samples, O observation, A action, D distribution-parameter and P
policy-parameter sizes. θ is `theta`, always flat (P,); δ is `max_kl`; KL is joint, old policy first, in nats.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trpo.batch import Batch
from trpo.config import Config, CriticConfig, TrustRegionConfig, UserError
from trpo.models.agent import Agent
from trpo.models.gaussian_policies import GaussianPolicy, StateGaussianPolicy
from trpo.models.networks import LogitPolicy, Policy
from trpo.numerics.advantages import gae
from trpo.numerics.conjugate_gradient import conjugate_gradient
from trpo.numerics.fisher import gauss_newton_product, hessian_product
from trpo.numerics.line_search import line_search
from trpo.update.critic import fit_critic
from trpo.update.step_info import Outcome, StepInfo
from trpo.update.surrogates import Piece, Score, Surrogate
from trpo.update.trust_region import trust_region_step

if TYPE_CHECKING:
    from trpo.trained import TrainedAgent, load
    from trpo.training import Run, train

# What needs Gymnasium or Hydra, and the module that has it: imported only for who asks.
LATER = {"Run": "training", "TrainedAgent": "trained", "load": "trained", "train": "training"}


def __getattr__(name: str) -> Any:
    """Import what is in `LATER` when it is asked for."""
    if name not in LATER:
        raise AttributeError(f"module 'trpo' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trpo.{LATER[name]}"), name)


__all__ = [
    "Agent",
    "Batch",
    "Config",
    "CriticConfig",
    "GaussianPolicy",
    "LogitPolicy",
    "Outcome",
    "Piece",
    "Policy",
    "Run",
    "Score",
    "StateGaussianPolicy",
    "StepInfo",
    "Surrogate",
    "TrainedAgent",
    "TrustRegionConfig",
    "UserError",
    "conjugate_gradient",
    "fit_critic",
    "gae",
    "gauss_newton_product",
    "hessian_product",
    "line_search",
    "load",
    "train",
    "trust_region_step",
]
