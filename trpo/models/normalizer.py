"""Running statistics that travel with the agent: saved, exported and frozen with it."""

import numpy as np
import torch
from torch import Tensor, nn


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen so far, in float64, merged batch by batch.

    Chan, Golub & LeVeque 1983: the moments of two sets from the moments of each, with no running sums of squares
    to cancel.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Take in rows (N, size). With nothing seen before, the moments become those of the rows."""
        if len(rows) == 0:
            return
        rows = rows.double()
        count, total = len(rows), self.count + len(rows)
        delta = rows.mean(0) - self.mean
        within = self.variance * self.count + rows.var(0, correction=0) * count
        between = delta**2 * (self.count * count / total)
        self.mean += delta * (count / total)
        self.variance.copy_((within + between) / total)
        self.count.copy_(total)

    def std(self) -> Tensor:
        """Return standard deviations (size,), with 1 where the rows were constant but for rounding."""
        constant = self.variance <= (1e-6 * self.mean) ** 2 + 1e-60
        return torch.where(constant, 1.0, self.variance).sqrt()


class ObservationNormalizer(nn.Module):
    """Shifts and scales observations to zero mean and unit variance, clipped; part of the policy.

    Its statistics change in `update` alone, which moves the policy as a function of raw observations. The trainer
    calls it once per iteration, after the policy step, and logs the KL that it caused.
    """

    def __init__(self, size: int, *, clip: float = 10.0) -> None:
        super().__init__()
        self.moments = RunningMoments(size)
        self.clip = clip
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(size))  # float32 copies for the hot path
        self.register_buffer("scale", torch.ones(size))

    def forward(self, observations: Tensor) -> Tensor:
        """Return clip((s − mean) / std) (N, O)."""
        return ((observations - self.shift) * self.scale).clamp(-self.clip, self.clip)

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Take in raw observations (N, O). A constant dimension is shifted to zero and otherwise left alone."""
        self.moments.update(observations)
        self.shift.copy_(self.moments.mean)
        self.scale.copy_(1 / self.moments.std())


class RewardScale(nn.Module):
    """Divides rewards by the standard deviation of the discounted return, so that the critic's targets are near 1.

    G_t = r_t + γ G_{t−1} runs along each environment and restarts with each episode; rewards are scaled, never
    shifted, which would change what is optimal. The critic lives in scaled units, the logs do not.
    """

    def __init__(self, num_envs: int, *, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.moments = RunningMoments(1)
        self.returns: Tensor
        self.register_buffer("returns", torch.zeros(num_envs, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rewards: Tensor, ended: Tensor, valid: Tensor) -> None:
        """Take in rewards (T, B); `ended` restarts the sum, rows that are not `valid` are passed over."""
        running, seen = self.returns.cpu().numpy().copy(), np.empty(rewards.shape)
        columns = (rewards.cpu().numpy(), ended.cpu().numpy(), valid.cpu().numpy())
        for row, reward, end, real in zip(seen, *columns, strict=True):  # a tensor operation costs ten times as much
            running = np.where(real, self.gamma * running + reward, running)
            row[:] = running
            running[end] = 0.0
        self.returns.copy_(torch.from_numpy(running))
        self.moments.update(torch.from_numpy(seen).to(valid.device)[valid].unsqueeze(-1))

    def forward(self, rewards: Tensor) -> Tensor:
        """Return rewards / std(G), or the rewards themselves while every G was the same."""
        return (rewards / self.moments.std()).to(rewards.dtype)
