"""tianshou's TRPO at work that is not its own: the same network and batch, and training as in its MuJoCo example."""

import contextlib
import copy
import functools
import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from tianshou.algorithm import TRPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Batch, Collector, VectorReplayBuffer
from tianshou.env import ShmemVectorEnv, VectorEnvNormObs
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

from speed.work import ACTION_SIZE, OBSERVATION_SIZE, Work

STEPS_PER_ITERATION = 1_024  # as in the MuJoCo example, like the settings of `train`


class CountedTRPO(TRPO):
    """TRPO with a number of CG iterations: the library's own is written into its update."""

    cg_iterations = 10

    def _conjugate_gradients(self, b: Tensor, gradient: Tensor, **_: Any) -> Tensor:
        solution: Tensor = super()._conjugate_gradients(b, gradient, nsteps=self.cg_iterations, residual_tol=0.0)
        return solution


class OneWeightCritic(nn.Module):
    """A critic whose fit, which cannot be left out of the update, costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, observations: Tensor) -> Tensor:
        """Return the same value everywhere."""
        return self.weight.expand(len(observations))


def gaussian(parameters: tuple[Tensor, Tensor]) -> Distribution:
    """Return independent normals from means and standard deviations."""
    return Independent(Normal(*parameters), 1)


def make_algorithm(
    action_space: gymnasium.Space,
    observation_size: int,
    hidden_sizes: tuple[int, ...],
    device: torch.device,
    *,
    critic: nn.Module | None = None,
    **settings: Any,
) -> CountedTRPO:
    """Return the algorithm with networks as in the MuJoCo example."""

    def network() -> Net:
        return Net(state_shape=observation_size, hidden_sizes=hidden_sizes, activation=nn.Tanh)

    actor = ContinuousActorProbabilistic(
        preprocess_net=network(), action_shape=action_space.shape or (), unbounded=True
    ).to(device)
    torch.nn.init.constant_(actor.sigma_param, -0.5)
    policy = ProbabilisticActorPolicy(actor=actor, dist_fn=gaussian, action_scaling=True, action_space=action_space)
    critic = critic or ContinuousCritic(preprocess_net=network())
    return CountedTRPO(policy=policy, critic=critic.to(device), optim=AdamOptimizerFactory(lr=1e-3), **settings)


def prepared(work: Work, device: torch.device) -> tuple[CountedTRPO, Batch]:
    """Return the algorithm with the policy of `work`, and its batch."""
    action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
    layers = [layer for layer in work.policy.modules() if isinstance(layer, nn.Linear)]
    hidden = tuple(layer.out_features for layer in layers[:-1])
    algorithm = make_algorithm(
        action_space, OBSERVATION_SIZE, hidden, device, critic=OneWeightCritic(), optim_critic_iters=1
    )
    actor = algorithm.policy.actor
    for source, target in zip(layers, (m for m in actor.modules() if isinstance(m, nn.Linear)), strict=True):
        target.load_state_dict(source.state_dict())
    log_probs = work.policy.distribution.log_prob(work.batch.old_parameters, work.batch.actions)
    columns = {"obs": work.batch.observations, "act": work.batch.actions, "adv": work.batch.advantages}
    with torch.no_grad():
        actor.sigma_param.copy_(work.batch.old_parameters[0, ACTION_SIZE:, None])
    return algorithm, Batch(**columns, info=Batch(), returns=work.batch.returns, logp_old=log_probs.detach())


def make_update(
    work: Work, device: torch.device, cg_iterations: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what puts the policy back, and its update."""
    algorithm, batch = prepared(work, device)
    algorithm.cg_iterations = cg_iterations
    state = copy.deepcopy(algorithm.policy.actor.state_dict())

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every backtrack
            algorithm._update_with_batch(batch, batch_size=None, repeat=1)

    return lambda: algorithm.policy.actor.load_state_dict(state), run


def make_fisher_product(work: Work, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return v ↦ (F + damping·I)v as the update builds it, v in the order of its own parameters."""
    algorithm, batch = prepared(work, device)
    new = algorithm.policy(batch).dist
    with torch.no_grad():
        old = algorithm.policy(batch).dist
    kl = kl_divergence(old, new).mean()
    gradient = algorithm._get_flat_grad(kl, algorithm.policy.actor, create_graph=True)
    return lambda v: algorithm._MVP(v, gradient)


def train(env_id: str, device: str, envs: int, iterations: int, *, envpool: bool) -> tuple[int, float]:
    """Return steps and seconds of training as in the MuJoCo example, after two iterations that do not count."""
    environments = VectorEnvNormObs(make_environments(env_id, envs, envpool=envpool))
    with contextlib.closing(environments):
        space = gymnasium.make(env_id)
        algorithm = make_algorithm(
            space.action_space,
            OBSERVATION_SIZE,
            (64, 64),
            torch.device(device),
            return_scaling=True,
            optim_critic_iters=20,
        )
        collector = Collector(algorithm, environments, VectorReplayBuffer(4_096, envs), exploration_noise=True)
        collector.reset()
        iterate(algorithm, collector, 2)
        started = time.perf_counter()
        steps = iterate(algorithm, collector, iterations)
        return steps, time.perf_counter() - started


def iterate(algorithm: CountedTRPO, collector: Collector, iterations: int) -> int:
    """Do what its trainer does, but for tests and logs; return the environment steps."""
    steps = 0
    with policy_within_training_step(algorithm.policy), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(iterations):
            steps += collector.collect(n_step=STEPS_PER_ITERATION).n_collected_steps
            algorithm.update(buffer=collector.buffer, batch_size=None, repeat=1)
            collector.reset_buffer(keep_statistics=True)
    return steps


def make_environments(env_id: str, envs: int, *, envpool: bool) -> Any:
    """Return environments as the MuJoCo example makes them: EnvPool's, or without it one process each."""
    if envpool:
        return importlib.import_module("envpool").make_gymnasium(env_id, num_envs=envs, seed=0)
    return ShmemVectorEnv([functools.partial(gymnasium.make, env_id)] * envs)
