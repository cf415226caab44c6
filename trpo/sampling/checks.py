"""What an environment must not give, said so that its author finds it."""

import numpy as np

from trpo.models.observations import MASK

NOTHING_VALID = f"its {MASK} is all zeros, or those of one dimension of its actions, and its episode has not ended"


def check_finite(signal: str, values: np.ndarray, numbers: range, step: int) -> None:
    """Raise `FloatingPointError` naming the value (B, …) that is not finite; a sum of finite ones may not be."""
    for environment, *component in np.argwhere(~np.isfinite(values)).tolist():
        name = signal + "".join(f"[{i}]" for i in component) + f" of environment {numbers[environment]}"
        raise FloatingPointError(
            f"{name} is {float(values[environment, *component])} after its step {step} of this run: "
            "the environment is broken, or it left its numeric range"
        )


def check_masks(forbidding: np.ndarray, numbers: range, step: int) -> None:
    """Raise `RuntimeError` naming an environment whose mask allows nothing (B,) while its episode goes on."""
    for environment in np.flatnonzero(forbidding).tolist():
        raise RuntimeError(
            f"environment {numbers[environment]} allows no action after its step {step} of this run: {NOTHING_VALID}"
        )
