"""The picture of one policy step, from plain data."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

MARKERS = {"accepted": ("o", "tab:green"), "kl_too_large": ("x", "tab:red")}
OTHER_MARKER = ("v", "tab:purple")


def draw_profile(profile: Mapping[str, Any], title: str) -> Figure:
    """Return panels of KL and surrogate along the step, the residual of the solve, and if there are any, the halves."""
    halves = profile.get("halves")  # earlier profiles have none
    figure = Figure(figsize=(17 if halves else 13, 4.2), layout="constrained")
    kl, surrogate, residual, *last = figure.subplots(1, 4 if halves else 3)
    figure.suptitle(f"{title}: {profile['outcome']}")
    fractions = profile["fractions"]

    kl.plot(fractions, profile["kl"], label="exact", color="tab:blue")
    kl.plot(fractions, profile["kl_quadratic"], label="quadratic: ½t²sᵀFs", color="tab:orange")
    kl.plot(fractions, profile["kl_cubic"], label="with the cubic term", color="tab:orange", linestyle=":")
    kl.axhline(profile["max_kl"], color="black", linestyle="--", linewidth=1, label="allowed: δ")
    mark_candidates(kl, profile["candidates"], "kl")
    kl.set(xlabel="fraction t of the full step", ylabel="KL(old ‖ new), nats", title="KL along the step")
    kl.set_ylim(0, 1.1 * max(value for value in (*profile["kl"], profile["max_kl"]) if value is not None))
    kl.legend(fontsize="small")

    surrogate.plot(fractions, profile["improvement"], label="exact", color="tab:blue")
    surrogate.plot(fractions, profile["improvement_linear"], label="linear: t gᵀs", color="tab:orange")
    mark_candidates(surrogate, profile["candidates"], "improvement")
    surrogate.set(xlabel="fraction t of the full step", ylabel="L(new) − L(old)", title="Surrogate along the step")
    surrogate.legend(fontsize="small")

    residual.semilogy(range(len(profile["cg_residuals"])), profile["cg_residuals"], marker=".")
    residual.set(xlabel="Fisher products", ylabel="relative residual", title="Conjugate gradient")
    if halves:
        draw_halves(last[0], halves)
    for panel in figure.axes:
        panel.grid(alpha=0.3)
    return figure


def draw_halves(panel: Axes, halves: Mapping[str, Any]) -> None:
    """Draw what a step chosen on half of the batch promises, and what the other half says, over dampings."""
    panel.semilogx(halves["relative_dampings"], halves["promised"], marker=".", color="tab:orange", label="promised")
    panel.semilogx(halves["relative_dampings"], halves["kept"], marker=".", color="tab:blue", label="kept")
    panel.axhline(0, color="black", linewidth=1)
    panel.set(xlabel="relative damping", ylabel="gain per √nat, std of the advantage", title="One half by the other")
    panel.legend(fontsize="small")


def mark_candidates(panel: Axes, candidates: list[dict[str, Any]], height: str) -> None:
    """Mark what the line search tried, by verdict; each verdict has one entry in the legend."""
    labelled = set()
    for candidate in candidates:
        verdict = candidate["verdict"]
        marker, color = MARKERS.get(verdict, OTHER_MARKER)
        label = None if verdict in labelled else verdict.replace("_", " ")
        labelled.add(verdict)
        value = math.nan if candidate[height] is None else candidate[height]  # NaN: nothing but the legend
        panel.plot([candidate["fraction"]], [value], marker, color=color, label=label, linestyle="")
