"""What the peers are run with, as data that a result can hold.

PPO's are those of rl-baselines3-zoo's `hyperparams/ppo.yml` for the v4 environments, TRPO's are in `learning.zoo`,
tianshou's are those of its `examples/mujoco/mujoco_ppo.py`. The zoo's numbers of steps are left out: the clock ends a
run, and nothing that is learned depends on them. As many torch threads as cores are torch's own default.
"""

from typing import Any

from learning import zoo

from minutes.contest import TASKS

Settings = dict[str, Any]

THREADS = 2
WIDE: Settings = {
    "log_std_init": -2,
    "ortho_init": False,
    "activation_fn": "ReLU",
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
PPO: dict[str, Settings] = {
    "halfcheetah": {
        "batch_size": 64,
        "n_steps": 512,
        "gamma": 0.98,
        "learning_rate": 2.0633e-05,
        "ent_coef": 0.000401762,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.92,
        "max_grad_norm": 0.8,
        "vf_coef": 0.58096,
        "policy_kwargs": WIDE,
    },
    "hopper": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.999,
        "learning_rate": 9.80828e-05,
        "ent_coef": 0.00229519,
        "clip_range": 0.2,
        "n_epochs": 5,
        "gae_lambda": 0.99,
        "max_grad_norm": 0.7,
        "vf_coef": 0.835671,
        "policy_kwargs": WIDE,
    },
    "walker2d": {
        "batch_size": 32,
        "n_steps": 512,
        "gamma": 0.99,
        "learning_rate": 5.05041e-05,
        "ent_coef": 0.000585045,
        "clip_range": 0.1,
        "n_epochs": 20,
        "gae_lambda": 0.95,
        "max_grad_norm": 1,
        "vf_coef": 0.871923,
    },
    "ant": {},  # the zoo has sb3's defaults
    "humanoid": {
        "batch_size": 256,
        "n_steps": 512,
        "gamma": 0.95,
        "learning_rate": 3.56987e-05,
        "ent_coef": 0.00238306,
        "clip_range": 0.3,
        "n_epochs": 5,
        "gae_lambda": 0.9,
        "max_grad_norm": 2,
        "vf_coef": 0.431892,
        "policy_kwargs": WIDE,
    },
}
TIANSHOU: Settings = {
    "threads": THREADS,
    "environments": 8,
    "buffer_size": 4_096,
    "hidden_sizes": [64, 64],
    "initial_log_std": -0.5,
    "learning_rate": 3e-4,  # falls linearly to 0 over all epochs
    "epochs": 100,
    "steps_per_epoch": 30_000,
    "steps_per_collect": 2_048,
    "repeat": 10,
    "batch_size": 64,
    "algorithm": {
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "max_grad_norm": 0.5,
        "vf_coef": 0.25,
        "ent_coef": 0.0,
        "return_scaling": True,
        "eps_clip": 0.2,
        "value_clip": False,
        "dual_clip": None,
        "advantage_normalization": False,
        "recompute_advantage": True,
    },
}


def settings_of(contestant: str, task: str) -> Settings:
    """Return the settings of a peer on a task; of sb3's, the arguments of its algorithm are under `algorithm`."""
    return {
        "sb3-contrib-trpo": sb3(zoo.settings_of(TASKS[task].id), environments=zoo.ENVIRONMENTS, normalized=True),
        "sb3-ppo": sb3(PPO[task], environments=1, normalized=True),
        "sb3-sac": sb3({}, environments=1, normalized=False),
        "tianshou-ppo": TIANSHOU,
    }[contestant]


def sb3(algorithm: Settings, *, environments: int, normalized: bool) -> Settings:
    """Return settings with what the zoo has beside the algorithm's arguments, and threads."""
    return {"threads": THREADS, "environments": environments, "normalized": normalized, "algorithm": algorithm}
