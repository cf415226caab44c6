"""What the outputs of action values mean: the value itself, or a distribution over bins of which it is the mean."""

import torch
from torch import Tensor, nn

# Of bins, in scaled reward; values of five tasks end between −0.4 and 3.3. What nothing is known of is worth the middle
# of them, which may matter (a guess: scripts/results/learning.md).
SUPPORT = (-5.0, 15.0)
SIGMA = 0.75  # widths of a bin
FEWEST_BINS = 10  # with 8, targets below 0 were beyond


class NumberHead(nn.Module):
    """One output for each value, fitted by squared error."""

    outputs = 1

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the values (K, N, M), which the outputs are."""
        return outputs

    def wanted(self, targets: Tensor) -> Tensor:
        """Return the outputs (n, 1) that targets (n,) ask for."""
        return targets.unsqueeze(1)

    def beyond(self, targets: Tensor) -> Tensor:
        """Return which targets (n,) are further out than can be told: none."""
        return torch.zeros_like(targets, dtype=torch.bool)

    def error_backward(self, outputs: Tensor, chosen: Tensor, wanted: Tensor, delta: Tensor) -> None:
        """Write ∂/∂outputs of Σ_k mean((Q_k − G)²), zero for the outputs (K, n, M) that are not meant, into `delta`."""
        chosen = chosen.view(1, -1, 1).expand(len(outputs), -1, -1)
        errors = outputs.gather(2, chosen).sub_(wanted).mul_(2 / outputs.shape[1])
        delta.zero_().scatter_(2, chosen, errors)


class BinnedHead(nn.Module):
    """J outputs for each value: logits z of bins with centres c_j, spread evenly over `SUPPORT`.

        Q = Σ_j softmax(z)_j c_j,    fitted to    p_j ∝ exp(−(c_j − G)² / 2σ²),    ∂/∂z = softmax(z) − p

    Cross-entropy with a normal around each target: HL-Gauss (Imani & White 2018, arXiv:1806.04613), with the σ of
    three quarters of a bin that Farebrother et al. 2024 (arXiv:2403.03950) found. Both take the normal's mass in each
    bin; its density at the centres costs less. The mean of p is G up to 1e-4 of a bin from four σ inside on, as a sum
    over points 4/3 of a σ apart is nearly the integral (Poisson's summation: 4π(σ/w)² exp(−2π²(σ/w)²)), and up to 5e-3
    two σ inside. Targets further out are taken as that.

    Args:
        bins: J.
    """

    centres: Tensor  # (J,)

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.outputs, (low, high) = bins, SUPPORT
        width = (high - low) / bins
        self.sigma = SIGMA * width
        self.low, self.high = low + width / 2 + 2 * self.sigma, high - width / 2 - 2 * self.sigma
        self.register_buffer("centres", low + (torch.arange(bins) + 0.5) * width, persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the values (K, N, M) of outputs (K, N, M·J)."""
        probabilities: Tensor = outputs.unflatten(2, (-1, self.outputs)).softmax(-1)
        return probabilities @ self.centres

    def wanted(self, targets: Tensor) -> Tensor:
        """Return the distributions p (n, J) that targets (n,) ask for."""
        targets = targets.clamp(self.low, self.high).unsqueeze(1)
        return ((self.centres - targets) / self.sigma).square_().mul_(-0.5).softmax(1)

    def beyond(self, targets: Tensor) -> Tensor:
        """Return which targets are further out than can be told."""
        return (targets < self.low) | (targets > self.high)

    def error_backward(self, outputs: Tensor, chosen: Tensor, wanted: Tensor, delta: Tensor) -> None:
        """Write ∂/∂outputs of −Σ_k mean(Σ_j p_j log softmax(z_k)_j) into `delta`.

        Zero for the outputs (K, n, M·J) that are not meant.
        """
        if outputs.shape[2] == self.outputs:  # they all are, and a quarter of the time is enough
            torch.softmax(outputs, -1, out=delta).sub_(wanted).div_(outputs.shape[1])
            return
        place = chosen.view(1, -1, 1, 1).expand(len(outputs), -1, 1, self.outputs)
        errors = outputs.unflatten(2, (-1, self.outputs)).gather(2, place).softmax(-1).sub_(wanted.unsqueeze(1))
        delta.zero_().unflatten(2, (-1, self.outputs)).scatter_(2, place, errors.div_(outputs.shape[1]))
