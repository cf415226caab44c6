"""Where the networks live and the updates run."""

import torch

from trpo.config import Config, UserError
from trpo.system import ranks

LARGEST_CPU_LAYER = 512  # `device=auto` keeps narrower networks on the CPU, where a launch costs more than the work


def resolve_device(config: Config) -> torch.device:
    """Return the device for networks and updates. Raises `UserError` if it does not exist.

    Ranks on one host take its GPUs in turn, unless the configuration names one.
    """
    name = config.device
    if name == "auto":
        widest = max((*config.policy.hidden_sizes, *config.critic.hidden_sizes), default=0)
        name = "cuda" if torch.cuda.is_available() and widest > LARGEST_CPU_LAYER else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{ranks.number_here() % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("no such device for training")
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise UserError(f"device={config.device} does not exist; there is: {', '.join(there)}") from error
    return device
