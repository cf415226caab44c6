"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477) that shows whether its approximation holds.

Read a training iteration top-down: `train` → `trust_region` → `objective` → `numerics.fisher`,
`numerics.conjugate_gradient`, `numerics.line_search` → `models.distributions`.

    cli, launch     arguments to checked jobs (argparse, Hydra)
    resume          what a job does in its directory: start, go on, or nothing
    config, keys    every key, default and range; keys as they are typed
    run, writer     one run: when to log, evaluate, save and stop; what it writes
    train           one iteration: collect → batch → policy step → critic fit → statistics
    trust_region    one policy step; step_info has its figures, profile what lies along it
    critic          one value fit
    objective       surrogate, KL and Fisher products of one batch
    batch           what flows between the rooms
    ranks           several processes that train one agent
    device, laps    where updates run; how long the parts of an iteration took
    seeds, signals  one seed to many generators; SIGTERM as a request
    sampling/       environments, rollouts, evaluation          (Gymnasium lives only here)
    record/         TensorBoard, metrics, checkpoints           (files are written only here)
    models/         networks, distributions, running statistics
    numerics/       pure functions of tensors

Shapes: T steps per environment, B environments, N samples, O observation, A action, D distribution-parameter and P
policy-parameter sizes. θ is `theta`, always flat (P,); δ is `max_kl`; KL is joint, old policy first, in nats.
"""

from trpo.batch import Batch
from trpo.config import Config, CriticConfig, TrustRegionConfig
from trpo.critic import fit_critic
from trpo.models.agent import Agent
from trpo.models.networks import GaussianPolicy, LogitPolicy, Policy
from trpo.numerics.advantages import gae
from trpo.numerics.conjugate_gradient import conjugate_gradient
from trpo.numerics.fisher import gauss_newton_product, hessian_product
from trpo.numerics.line_search import line_search
from trpo.step_info import Outcome, StepInfo
from trpo.trust_region import trust_region_step

__all__ = [
    "Agent",
    "Batch",
    "Config",
    "CriticConfig",
    "GaussianPolicy",
    "LogitPolicy",
    "Outcome",
    "Policy",
    "StepInfo",
    "TrustRegionConfig",
    "conjugate_gradient",
    "fit_critic",
    "gae",
    "gauss_newton_product",
    "hessian_product",
    "line_search",
    "trust_region_step",
]
