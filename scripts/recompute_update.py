"""Recompute the KL figures of a dumped policy update in float64, with nothing but NumPy.

    trpo-train task=halfcheetah record.dump_every=50
    python scripts/recompute_update.py RUN_DIR/dumps/*.npz

It shares no code with the package: the network, its directional derivative, the KL and the quadratic form are written
out again below, for Gaussian policies with tanh layers. Exit code 1 if a figure is off by more than 1e-5 of the KL.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

TOLERANCE = 1e-5  # of the KL

Layers = list[tuple[np.ndarray, np.ndarray]]


def main() -> int:
    """Print logged and recomputed figures of every dump; return 1 if any differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dumps", type=Path, nargs="+", metavar="DUMP")
    agrees = True
    for path in parser.parse_args().dumps:
        logged, recomputed = figures(path)
        print(path)
        for name, value in recomputed.items():
            difference = abs(value - logged[name]) / recomputed["kl"]
            agrees &= difference <= TOLERANCE  # a NaN is no agreement
            print(
                f"  {name:<14} logged {logged[name]: .9e}   recomputed {value: .9e}   off by {difference:.1e} of the KL"
            )
    return int(not agrees)


def figures(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the logged and the recomputed figures of one accepted update."""
    with np.load(path, allow_pickle=False) as dump:
        description = json.loads(str(dump["description"]))
        observations = dump["observations"].astype(np.float64)
        old, new = dump["theta_old"].astype(np.float64), dump["theta_new"].astype(np.float64)
    if description["policy"]["activation"] != "tanh" or "Gaussian" not in description["distribution"]:
        raise SystemExit(f"{path}: only Gaussian policies with tanh layers are written out here")
    if description["outcome"] != "accepted":
        raise SystemExit(f"{path}: this update was rejected, there is nothing to recompute")
    floor = description["policy"]["min_log_std"]
    rho, layers = unpack(old, description["theta"])
    new_rho, new_layers = unpack(new, description["theta"])
    step_rho, step_layers = unpack(new - old, description["theta"])

    mean, mean_step = forward(observations, layers, step_layers)
    new_mean, _ = forward(observations, new_layers, step_layers)
    log_std, new_log_std = floor + np.logaddexp(0, rho), floor + np.logaddexp(0, new_rho)
    log_std_step = step_rho / (1 + np.exp(-rho))  # the derivative of softplus is the sigmoid

    kl = np.mean(np.sum(gaussian_kl(mean, log_std, new_mean, new_log_std), axis=1))
    metric_form = (mean_step / np.exp(log_std)) ** 2 + 2 * log_std_step**2  # (Js)ᵀM(Js), M = diag(1/σ², 2)
    quadratic = 0.5 * np.mean(np.sum(metric_form, axis=1))
    return description["figures"], {"kl": kl, "kl_quadratic": quadratic, "kl_error": kl - quadratic}


def unpack(theta: np.ndarray, shapes: dict[str, list[int]]) -> tuple[np.ndarray, Layers]:
    """Return ρ and the (weight, bias) of every layer from θ."""
    parts, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        parts[name] = theta[start : start + size].reshape(shape)
        start += size
    weights = [name for name in parts if name.endswith("weight")]
    return parts["rho"], [(parts[name], parts[name.replace("weight", "bias")]) for name in weights]


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


def gaussian_kl(mean: np.ndarray, log_std: np.ndarray, new_mean: np.ndarray, new_log_std: np.ndarray) -> np.ndarray:
    """Return log(σ'/σ) + (σ² + (μ − μ')²) / 2σ'² − ½, the textbook form."""
    variance, new_variance = np.exp(2 * log_std), np.exp(2 * new_log_std)
    kl: np.ndarray = new_log_std - log_std + (variance + (mean - new_mean) ** 2) / (2 * new_variance) - 0.5
    return kl


if __name__ == "__main__":
    sys.exit(main())
