"""tianshou's PPO as in its MuJoCo example, on EnvPool: `python -m minutes.tianshou_peer tianshou-ppo TASK SEED FILE`.

Writes the episodes of each rollout to FILE when it is collected. Does what the library's trainer does, but for tests
and logs.
"""

import math
import sys
import warnings
from collections.abc import Iterable
from typing import Any, TextIO

import envpool
import numpy as np
import torch
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import VectorEnvNormObs
from tianshou.utils.net.common import Net
from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic
from tianshou.utils.torch_utils import policy_within_training_step
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from minutes.contest import TASKS
from minutes.episodes import write_episode
from minutes.settings import TIANSHOU


def gaussian(parameters: tuple[Tensor, Tensor]) -> Distribution:
    """Return independent normals from means and standard deviations."""
    return Independent(Normal(*parameters), 1)


def make_networks(envs: Any) -> tuple[nn.Module, nn.Module]:
    """Return actor and critic with the first weights of the example."""

    def network() -> Net:
        size = envs.observation_space.shape
        return Net(state_shape=size, hidden_sizes=TIANSHOU["hidden_sizes"], activation=nn.Tanh)

    actor = ContinuousActorProbabilistic(preprocess_net=network(), action_shape=envs.action_space.shape, unbounded=True)
    critic = ContinuousCritic(preprocess_net=network())
    nn.init.constant_(actor.sigma_param, TIANSHOU["initial_log_std"])
    for layer in linear_layers([actor, critic]):
        nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
        nn.init.zeros_(layer.bias)
    for layer in linear_layers([actor.mu]):
        layer.weight.data.mul_(0.01)
    return actor, critic


def linear_layers(modules: Iterable[nn.Module]) -> list[nn.Linear]:
    """Return the linear layers of some modules."""
    return [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]


def make_algorithm(envs: Any) -> PPO:
    """Return PPO with the settings of the example."""
    actor, critic = make_networks(envs)
    optimizer = AdamOptimizerFactory(lr=TIANSHOU["learning_rate"]).with_lr_scheduler_factory(
        LRSchedulerFactoryLinear(
            max_epochs=TIANSHOU["epochs"],
            epoch_num_steps=TIANSHOU["steps_per_epoch"],
            collection_step_num_env_steps=TIANSHOU["steps_per_collect"],
        )
    )
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=gaussian, action_scaling=True, action_bound_method="clip", action_space=envs.action_space
    )
    return PPO(policy=policy, critic=critic, optim=optimizer, **TIANSHOU["algorithm"])


def train(id: str, seed: int, file: TextIO) -> None:
    """Learn for all epochs of the example."""
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(TIANSHOU["threads"])
    envs = VectorEnvNormObs(envpool.make_gymnasium(id, num_envs=TIANSHOU["environments"], seed=seed))
    algorithm = make_algorithm(envs)
    buffer = VectorReplayBuffer(TIANSHOU["buffer_size"], TIANSHOU["environments"])
    collector = Collector(algorithm, envs, buffer, exploration_noise=True)
    collector.reset()
    steps = 0
    with policy_within_training_step(algorithm.policy):
        for _ in range(TIANSHOU["epochs"] * math.ceil(TIANSHOU["steps_per_epoch"] / TIANSHOU["steps_per_collect"])):
            collected = collector.collect(n_step=TIANSHOU["steps_per_collect"])
            steps += collected.n_collected_steps
            for episode_return in collected.returns:
                write_episode(file, steps, float(episode_return))
            algorithm.update(buffer=buffer, batch_size=TIANSHOU["batch_size"], repeat=TIANSHOU["repeat"])
            collector.reset_buffer(keep_statistics=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    _, task, seed, file = sys.argv[1:]
    with open(file, "w", encoding="utf-8") as episodes:
        train(TASKS[task].id, int(seed), episodes)
