"""Distributions over actions as pure functions of their parameters.

A distribution is data: a tensor of parameters (N, D), computed once, stored, compared later. The objects here hold
sizes only. Everything is joint over the action dimensions (summed, never averaged, so δ means the same in one
dimension and in seventeen) and per row: the caller averages over states. KL divergences are in nats, old policy
first, and computed in float64: near θ_old they are differences of nearly equal numbers.

The metric M is ∂²KL(y ‖ y')/∂y'² at y' = y, the Fisher information of the distribution in its own parameters.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trpo.numerics.fisher import Product


class Distribution(Protocol):
    """What a policy needs to know about its action distribution."""

    @property
    def parameter_size(self) -> int:
        """D, the width of the parameters."""
        ...

    @property
    def action_size(self) -> int:
        """A, the width of an action."""
        ...

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return log π(a) (N,) of actions (N, A)."""
        ...

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return KL(old ‖ new) (N,) in nats, float64."""
        ...

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return the entropy (N,) in nats (differential entropy for densities)."""
        ...

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the most probable actions (N, A)."""
        ...

    def noise(self, rows: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return what `sample` needs for so many rows (N, …), drawn from `generator` alone, on its device."""
        ...

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return one action per row (N, A), a function of the parameters and of `noise`."""
        ...

    def metric(self, parameters: Tensor) -> Product:
        """Return the map of u (N, D) to Mu (N, D), with M the metric at `parameters`: what u does not change, once."""
        ...


HALF_LOG_TAU = 0.9189385332046727  # ½ log 2π


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normals; parameters are [μ, log σ] (N, 2A), actions (N, A)."""

    action_size: int

    @property
    def parameter_size(self) -> int:
        """2A."""
        return 2 * self.action_size

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return Σ −½((a − μ)/σ)² − log σ − ½ log 2π."""
        mean, log_std = parameters.chunk(2, dim=-1)
        z = (actions - mean) * torch.exp(-log_std)
        return (-0.5 * z**2 - log_std - HALF_LOG_TAU).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return Σ ½(e^{2d} − 1 − 2d) + ½((μ − μ')/σ')² with d = log σ − log σ'.

        Each term is non-negative and none subtracts σ²/σ'² from 1; the usual form does, and in float32 is then
        wrong by 3e-5 of the KL of a TRPO step. The gradient at new = old is exactly zero.
        """
        mean, log_std = old.double().chunk(2, dim=-1)
        new_mean, new_log_std = new.double().chunk(2, dim=-1)
        d = log_std - new_log_std
        shift = (mean - new_mean) * torch.exp(-new_log_std)
        return 0.5 * (torch.expm1(2 * d) - 2 * d + shift**2).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return Σ log σ + ½ log 2πe."""
        return (parameters.chunk(2, dim=-1)[1] + HALF_LOG_TAU + 0.5).sum(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return μ."""
        return parameters.chunk(2, dim=-1)[0]

    def noise(self, rows: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return ε, standard normal (N, A)."""
        return torch.empty(rows, self.action_size, dtype=dtype, device=generator.device).normal_(generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return μ + σε."""
        mean, log_std = parameters.chunk(2, dim=-1)
        return mean + log_std.exp() * noise

    def metric(self, parameters: Tensor) -> Product:
        """Return u ↦ [u_μ / σ², 2 u_{log σ}]."""
        precision = torch.exp(-2 * parameters.chunk(2, dim=-1)[1])

        def product(u: Tensor) -> Tensor:
            u_mean, u_log_std = u.chunk(2, dim=-1)
            return torch.cat([u_mean * precision, 2 * u_log_std], dim=-1)

        return product


@dataclass(frozen=True)
class Categorical:
    """Independent categoricals, one per action dimension: Discrete has one, MultiDiscrete several.

    Parameters are the logits of all dimensions side by side (N, Σ sizes); actions (N, A) count from 0.
    """

    sizes: tuple[int, ...]

    @property
    def action_size(self) -> int:
        """One per categorical."""
        return len(self.sizes)

    @property
    def parameter_size(self) -> int:
        """Σ sizes."""
        return sum(self.sizes)

    def _log_probs(self, parameters: Tensor) -> list[Tensor]:
        return [torch.log_softmax(logits, dim=-1) for logits in parameters.split(self.sizes, dim=-1)]

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return Σ log softmax(logits)_a."""
        chosen = [
            log_probs.gather(-1, actions[:, i : i + 1].long())
            for i, log_probs in enumerate(self._log_probs(parameters))
        ]
        return torch.cat(chosen, dim=-1).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return Σ (q − p) − p(log q − log p), p old and q new.

        The (q − p) sum to zero; they are there so that each term is non-negative and the gradient at new = old,
        q − p, is zero term by term.
        """
        terms = [
            (q_log.exp() - p_log.exp()) - p_log.exp() * (q_log - p_log)
            for p_log, q_log in zip(self._log_probs(old.double()), self._log_probs(new.double()), strict=True)
        ]
        return torch.cat(terms, dim=-1).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return −Σ p log p."""
        return -torch.cat([p_log.exp() * p_log for p_log in self._log_probs(parameters)], dim=-1).sum(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return the largest logit of each dimension."""
        return torch.stack([logits.argmax(-1) for logits in parameters.split(self.sizes, dim=-1)], dim=-1)

    def noise(self, rows: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return E, standard exponential (N, Σ sizes)."""
        empty = torch.empty(rows, self.parameter_size, dtype=dtype, device=generator.device)
        return empty.exponential_(generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return argmax(logits − log E): the Gumbel trick without a normalisation."""
        return self.mode(parameters - noise.log())

    def metric(self, parameters: Tensor) -> Product:
        """Return u ↦ p∘u − p(pᵀu) in each dimension, with u counted from that of the most probable choice.

        What all of u have in common drops out. Where one p is nearly 1, pᵀu is nearly its u, and of the difference of
        two such numbers only rounding would be left: in float32 the product was wrong, and uᵀMu negative.
        """
        dimensions = [
            (torch.softmax(logits, dim=-1), logits.argmax(-1, keepdim=True))
            for logits in parameters.split(self.sizes, dim=-1)
        ]

        def product(u: Tensor) -> Tensor:
            products = []
            for (p, most), part in zip(dimensions, u.split(self.sizes, dim=-1), strict=True):
                d = part - part.gather(-1, most)
                products.append(p * (d - (p * d).sum(-1, keepdim=True)))
            return torch.cat(products, dim=-1)

        return product


@dataclass(frozen=True)
class Bernoulli:
    """Independent bits; parameters are their logits (N, A), actions (N, A) of 0 and 1."""

    action_size: int

    @property
    def parameter_size(self) -> int:
        """A."""
        return self.action_size

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Return Σ log sigmoid(±logit)."""
        return torch.nn.functional.logsigmoid(parameters * (2 * actions - 1)).sum(-1)

    def kl(self, old: Tensor, new: Tensor) -> Tensor:
        """Return Σ (q − p) − p(log q − log p) over the two outcomes of each bit: `Categorical` with two logits."""
        log_sigmoid = torch.nn.functional.logsigmoid
        terms = []
        for sign in (1, -1):  # one, zero
            p_log, q_log = log_sigmoid(sign * old.double()), log_sigmoid(sign * new.double())
            terms.append((q_log.exp() - p_log.exp()) - p_log.exp() * (q_log - p_log))
        return (terms[0] + terms[1]).sum(-1)

    def entropy(self, parameters: Tensor) -> Tensor:
        """Return Σ −p log p − (1 − p) log(1 − p)."""
        log_sigmoid = torch.nn.functional.logsigmoid
        ones = torch.sigmoid(parameters) * log_sigmoid(parameters)
        zeros = torch.sigmoid(-parameters) * log_sigmoid(-parameters)
        return -(ones + zeros).sum(-1)

    def mode(self, parameters: Tensor) -> Tensor:
        """Return logit > 0."""
        return (parameters > 0).to(parameters.dtype)

    def noise(self, rows: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return U, uniform in [0, 1) (N, A)."""
        return torch.empty(rows, self.action_size, dtype=dtype, device=generator.device).uniform_(generator=generator)

    def sample(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return U < sigmoid(logit)."""
        return (noise < torch.sigmoid(parameters)).to(parameters.dtype)

    def metric(self, parameters: Tensor) -> Product:
        """Return u ↦ p(1 − p)u."""
        variance = torch.sigmoid(parameters) * torch.sigmoid(-parameters)
        return lambda u: variance * u
