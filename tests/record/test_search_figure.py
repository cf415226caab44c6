"""The figure of a search: every trial is in it, where it was tried and what it came to."""

from itertools import pairwise

import pytest

from trpo.record.search_figure import Point, draw_search

POINTS = [
    Point(2, 5.0, "complete", {"a.b": 0.5, "c.d": "elu"}),
    Point(0, 3.0, "complete", {"a.b": 0.01, "c.d": "tanh"}),
    Point(1, 2.0, "complete", {"a.b": 0.1, "c.d": "tanh"}),
    Point(3, 1.0, "pruned", {"a.b": 0.2, "c.d": "relu"}),
]


def lines(panel):
    return {line.get_label(): [*zip(*line.get_data(), strict=True)] for line in panel.lines}


def test_trials_are_drawn_in_their_order_with_the_best_of_the_complete_ones_so_far():
    history = lines(draw_search(POINTS, {"a.b": False}).axes[0])
    assert sorted(history["complete"]) == [(0, 3.0), (1, 2.0), (2, 5.0)]
    assert history["pruned"] == [(3, 1.0)]
    assert history["best so far"] == [(0, 3.0), (1, 3.0), (2, 5.0)]


@pytest.mark.parametrize("log", [True, False])
def test_numbers_stand_at_their_place_and_choices_side_by_side(log):
    _, numbers, choices = draw_search(POINTS, {"a.b": log, "c.d": False}).axes
    assert numbers.get_xscale() == ("log" if log else "linear")
    assert sorted(lines(numbers)["complete"]) == [(0.01, 3.0), (0.1, 2.0), (0.5, 5.0)]
    assert [text.get_text() for text in choices.get_xticklabels()] == ["elu", "relu", "tanh"]
    assert sorted(lines(choices)["complete"]) == [(0, 5.0), (2, 2.0), (2, 3.0)]
    assert lines(choices)["pruned"] == [(1, 1.0)]


def test_the_numbers_below_a_panel_do_not_touch():
    points = [Point(number, 0.0, "complete", {"a.b": number / 10.5 - 1.33}) for number in range(20)]
    keys = {"a.b": False, "b": False, "c": False, "d": False}
    figure = draw_search(points, keys)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[1].get_xticklabels()]
    assert all(left.x1 + 4 < right.x0 for left, right in pairwise(boxes))


def test_there_is_a_panel_for_every_key_and_no_empty_one():
    keys = {f"k{number}": False for number in range(5)}
    assert len(draw_search(POINTS, keys).axes) == 6


def test_a_number_that_has_no_place_on_a_logarithmic_axis_makes_it_an_even_one():
    points = [*POINTS, Point(4, 2.0, "complete", {"a.b": 0.0})]
    _, numbers = draw_search(points, {"a.b": True}).axes
    assert numbers.get_xscale() == "linear"
    assert (0.0, 2.0) in lines(numbers)["complete"]
