"""Targets of action values from data of earlier policies."""

import numpy as np
import torch
from torch import Tensor


def retrace(
    rewards: Tensor,
    next_values: Tensor,
    action_values: Tensor,
    ratios: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    valid: Tensor,
    *,
    gamma: float,
    trace: float,
) -> Tensor:
    """Return G (T, B), Retrace's targets of Q(s_t, a_t) (Munos et al. 2016, arXiv:1606.02647, equation 3).

    G_t = r_t + γ_t [V(s_{t+1}) + c_{t+1} (G_{t+1} − Q(s_{t+1}, a_{t+1}))]    γ_t = 0 where the episode terminated
    c_t = λ min(1, π(a_t|s_t) / μ(a_t|s_t))                                   π the present policy, μ that which acted

    The correction is left out where row t ended an episode, at the rollout's last row, and where the next row is not
    valid. So a truncated row bootstraps from the V of what it really ended in, and nothing crosses a reset. Rows that
    are not valid have targets that mean nothing.

    Args:
        rewards: r_t (T, B).
        next_values: V(s_{t+1}) = E_π Q(s_{t+1}, ·) (T, B), of the true next observation.
        action_values: Q(s_t, a_t) (T, B) of the recorded actions.
        ratios: π/μ of the recorded actions (T, B), joint over their dimensions.
        terminated: (T, B) bool.
        truncated: (T, B) bool.
        valid: (T, B) bool.
        gamma: γ.
        trace: λ; 0 gives one-step targets.
    """
    follows = ~(terminated | truncated)
    follows[:-1] &= valid[1:]
    clipped = trace * ratios.clamp(max=1.0)
    c = torch.cat([clipped[1:], torch.zeros_like(clipped[:1])])
    q = torch.cat([action_values[1:], torch.zeros_like(action_values[:1])])
    weight = torch.where(follows, c, 0.0)
    discounts = gamma * (~terminated).to(rewards.dtype)
    after = torch.where(terminated, 0.0, next_values - torch.where(follows, weight * q, 0.0))
    base = torch.where(valid, rewards + discounts * after, 0.0).cpu().numpy()  # nothing, not even NaN, gets through
    decay = (discounts * weight).cpu().numpy()
    targets, running = np.empty_like(base), np.zeros_like(base[0])
    for t in reversed(range(len(base))):
        running = base[t] + decay[t] * running
        targets[t] = running
    return torch.from_numpy(targets).to(rewards.device)
