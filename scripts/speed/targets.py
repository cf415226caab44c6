"""The figures to reach, each a ratio of two medians of one run."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from speed.rows import Row, find
from speed.tables import number, table
from speed.training import RANK_SETTINGS

Rows = dict[str, list[Row]]  # by section
SB3_DEFAULT = "sb3-contrib TRPO, 1 env, 2 threads"


class Target(NamedTuple):
    """A ratio, and on which side of which bound it should be."""

    what: str
    bound: float
    at_least: bool
    measure: Callable[[Rows], tuple[float, float] | None]  # the two figures, or None if one is missing


def best(rows: list[Row], *starts: str, marked: str = "") -> float | None:
    """Return the highest median of the contestants whose names begin and are marked so."""
    found = [row.median for row in rows if row.contestant.startswith(starts) and marked in row.contestant]
    return max((value for value in found if value is not None), default=None)


def both(above: float | None, below: float | None) -> tuple[float, float] | None:
    """Return two figures, or None unless both are there."""
    return None if above is None or below is None else (above, below)


def rates(*ours: str, theirs: Iterable[str]) -> Callable[[Rows], tuple[float, float] | None]:
    """Return the measure of training rates: our best of these against their best of those."""
    return lambda rows: both(best(rows.get("training", []), *ours), best(rows.get("training", []), *theirs))


def medians(
    section: str, above: str, below: str, samples: int, threads: int
) -> Callable[..., tuple[float, float] | None]:
    """Return the measure of two contestants on one 64×64 case."""
    case: dict[str, int | str] = {"samples": samples, "hidden": "64×64", "threads": threads}
    return lambda rows: both(find(rows.get(section, []), above, **case), find(rows.get(section, []), below, **case))


def ranks(setting: str) -> Callable[[Rows], tuple[float, float] | None]:
    """Return the measure of two ranks against one, in one of the settings."""

    def measure(rows: Rows) -> tuple[float, float] | None:
        found = rows.get("ranks", [])
        return both(find(found, f"two ranks on two cores{setting}"), find(found, f"one rank on one core{setting}"))

    return measure


def peak_memory(rows: Rows) -> tuple[float, float] | None:
    """Return the peak in GiB of a process with one large update, and one."""
    peak = find(rows.get("memory", []), "whole process", samples=1_000_000)
    return None if peak is None else (peak / 1024, 1.0)


TARGETS = (
    Target("trpo on EnvPool / bare EnvPool's best", 0.5, True, rates("trpo, envpool", theirs=["bare EnvPool"])),
    Target(
        "trpo / sb3-contrib's best of 1 and 8 environments",
        3.5,
        True,
        rates("trpo, ", theirs=["sb3-contrib TRPO, 1 env,", "sb3-contrib TRPO, 8 envs"]),
    ),
    Target("trpo / sb3-contrib's default", 9.0, True, rates("trpo, ", theirs=[SB3_DEFAULT])),
    Target("trpo, pathwise / sb3-contrib's default", 1.0, True, rates("trpo, pathwise", theirs=[SB3_DEFAULT])),
    Target("trpo / tianshou's best", 4.0, True, rates("trpo, ", theirs=["tianshou"])),
    Target("trpo, sync / sb3-contrib, both 16 envs", 2.2, True, rates("trpo, sync", theirs=["sb3-contrib TRPO, 16"])),
    *(
        Target(f"policy update / sb3-contrib's, N = 2,048, {t} thread(s)", 0.45, False, measure)
        for t in (1, 2)
        for measure in [medians("update", "trpo", "sb3-contrib", 2_048, t)]
    ),
    *(
        Target(f"Fisher product / floor, N = {n:,}, {t} thread(s)", 1.5, False, measure)
        for n in (2_048, 25_000)
        for t in (1, 2)
        for measure in [medians("fisher", "trpo", "floor", n, t)]
    ),
    *(Target(f"two ranks on two cores / one on one{setting}", 1.6, True, ranks(setting)) for setting in RANK_SETTINGS),
    Target("peak of one update on 1,000,000 samples / GiB", 2.0, False, peak_memory),
)


def targets_table(rows: Rows) -> str:
    """Return a line for every target: the figures, their ratio, what to reach and whether it is."""
    lines = []
    for what, bound, at_least, measure in TARGETS:
        figures = measure(rows)
        if figures is None:
            lines.append([what, "not measured", "", f"{'≥' if at_least else '≤'} {bound:g}", ""])
            continue
        ratio = figures[0] / figures[1]
        reached = ratio >= bound if at_least else ratio <= bound
        shown = f"{number(figures[0])} / {number(figures[1])}"
        lines.append([what, shown, f"{ratio:.2f}", f"{'≥' if at_least else '≤'} {bound:g}", "yes" if reached else "no"])
    return table(["what", "figures", "ratio", "to reach", "reached"], lines)
