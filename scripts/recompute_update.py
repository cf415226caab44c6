"""Recompute the KL figures and the improvement of a dumped policy update in float64, with nothing but NumPy.

    trpo-train task=halfcheetah record.dump_every=50
    python scripts/recompute_update.py RUN_DIR/dumps/*.npz

It shares no code with the package: the network, its directional derivative, the KL, the quadratic form and both
surrogates are written out again below, for Gaussian policies with tanh layers. Rejected updates are named and left out.
Exit code 1 if a figure of the KL is off by more than 1e-5 of it, or the improvement by more than 1e-4 of itself, and if
there is nothing to recompute.
"""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import censored_normals
import numpy as np
from censored_normals import Normal

TOLERANCE = 1e-5  # of the KL
OF_IMPROVEMENT = 1e-4  # of itself

Layers = list[tuple[np.ndarray, np.ndarray]]
Arrays = dict[str, np.ndarray]


class RejectedError(Exception):
    """An update that left θ as it was."""


def main() -> int:
    """Print logged and recomputed figures of every dump; return 1 if any differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dumps", type=Path, nargs="+", metavar="DUMP")
    agreements, rejected = [], []
    for path in parser.parse_args().dumps:
        try:
            logged, recomputed = figures(path)
        except RejectedError as error:
            rejected.append(str(error))
            continue
        print(path)
        agreements.append(compare(logged, recomputed))
    print("\n".join(rejected), end="\n" if rejected else "", file=sys.stderr)
    return int(not agreements or not all(agreements))


def compare(logged: dict[str, float], recomputed: dict[str, float]) -> bool:
    """Print the figures of one update side by side; return whether they agree."""
    agrees = True
    for name, value in recomputed.items():
        unit, tolerance = ("the KL", TOLERANCE) if name.startswith("kl") else ("it", OF_IMPROVEMENT)
        difference = abs(value - logged[name]) / abs(recomputed["kl"] if name.startswith("kl") else logged[name])
        agrees &= difference <= tolerance  # a NaN is no agreement
        print(f"  {name:<14} logged {logged[name]: .9e}   recomputed {value: .9e}   off by {difference:.1e} of {unit}")
    return agrees


def figures(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the logged and the recomputed figures of one accepted update. Raises `RejectedError` for another."""
    with np.load(path, allow_pickle=False) as dump:
        description = json.loads(str(dump["description"]))
        if "observations" not in dump or any("encoder" in name for name in description["theta"]):
            raise SystemExit(f"{path}: only policies that see one vector are written out here")
        observations = dump["observations"].astype(np.float64)
        old, new = dump["theta_old"].astype(np.float64), dump["theta_new"].astype(np.float64)
        arrays = {name: dump[name].astype(np.float64) for name in dump.files if name != "description"}
    arrays.setdefault("censored_at", np.array([[-np.inf], [np.inf]]))
    if description["policy"].get("network"):
        raise SystemExit(f"{path}: a network of one's own is not written out here")
    if description["policy"]["activation"] != "tanh" or "Gaussian" not in description["distribution"]:
        raise SystemExit(f"{path}: only Gaussian policies with tanh layers are written out here")
    if description["policy"].get("final_std_scale", 1.0) != 1.0:
        raise SystemExit(f"{path}: a σ on a schedule is not written out here")
    if description["outcome"] != "accepted":
        raise RejectedError(f"{path}: this update was rejected, there is nothing to recompute")
    floor = description["policy"]["min_log_std"]
    rho, layers = unpack(old, description["theta"])
    new_rho, new_layers = unpack(new, description["theta"])
    step_rho, step_layers = unpack(new - old, description["theta"])

    mean, rho, mean_step, step_rho = outputs(observations, layers, step_layers, rho, step_rho)
    new_mean, new_rho, *_ = outputs(observations, new_layers, step_layers, new_rho, step_rho)
    log_std, new_log_std = floor + np.logaddexp(0, rho), floor + np.logaddexp(0, new_rho)
    log_std_step = step_rho / (1 + np.exp(-rho))  # the derivative of softplus is the sigmoid

    before, after = (mean, np.exp(log_std)), (new_mean, np.exp(new_log_std))
    limits = tuple(arrays["censored_at"])
    kl = np.mean(np.sum(censored_normals.kl(before, after, limits), axis=1))
    quadratic = 0.5 * np.mean(np.sum(censored_normals.metric_form(before, mean_step, log_std_step, limits), axis=1))
    gain = pathwise_gain(arrays, description, before, after) if "noise" in arrays else score_gain(arrays, before, after)
    gain += entropy_gain(arrays, before, after) if "entropy_weight" in arrays else 0.0
    figures = {"kl": kl, "kl_quadratic": quadratic, "kl_error": kl - quadratic, "improvement": float(gain)}
    return description["figures"], figures


def score_gain(arrays: Arrays, before: Normal, after: Normal) -> float:
    """Return mean[(π_θ/π_old − 1) Â]."""
    old, new = (
        censored_normals.log_probs(arrays["actions"], normal, tuple(arrays["censored_at"])).sum(1)
        for normal in (before, after)
    )
    return float(np.mean(np.expm1(new - old) * arrays["advantages"]))


def entropy_gain(arrays: Arrays, before: Normal, after: Normal) -> float:
    """Return β mean[Σ log σ_θ − log σ_old]: what else a normal's entropy has is a constant."""
    old, new = (np.mean(np.sum(np.log(std), axis=-1)) for _, std in (before, after))
    return float(arrays["entropy_weight"] * (new - old))


def pathwise_gain(arrays: Arrays, description: dict[str, Any], before: Normal, after: Normal) -> float:
    """Return mean[Q(s, clip(μ_θ + σ_θ ε)) − Q(s, clip(μ_old + σ_old ε))], Q the mean of its networks."""
    low, high = arrays["bounds"]
    states, worth = arrays["observations"], []
    for mean, std in (before, after):
        drawn = mean[:, None] + std.reshape(-1, 1, std.shape[-1]) * arrays["noise"]  # (N, K, A)
        squashed = arrays.get("squashed", np.zeros_like(low)) > 0
        actions = np.where(squashed, np.tanh(drawn), np.clip(drawn, low, high))
        rows = np.concatenate([np.repeat(states[:, None], actions.shape[1], axis=1), actions], axis=2)
        worth.append(action_values(arrays, rows.reshape(-1, rows.shape[2]), description))
    return float(np.mean(worth[1] - worth[0]))


def action_values(arrays: Arrays, rows: np.ndarray, description: dict[str, Any]) -> np.ndarray:
    """Return the mean of the networks' values: linear layers, each but the last normalised, then x · sigmoid(x).

    The last one's outputs are logits of bins, or the value.
    """
    theta, centres = arrays["action_values_theta"], arrays.get("action_values_centres", np.ones(1))
    networks = description["action_values"]["networks"]
    sizes = [rows.shape[1], *description["action_values"]["hidden_sizes"], len(centres)]
    start, h = 0, np.repeat(rows[None], networks, axis=0)

    def take(*shape: int) -> np.ndarray:
        nonlocal start
        part = theta[start : start + int(np.prod(shape))].reshape(shape)
        start += part.size
        return part

    for layer, (i, o) in enumerate(pairwise(sizes)):
        weight, bias = take(networks, i, o), take(networks, 1, o)
        h = h @ weight + bias
        if layer < len(sizes) - 2:
            gain, shift = take(networks, 1, o), take(networks, 1, o)
            h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5) * gain + shift
            h = h / (1 + np.exp(-h))
    if len(centres) > 1:
        h = np.exp(h - h.max(-1, keepdims=True))
        h = h @ centres[:, None] / h.sum(-1, keepdims=True)
    mean: np.ndarray = h[..., 0].mean(0)
    return mean


def unpack(theta: np.ndarray, shapes: dict[str, list[int]]) -> tuple[np.ndarray, Layers]:
    """Return ρ, empty if it is of the state, and the (weight, bias) of every layer from θ."""
    parts, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        parts[name] = theta[start : start + size].reshape(shape)
        start += size
    weights = [name for name in parts if name.endswith("weight")]
    return parts.get("rho", np.zeros(0)), [(parts[name], parts[name.replace("weight", "bias")]) for name in weights]


def outputs(
    x: np.ndarray, layers: Layers, step: Layers, rho: np.ndarray, step_rho: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return means and ρ with their directional derivatives; ρ is the network's second half if it is of the state."""
    out, out_step = forward(x, layers, step)
    if len(rho):
        return out, rho, out_step, step_rho
    size = out.shape[1] // 2
    return out[:, :size], out[:, size:], out_step[:, :size], out_step[:, size:]


def forward(x: np.ndarray, layers: Layers, step: Layers) -> tuple[np.ndarray, np.ndarray]:
    """Return the network's output and its directional derivative along a step in the weights."""
    dx = np.zeros_like(x)
    for index, ((weight, bias), (d_weight, d_bias)) in enumerate(zip(layers, step, strict=True)):
        dx = dx @ weight.T + x @ d_weight.T + d_bias
        x = x @ weight.T + bias
        if index < len(layers) - 1:
            x = np.tanh(x)
            dx = (1 - x**2) * dx
    return x, dx


if __name__ == "__main__":
    sys.exit(main())
