"""sb3-contrib's TRPO at work that is not its own: the same network and batch, and training as its defaults have it."""

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from speed.work import ACTION_SIZE, OBSERVATION_SIZE, Work


class SpacesOnly(gymnasium.Env):
    """An environment that is asked for nothing but its spaces."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Return zeros."""
        return np.zeros(OBSERVATION_SIZE, np.float32), {}


def make_model(work: Work, device: torch.device, **settings: Any) -> TRPO:
    """Return a model with the networks of `work`, and its batch in the rollout buffer."""
    hidden = [layer.out_features for layer in linear_layers(work.policy)[:-1]]
    model = TRPO(
        "MlpPolicy",
        SpacesOnly(),
        n_steps=len(work.batch.advantages),
        normalize_advantage=False,  # those of `work` are normalised
        policy_kwargs={"net_arch": {"pi": hidden, "vf": hidden}},
        device=device,
        **settings,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    copy_networks(work, model.policy)
    fill_buffer(work, model)
    return model


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a network in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


@torch.no_grad()
def copy_networks(work: Work, policy: Any) -> None:
    """Give a policy the weights and the standard deviation of `work`."""
    extractor = policy.mlp_extractor
    pairs = [
        (work.policy, extractor.policy_net, policy.action_net),
        (work.critic, extractor.value_net, policy.value_net),
    ]
    for ours, hidden, last in pairs:
        for source, target in zip(linear_layers(ours), [*linear_layers(hidden), last], strict=True):
            target.load_state_dict(source.state_dict())
    policy.log_std.copy_(work.batch.old_parameters[0, ACTION_SIZE:])


@torch.no_grad()
def fill_buffer(work: Work, model: TRPO) -> None:
    """Write the batch of `work` where a rollout would have left it."""
    batch, buffer = work.batch, model.rollout_buffer
    log_probs = work.policy.distribution.log_prob(batch.old_parameters, batch.actions)
    columns = {
        "observations": batch.observations,
        "actions": batch.actions,
        "advantages": batch.advantages,
        "returns": batch.returns,
        "log_probs": log_probs,
    }
    for name, column in columns.items():
        array = getattr(buffer, name)
        array[:] = column.cpu().numpy().reshape(array.shape)
    buffer.pos, buffer.full = buffer.buffer_size, True


def make_update(
    work: Work, device: torch.device, cg_iterations: int
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what puts the policy back, and its `train()` without critic updates."""
    model = make_model(work, device, cg_max_steps=cg_iterations, n_critic_updates=1)
    model.n_critic_updates = 0
    return restorer(model), quietly(model)


def make_critic_fit(
    work: Work, device: torch.device, epochs: int, minibatch_size: int
) -> tuple[Callable[[], object], Callable[[int], object]]:
    """Return what puts the networks back, and `train()` with this many epochs or with none.

    There is no way into `train()` but through its policy update, which is made as small as it gets: the fit is the
    difference between a call with all its epochs and one with none.
    """
    samples = len(work.batch.advantages)
    model = make_model(work, device, batch_size=minibatch_size, cg_max_steps=1, line_search_max_iter=1)
    model.sub_sampling_factor = samples // 16
    run = quietly(model)

    def train(chosen: int) -> None:
        model.n_critic_updates = chosen
        run()

    assert epochs > 0
    return restorer(model), train


def restorer(model: TRPO) -> Callable[[], object]:
    """Return a function that gives the model the parameters that it has now."""
    state = copy.deepcopy(model.policy.state_dict())
    return lambda: model.policy.load_state_dict(state)


def quietly(model: TRPO) -> Callable[[], None]:
    """Return `train()`; without critic updates it takes the mean of no losses, about which NumPy would speak."""

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            model.train()

    return run


def make_fisher_product(work: Work, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return v ↦ (F + damping·I)v as `train()` builds it, v in the order of its own parameters."""
    model = make_model(work, device)
    with torch.no_grad():
        old = copy.copy(model.policy.get_distribution(work.batch.observations))
    new = model.policy.get_distribution(work.batch.observations)
    kl = kl_divergence(new, old).mean()
    surrogate = new.log_prob(work.batch.actions).mean()
    parameters, _, gradient, _ = model._compute_actor_grad(kl, surrogate)
    return lambda v: model.hessian_vector_product(parameters, gradient, v)


def train(env_id: str, device: str, envs: int, iterations: int) -> tuple[int, float]:
    """Return steps and seconds of training at the defaults, after one iteration that does not count."""
    model = TRPO("MlpPolicy", make_vec_env(env_id, envs, seed=0), device=device, seed=0)
    size = model.n_steps * envs
    model.learn(size)
    started = time.perf_counter()
    model.learn(iterations * size, reset_num_timesteps=False)
    return iterations * size, time.perf_counter() - started
