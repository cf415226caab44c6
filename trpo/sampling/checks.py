"""What an environment must not give, said so that its author finds it."""

import numpy as np

from trpo.models.observations import MASK


def check_finite(signal: str, values: np.ndarray, numbers: range, step: int) -> None:
    """Raise `FloatingPointError` naming the value (B, …) that is not finite; a sum of finite ones may not be."""
    for environment, *component in np.argwhere(~np.isfinite(values)).tolist():
        name = signal + "".join(f"[{i}]" for i in component) + f" of environment {numbers[environment]}"
        raise FloatingPointError(
            f"{name} is {float(values[environment, *component])} after its step {step} of this run: "
            "the environment is broken, or it left its numeric range"
        )


def check_masks(masks: np.ndarray, sizes: tuple[int, ...], over: np.ndarray, numbers: range, step: int) -> None:
    """Raise `RuntimeError` naming an environment that allows nothing in some dimension of its actions.

    Masks (B, Σ sizes) have the choices of one dimension after those of the other; `over` says whose episode is (B,).
    """
    firsts = np.cumsum((0, *sizes[:-1]))
    possible = np.logical_or.reduceat(masks, firsts, axis=1).all(1) | over
    where = " in one dimension" if len(sizes) > 1 else ""
    for environment in np.flatnonzero(~possible).tolist():
        raise RuntimeError(
            f"environment {numbers[environment]} allows no action after its step {step} of this run: its {MASK} is all "
            f"zeros{where}, and its episode has not ended"
        )
