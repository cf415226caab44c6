"""What rl-baselines3-zoo runs sb3-contrib's TRPO with on MuJoCo: its `hyperparams/trpo.yml`, as data.

Its `target_kl` is a mean over action dimensions: on HalfCheetah 0.04 there is a joint bound of 0.24.
"""

from typing import Any

ENVIRONMENTS = 2
SETTINGS: dict[str, Any] = {
    "n_steps": 1024,
    "batch_size": 128,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "cg_max_steps": 25,
    "cg_damping": 0.1,
    "n_critic_updates": 20,
    "learning_rate": 1e-3,
}
OWN_SETTINGS: dict[str, dict[str, Any]] = {"HalfCheetah": {"target_kl": 0.04}, "Swimmer": {"gamma": 0.9999}}


def settings_of(id: str) -> dict[str, Any]:
    """Return the arguments of TRPO for an environment."""
    return SETTINGS | OWN_SETTINGS.get(id.split("-")[0], {})
