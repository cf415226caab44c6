"""Generalised advantage estimation."""

import numpy as np
import torch
from torch import Tensor


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float,
) -> Tensor:
    """Return advantages Â (T, B) (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    δ_t = r_t + γ_t V(s_{t+1}) − V(s_t)    with γ_t = 0 where the episode terminated, γ elsewhere
    Â_t = δ_t + γ λ c_t Â_{t+1}            with c_t = 0 where the trajectory was cut (terminated or truncated)

    A truncated step is an ordinary step with a next state; only the sum over what followed is cut. So it
    bootstraps from V of the observation that the episode really ended in, and rewards are never patched.

    Args:
        rewards: r_t (T, B).
        values: V(s_t) (T, B).
        next_values: V(s_{t+1}) (T, B), of the true next observation, never of a reset one.
        terminated: (T, B) bool, the task ended here.
        truncated: (T, B) bool, the clock ended here.
        gamma: γ.
        lam: λ.

    >>> import torch
    >>> import trpo
    >>> zeros, never = torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.bool)
    >>> trpo.gae(torch.ones(2, 1), zeros, zeros, never, never, gamma=0.5, lam=1.0).tolist()
    [[1.5], [1.0]]
    """
    discounts = gamma * (~terminated).to(rewards.dtype)
    continues = (~(terminated | truncated)).to(rewards.dtype)
    deltas = rewards + discounts * next_values - values
    delta, decay = deltas.cpu().numpy(), (gamma * lam * continues).cpu().numpy()
    advantages, running = np.empty_like(delta), np.zeros_like(delta[0])
    for t in reversed(range(len(delta))):  # T tiny steps: a tensor operation would cost ten times as much
        running = delta[t] + decay[t] * running
        advantages[t] = running
    return torch.from_numpy(advantages).to(deltas.device)


def discounted_returns(
    rewards: Tensor, ended: Tensor, valid: Tensor, start: Tensor, *, gamma: float
) -> tuple[Tensor, Tensor]:
    """Return G_t = r_t + γ G_{t−1} of every valid row (N,) and after the last row (B,), in float64.

    The sum runs forwards along each environment; it is what reward scaling takes the standard deviation of.

    Args:
        rewards: (T, B).
        ended: (T, B) bool; the sum restarts after such a row.
        valid: (T, B) bool; other rows are passed over.
        start: (B,) float64, G before the first row.
        gamma: γ.
    """
    running, seen = start.cpu().numpy().copy(), np.empty(rewards.shape)
    columns = (rewards.cpu().numpy(), ended.cpu().numpy(), valid.cpu().numpy())
    for row, reward, end, real in zip(seen, *columns, strict=True):
        running = np.where(real, gamma * running + reward, running)
        row[:] = running
        running[end] = 0.0
    return torch.from_numpy(seen).to(valid.device)[valid], torch.from_numpy(running)
