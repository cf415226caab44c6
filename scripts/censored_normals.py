"""KL, metric and log-probabilities of normals whose draws are clipped, written out in NumPy for `recompute_update.py`.

Arrays are (N, A) but for the limits (A,). In units of z = (a − μ)/σ a limit further out than `FAR` is none.
"""

import math

import numpy as np

FAR = 40.0
LEAST = 1e-300  # below it a probability is none
Limits = tuple[np.ndarray, np.ndarray]
Normal = tuple[np.ndarray, np.ndarray]  # means and standard deviations


def log_probs(actions: np.ndarray, normal: Normal, limits: Limits) -> np.ndarray:
    """Return the log density inside the limits, and at one the log probability of all that lies beyond."""
    (mean, std), (low, high), (alpha, beta) = normal, limits, cut(normal, limits)
    density = -(((actions - mean) / std) ** 2) / 2 - np.log(std) - math.log(2 * math.pi) / 2
    below, above = log(cumulative(alpha)), log(cumulative(-beta))
    return np.where(actions <= low, below, np.where(actions >= high, above, density))


def kl(old: Normal, new: Normal, limits: Limits) -> np.ndarray:
    """Return Σ P log(P/P') of what lies beyond each limit, and ∫ p log(p/p') inside.

    Inside, log(p/p') is the polynomial log(σ'/σ) − z²/2 + (μ − μ' + σz)²/2σ'² of z.
    """
    (mean, std), (new_mean, new_std) = old, new
    (alpha, beta), (new_alpha, new_beta) = cut(old, limits), cut(new, limits)
    m0, m1, m2, *_ = inner_moments(alpha, beta)
    shift = mean - new_mean
    squares = shift**2 * m0 + 2 * shift * std * m1 + std**2 * m2
    divergence: np.ndarray = np.log(new_std / std) * m0 - m2 / 2 + squares / (2 * new_std**2)
    for z, new_z in ((alpha, new_alpha), (-beta, -new_beta)):
        divergence = divergence + cumulative(z) * (log(cumulative(z)) - log(cumulative(new_z)))
    return divergence


def metric_form(normal: Normal, mean_step: np.ndarray, log_std_step: np.ndarray, limits: Limits) -> np.ndarray:
    """Return (Js)ᵀM(Js) = E[(∇log p · Js)²] of steps in μ and log σ: inside, and at each limit.

    The score is (z/σ, z² − 1) inside, and ∓(1/σ, z) φ(z)/P at a limit.
    """
    (alpha, beta), step = cut(normal, limits), mean_step / normal[1]
    m0, m1, m2, m3, m4 = inner_moments(alpha, beta)
    form: np.ndarray = step**2 * m2 + 2 * step * log_std_step * (m3 - m1) + log_std_step**2 * (m4 - 2 * m2 + m0)
    for z, beyond in ((alpha, cumulative(alpha)), (beta, cumulative(-beta))):
        form = form + density(z) ** 2 / np.maximum(beyond, LEAST) * (step + z * log_std_step) ** 2
    return form


def cut(normal: Normal, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Return where the limits lie in units of z."""
    mean, std = normal
    alpha, beta = (np.clip((limit - mean) / std, -FAR, FAR) for limit in limits)
    return alpha, beta


def inner_moments(alpha: np.ndarray, beta: np.ndarray) -> list[np.ndarray]:
    """Return ∫ zᵏ φ(z) dz from α to β, k = 0 … 4."""
    ends = [alpha**k * density(alpha) - beta**k * density(beta) for k in range(4)]
    m0, m1 = cumulative(beta) - cumulative(alpha), ends[0]
    m2 = m0 + ends[1]
    return [m0, m1, m2, 2 * m1 + ends[2], 3 * m2 + ends[3]]


def density(z: np.ndarray) -> np.ndarray:
    """Return φ(z)."""
    values: np.ndarray = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return values


def cumulative(z: np.ndarray) -> np.ndarray:
    """Return Φ(z)."""
    return np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in z.ravel()]).reshape(z.shape)


def log(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms, finite for 0 as well."""
    values: np.ndarray = np.log(np.maximum(probabilities, LEAST))
    return values
