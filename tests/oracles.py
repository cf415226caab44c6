"""Dense, slow and independent counterparts of what trpo computes, and the small policies they are compared on."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.func import functional_call

from trpo.batch import Batch
from trpo.config import ActionValuesConfig, Config
from trpo.models.action_values import ActionValues, make_action_values
from trpo.models.censored_gaussian import CensoredGaussian
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution
from trpo.models.encoders import Encoder
from trpo.models.gaussian_policies import GaussianPolicy
from trpo.models.networks import LogitPolicy, Policy
from trpo.models.observations import MASK, Kind, Leaf, Observations, leaves_of, like, tree
from trpo.numerics.params import flatten, unflatten

DISTRIBUTIONS = {
    "gaussian": DiagonalGaussian(2),
    "censored_gaussian": CensoredGaussian(2, (-1.0, -0.5), (0.6, 1.2)),
    "categorical": Categorical((4,)),
    "multi_categorical": Categorical((3, 2)),
    "bernoulli": Bernoulli(3),
}
OBSERVATION_SIZE = 3


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


# A grid and numbers, small enough for dense matrices of all parameters, and a mask where actions are choices.
PICTURE = {"picture": Leaf(Kind.IMAGE, (10, 11, 2), 1, flat=False)}  # 5,000 parameters more
PARTS = {
    "grid": Leaf(Kind.GRID, (3, 3, 1), 1, flat=False),
    "speed": Leaf(Kind.VECTOR, (OBSERVATION_SIZE,)),
}


def random_parts(distribution: Distribution, samples: int, *, seed: int, dtype: torch.dtype) -> Observations:
    """Observations of `PARTS`; in the mask of every choice about half, and always the first of each dimension."""
    leaves = {
        name: torch.randint(0, 256, (samples, *leaf.shape), dtype=torch.uint8, generator=generator(seed))
        for name, leaf in {**PICTURE, **PARTS}.items()
        if not leaf.flat
    }
    leaves["grid"] //= 64
    leaves["speed"] = normal(samples, OBSERVATION_SIZE, seed=seed, dtype=dtype)
    if isinstance(distribution, Categorical):
        mask = torch.rand(samples, distribution.parameter_size, generator=generator(seed)) < 0.5
        starts = itertools.accumulate(distribution.sizes[:-1], initial=0)
        mask[:, list(starts)] = True
        leaves[MASK] = mask
    return tree(leaves, (samples,))


def changed(observations: Observations, change: Callable[[Tensor], Tensor]) -> Observations:
    """Observations with another version of each of their numbers; bytes and masks stay."""
    leaves = leaves_of(observations).items()
    return like(observations, {name: change(leaf) if leaf.is_floating_point() else leaf for name, leaf in leaves})


def random_policy_of_parts(
    distribution: Distribution,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    parts: dict[str, Leaf] = PARTS,
) -> Policy:
    """A real policy with convolutions, away from its symmetric first weights."""
    encoder = Encoder(parts, generator=generator(seed))
    masked = {"masked": True} if isinstance(distribution, Categorical) else {}
    return random_policy(distribution, seed=seed, dtype=dtype, encoder=encoder, **masked)


def random_policy(
    distribution: Distribution,
    *,
    seed: int = 0,
    hidden_sizes: tuple[int, ...] = (5,),
    activation: str = "tanh",
    dtype: torch.dtype = torch.float64,
    encoder: Encoder | None = None,
    **options: Any,
) -> Policy:
    """A real policy away from its symmetric first weights: every parameter moved by about 0.4; 0.1 with an encoder."""
    shape = {"hidden_sizes": hidden_sizes, "activation": activation, "generator": generator(seed), **options}
    inputs = encoder.size if encoder else OBSERVATION_SIZE
    if isinstance(distribution, DiagonalGaussian):
        size = distribution.action_size
        shape |= {"initial_log_std": -0.5, "min_log_std": -3.0, "encoder": encoder, "distribution": distribution}
        policy = GaussianPolicy(inputs, size, **shape)
    else:
        policy = LogitPolicy(inputs, distribution, encoder=encoder, **shape)
    policy.to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(policy.parameters()):
            parameter += (0.1 if encoder else 0.4) * normal(*parameter.shape, seed=1000 * seed + i, dtype=dtype)
    return policy


def random_batch(
    policy: Policy, *, samples: int = 24, seed: int = 1, observation_size: int = OBSERVATION_SIZE
) -> Batch:
    """Samples of the policy itself, with advantages that mean nothing."""
    dtype = next(policy.parameters()).dtype
    if getattr(policy, "encoder", None) is not None:
        observations = random_parts(policy.distribution, samples, seed=seed, dtype=dtype)
    else:
        observations = normal(samples, observation_size, seed=seed, dtype=dtype)
    with torch.no_grad():
        old = at(policy, flatten(policy), observations)
    return Batch(
        observations=observations,
        actions=policy.distribution.sample(old, policy.distribution.noise(samples, generator(seed + 1), dtype)),
        old_parameters=old,
        advantages=normal(samples, seed=seed + 2, dtype=dtype),
        returns=torch.zeros(samples, dtype=dtype),
    )


def action_values(config: ActionValuesConfig, size: int, distribution: Distribution, *, seed: int = 0) -> ActionValues:
    """Real networks, for observations of one vector."""
    whole = Config(seed=seed, action_values=config)
    return make_action_values(whole, observations=Leaf(Kind.VECTOR, (size,)), distribution=distribution)


class Bandit(Policy):
    """One state, softmax over K arms: θ is the logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.distribution = Categorical((len(logits),))
        self.logits = nn.Parameter(logits)

    def forward(self, observations: Tensor) -> Tensor:
        return self.logits.expand(len(observations), -1)


class FixedStd(Policy):
    """μ = Ws and a fixed σ: the KL is exactly quadratic in θ."""

    def __init__(self, weight: Tensor, std: float = 1.0) -> None:
        super().__init__()
        self.distribution = DiagonalGaussian(len(weight))
        self.weight = nn.Parameter(weight)
        self.std = std

    def forward(self, observations: Tensor) -> Tensor:
        mean = observations @ self.weight.T
        return torch.cat([mean, torch.full_like(mean, math.log(self.std))], dim=-1)


def at(policy: Policy, theta: Tensor, observations: Tensor) -> Tensor:
    """y (N, D) of the policy with the parameters θ."""
    return functional_call(policy, unflatten(theta, policy), (observations,))


def rounding(policy: Policy) -> float:
    """How far θ seems to have moved, a length, where a forward pass sums in another order.

    A sum of n products is, in any order, the exact one with each factor off by at most n·ε of itself (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, section 3.1). Here n is the fan-in and the bias of every layer, and
    each of the two passes is off.
    """
    theta = flatten(policy)
    terms = sum(parameter[0].numel() + 1 for parameter in policy.parameters() if parameter.dim() >= 2)
    return 2 * terms * torch.finfo(theta.dtype).eps * float(theta.norm())


def kl_rounding(distribution: Distribution) -> float:
    """How far below 0 a KL may come out, in float64.

    In each action dimension probabilities that sum to 1, the old ones and the new ones, are exponentials of log-probs:
    both functions are off by 1 or 2 ε.
    """
    return 2 * (2 + 2) * distribution.action_size * torch.finfo(torch.float64).eps


class CensoredNormal:
    """A normal clipped to limits, from torch's density and tails; what lies inside by quadrature over its bulk."""

    def __init__(self, drawn: td.Normal, low: float, high: float, nodes: int = 64) -> None:
        self.drawn, self.low, self.high = drawn, low, high
        places, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(nodes))
        mean, std = drawn.mean.detach(), drawn.stddev.detach()
        first, last = (torch.clamp(mean + side * 9 * std, low, high) for side in (-1, 1))
        half = (last - first) / 2
        self.places = torch.cat(
            [mean.new_tensor([[low], [high]]).expand(2, len(mean)), self.across(places, first, half)]
        )
        self.weights = torch.cat([mean.new_ones(2, len(mean)), weights[:, None] * half])

    @staticmethod
    def across(places: Tensor, first: Tensor, half: Tensor) -> Tensor:
        return first + half * (1 + places[:, None])

    def log_prob(self, actions: Tensor) -> Tensor:
        below, above = (
            torch.special.log_ndtr(side * (limit - self.drawn.mean) / self.drawn.stddev)
            for side, limit in ((1, self.low), (-1, self.high))
        )
        inside = self.drawn.log_prob(actions)
        return torch.where(actions <= self.low, below, torch.where(actions >= self.high, above, inside))

    def entropy(self) -> Tensor:
        return self.drawn.entropy()  # of the draws, as the package has it

    def kl(self, other: "CensoredNormal") -> Tensor:
        ours = self.log_prob(self.places)
        return (self.weights * ours.exp() * (ours - other.log_prob(self.places))).sum(0)

    def actions_and_weights(self) -> tuple[Tensor, Tensor]:
        return self.places[:, 0], (self.weights * self.log_prob(self.places).exp())[:, 0]


def kl_gradient_rounding(distribution: Distribution) -> float:
    """How far from 0 a derivative of the KL may come out at θ_old: those of clipped normals are sums that cancel."""
    return 1e-15 if isinstance(distribution, CensoredGaussian) else 0.0


def components(distribution: Distribution, parameters: Tensor) -> list[Any]:
    """The product of torch.distributions that `parameters` (N, D) stand for, one factor per action dimension."""
    if isinstance(distribution, CensoredGaussian):
        normals = components(DiagonalGaussian(distribution.action_size), parameters)
        cut = zip(normals, distribution.low, distribution.high, strict=True)
        return [CensoredNormal(drawn, low, high) for drawn, low, high in cut]
    if isinstance(distribution, DiagonalGaussian):
        means, log_stds = parameters.chunk(2, dim=-1)
        pairs = zip(means.unbind(-1), log_stds.exp().unbind(-1), strict=True)
        return [td.Normal(mean, std, validate_args=False) for mean, std in pairs]
    if isinstance(distribution, Bernoulli):
        return [td.Bernoulli(logits=logit, validate_args=False) for logit in parameters.unbind(-1)]
    return [td.Categorical(logits=logits, validate_args=False) for logits in parameters.split(distribution.sizes, -1)]


def log_prob(distribution: Distribution, parameters: Tensor, actions: Tensor) -> Tensor:
    factors = components(distribution, parameters)
    return sum(factor.log_prob(actions[:, i]) for i, factor in enumerate(factors))


def kl(distribution: Distribution, old: Tensor, new: Tensor) -> Tensor:
    pairs = zip(components(distribution, old), components(distribution, new), strict=True)
    return sum(p.kl(q) if isinstance(p, CensoredNormal) else td.kl_divergence(p, q) for p, q in pairs)


def entropy(distribution: Distribution, parameters: Tensor) -> Tensor:
    return sum(factor.entropy() for factor in components(distribution, parameters))


def surrogate(policy: Policy, theta: Tensor, batch: Batch) -> Tensor:
    """L(θ) = mean[(π_θ/π_old) Â]."""
    new = log_prob(policy.distribution, at(policy, theta, batch.observations), batch.actions)
    old = log_prob(policy.distribution, batch.old_parameters, batch.actions)
    return ((new - old).exp() * batch.advantages).mean()


def actions_and_weights(distribution: Distribution, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Actions (K, A) and weights (K,) with Σ w f(a) = E[f(a)] for one row of parameters (D,).

    All actions with their probabilities; for normals, Gauss–Hermite nodes, exact for polynomials up to degree 9.
    """
    if isinstance(distribution, DiagonalGaussian):
        mean, log_std = parameters.chunk(2)
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
        grid = torch.tensor(list(itertools.product(nodes, repeat=len(mean))))
        products = [math.prod(w) for w in itertools.product(weights / weights.sum(), repeat=len(mean))]
        return mean + log_std.exp() * grid, torch.tensor(products, dtype=parameters.dtype)
    sizes = distribution.sizes if isinstance(distribution, Categorical) else (2,) * distribution.action_size
    actions = torch.tensor(list(itertools.product(*map(range, sizes))), dtype=parameters.dtype)
    return actions, log_prob(distribution, parameters.expand(len(actions), -1), actions).exp()


def dense_metric(distribution: Distribution, parameters: Tensor) -> Tensor:
    """M (D, D) of one row of parameters (D,) as the covariance of the score, E[∇log π ∇log πᵀ]."""
    if isinstance(distribution, CensoredGaussian):
        return dense_censored_metric(distribution, parameters)
    actions, weights = actions_and_weights(distribution, parameters)
    score = torch.autograd.functional.jacobian(
        lambda y: log_prob(distribution, y.expand(len(actions), -1), actions), parameters
    )
    return score.T @ (weights.unsqueeze(-1) * score)


def dense_censored_metric(distribution: CensoredGaussian, parameters: Tensor) -> Tensor:
    """M (D, D) of clipped normals, a block of two for each dimension."""
    size, metric = distribution.action_size, parameters.new_zeros(len(parameters), len(parameters))
    for i, (low, high) in enumerate(zip(distribution.low, distribution.high, strict=True)):
        block, one = [i, size + i], CensoredGaussian(1, (low,), (high,))
        actions, weights = components(one, parameters[block].unsqueeze(0))[0].actions_and_weights()
        rows = parameters[block].detach().expand(len(actions), -1).clone().requires_grad_()
        (score,) = torch.autograd.grad(log_prob(one, rows, actions.unsqueeze(-1)).sum(), rows)
        metric[np.ix_(block, block)] = score.T @ (weights.unsqueeze(-1) * score)
    return metric


def dense_fisher(policy: Policy, theta: Tensor, observations: Tensor) -> Tensor:
    """F (P, P) = mean of JᵀMJ, every factor dense."""
    y = at(policy, theta, observations)
    jacobians = torch.autograd.functional.jacobian(lambda t: at(policy, t, observations), theta)
    metrics = torch.stack([dense_metric(policy.distribution, row) for row in y])
    return torch.einsum("ndp,nde,neq->pq", jacobians, metrics, jacobians) / len(observations)


def dense_kl_hessian(policy: Policy, theta: Tensor, observations: Tensor, old: Tensor) -> Tensor:
    """∂²/∂θ² (P, P) of the mean KL(old ‖ π_θ) of torch.distributions."""
    mean_kl = lambda t: kl(policy.distribution, old, at(policy, t, observations)).mean()  # noqa: E731
    return torch.autograd.functional.hessian(mean_kl, theta)
