"""What the report says of promises, from rows that were written by hand."""

import math

import pytest

from trpo.record.promises import POINTS, describe_promises, draw_promises, per_root_nat
from trpo.record.runs import Run

KEPT = [0.01, 0.03, 0.02, 0.06]


def rows_of(kept, promised=0.2, kl=0.04, spread=0.5):
    """Rows of judged steps that each spent √0.04 · 0.5 = 0.1, one that judged nothing before them."""
    return [
        {"env_steps": 100},
        *(
            {
                "env_steps": 100 * (index + 2),
                "trust_region/improvement_kept": one,
                "trust_region/improvement_promised": promised,
                "trust_region/judged_kl": kl,
                "trust_region/advantage_std": spread,
                "trust_region/improvement_kept_sum": sum(kept[: index + 1]),
                "trust_region/improvement_promised_sum": promised * (index + 1),
            }
            for index, one in enumerate(kept)
        ),
    ]


def run_of(kept, name="run"):
    return Run(name, {"env.id": "Some-v0", "seed": 0}, rows_of(kept), {}, "finished", [], [])


def test_gains_per_root_nat_by_hand():
    """Kept 0.12 of spent 0.4; deviations from 0.03 are −2, 0, −1 and 3 hundredths: √(4/3 · 14e-4) / 0.4."""
    gains = per_root_nat(rows_of(KEPT))
    assert gains.promised == pytest.approx(2.0)
    assert gains.kept == pytest.approx(0.3)
    assert gains.error == pytest.approx(math.sqrt(4 / 3 * 14e-4) / 0.4)
    assert gains.told_apart


def test_a_step_that_spent_more_counts_for_more():
    """One nat kept 0.3 of a deviation, 0.04 nats kept nothing: 0.3 of 1.2."""
    assert per_root_nat([*rows_of([0.3], kl=1.0, spread=1.0), *rows_of([0.0], spread=1.0)]).kept == pytest.approx(0.25)


@pytest.mark.parametrize("kept", [[], [0.1]])
def test_one_judged_step_has_no_error_and_so_no_figure(kept):
    assert per_root_nat(rows_of(kept)) is None
    assert describe_promises("all", [run_of(kept)]) is None


def test_what_noise_could_be_is_said_to_be_nothing():
    row = describe_promises("all", [run_of([0.1, -0.1]), run_of([0.2, -0.19])])
    assert row["share"] == "not told apart from zero"
    assert row["seeds"] == 2
    assert describe_promises("all", [run_of(KEPT)])["share"] == "15.0%"


def test_the_figure_draws_both_over_the_steps_and_their_sums():
    means, kept, sums = draw_promises({"all": [run_of(KEPT * 10)]}).axes
    promised_line, kept_line = means.lines
    assert list(promised_line.get_ydata()) == pytest.approx([2.0] * POINTS)
    assert all(0.0 < value < 0.6 for value in kept_line.get_ydata())
    assert list(kept_line.get_ydata()) == list(kept.lines[0].get_ydata())
    (band,) = kept.collections
    assert band.get_paths()
    assert [line.get_ydata()[-1] for line in sums.lines] == pytest.approx([0.2 * 40, sum(KEPT) * 10])


def test_without_a_judged_step_there_is_no_figure():
    assert draw_promises({"all": [run_of([])]}) is None


def test_a_line_with_one_point_is_a_dot():
    """Two seeds of one judged step each: their gains meet in one place, their sums are a point for each."""
    means, kept, sums = draw_promises({"all": [run_of([0.1]), run_of([0.2], "other")]}).axes
    assert {line.get_marker() for line in [*means.lines, kept.lines[0], *sums.lines]} == {"."}
    means, kept, sums = draw_promises({"all": [run_of(KEPT)]}).axes
    assert {line.get_marker() for line in [*means.lines, kept.lines[0], *sums.lines]} == {""}


def test_a_short_run_has_its_gains_drawn_as_well():
    means, _, _ = draw_promises({"all": [run_of(KEPT)]}).axes
    assert list(means.lines[0].get_ydata()) == pytest.approx([2.0] * POINTS)
