"""What the outputs of action values mean: the value itself, or a distribution over bins of which it is the mean."""

import torch
from torch import Tensor, nn

# Where bins lie at first, in scaled reward; values of five tasks end between −0.4 and 3.3. What nothing is known of is
# worth the middle, which is more than what is known: found to matter (docs/pathwise.md).
SUPPORT = (-5.0, 15.0)
SIGMA = 0.75  # widths of a bin
FEWEST_BINS = 10  # with fewer the normal around 0 has its tail beyond them


class NumberHead(nn.Module):
    """One output for each value, fitted by squared error."""

    width = 1
    bin_width = None

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the values (K, N, M), which the outputs are."""
        return outputs

    def wanted(self, targets: Tensor) -> Tensor:
        """Return the outputs (n, 1) that targets (n,) ask for."""
        return targets.unsqueeze(1)

    def error_backward(self, outputs: Tensor, chosen: Tensor, wanted: Tensor, delta: Tensor) -> None:
        """Write ∂/∂outputs of Σ_k mean((Q_k − G)²), zero for the outputs (K, n, M) that are not meant, into `delta`."""
        chosen = chosen.view(1, -1, 1).expand(len(outputs), -1, -1)
        errors = outputs.gather(2, chosen).sub_(wanted).mul_(2 / outputs.shape[1])
        delta.zero_().scatter_(2, chosen, errors)


class BinnedHead(nn.Module):
    """J outputs for each value: logits z of bins with centres c_j, spread evenly over a support.

        Q = Σ_j softmax(z)_j c_j,    fitted to    p_j ∝ exp(−(c_j − G)² / 2σ²),    ∂/∂z = softmax(z) − p

    Cross-entropy with a normal around each target: HL-Gauss (Imani & White 2018, arXiv:1806.04613), with the σ of
    three quarters of a bin that Farebrother et al. 2024 (arXiv:2403.03950) found. Both take the normal's mass in each
    bin; its density at the centres costs less. The mean of p is G up to 1e-4 of a bin, as a sum over points 4/3 of a
    σ apart is nearly the integral, where its tails lie on bins (Poisson's summation: 4π(σ/w)² exp(−2π²(σ/w)²)).

    Args:
        bins: J.
        support: from where to where they reach, at first.
    """

    centres: Tensor  # (J,)

    def __init__(self, bins: int, support: tuple[float, float] = SUPPORT) -> None:
        super().__init__()
        self.width, (low, high) = bins, support
        self.register_buffer("centres", low + (torch.arange(bins) + 0.5) * ((high - low) / bins))

    @property
    def bin_width(self) -> float:
        """The distance between two centres, which is four thirds of σ."""
        return float(self.centres[1] - self.centres[0])

    def forward(self, outputs: Tensor) -> Tensor:
        """Return the values (K, N, M) of outputs (K, N, M·J)."""
        probabilities: Tensor = outputs.unflatten(2, (-1, self.width)).softmax(-1)
        return probabilities @ self.centres

    def wanted(self, targets: Tensor) -> Tensor:
        """Return the distributions p (n, J) that targets (n,) ask for."""
        return ((self.centres - targets.unsqueeze(1)) / (SIGMA * self.bin_width)).square_().mul_(-0.5).softmax(1)

    def error_backward(self, outputs: Tensor, chosen: Tensor, wanted: Tensor, delta: Tensor) -> None:
        """Write ∂/∂outputs of −Σ_k mean(Σ_j p_j log softmax(z_k)_j) into `delta`.

        Zero for the outputs (K, n, M·J) that are not meant.
        """
        if outputs.shape[2] == self.width:  # they all are, and a fifth of the time is enough
            torch.softmax(outputs, -1, out=delta).sub_(wanted).div_(outputs.shape[1])
            return
        place = chosen.view(1, -1, 1, 1).expand(len(outputs), -1, 1, self.width)
        errors = outputs.unflatten(2, (-1, self.width)).gather(2, place).softmax(-1).sub_(wanted.unsqueeze(1))
        delta.zero_().unflatten(2, (-1, self.width)).scatter_(2, place, errors.div_(outputs.shape[1]))

    def excess(self, targets: Tensor) -> float:
        """Return how many times too far from 0 the furthest target lies; up to 1 normals have their tails on bins."""
        tail = 2 * SIGMA * self.bin_width
        return float(torch.maximum(targets.max() / (self.centres[-1] - tail), targets.min() / (self.centres[0] + tail)))

    def widen(self) -> Tensor:
        """Let the bins reach twice as far, and return which of before lies nearest to each of now (J,).

        With the logits of those, of the outermost one beyond, values stay what they were, but for those near the edge.
        """
        first, width = self.centres[0].clone(), self.bin_width
        self.centres *= 2
        return ((self.centres - first) / width).round().long().clamp(0, self.width - 1)
