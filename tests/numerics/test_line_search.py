import math

import pytest

from trpo.numerics.line_search import Evaluation, Verdict, full_step, judge, line_search

DELTA = 0.01
NAN, INF = math.nan, math.inf


def evaluation(improvement, kl):
    return Evaluation(improvement, kl, kl_reverse=kl, kl_max_state=kl)


def scripted(*results, max_backtracks=10, backtrack_factor=0.8):
    """Run the search on a script of (improvement, kl), one for each candidate that may be asked for."""
    script = iter(results)
    asked = []

    def evaluate(fraction):
        asked.append(fraction)
        return evaluation(*next(script))

    search = line_search(evaluate, max_kl=DELTA, max_backtracks=max_backtracks, backtrack_factor=backtrack_factor)
    assert [candidate.fraction for candidate in search.candidates] == asked
    return search


@pytest.mark.parametrize(
    ("improvement", "kl", "verdict"),
    [
        (1.0, 0.005, Verdict.ACCEPTED),
        (1.0, DELTA, Verdict.ACCEPTED),  # on the bound is inside
        (1.0, math.nextafter(DELTA, 1.0), Verdict.KL_TOO_LARGE),
        (5e-324, 0.0, Verdict.ACCEPTED),  # the least number above zero
        (0.0, 0.005, Verdict.NO_IMPROVEMENT),  # none is none
        (-1.0, 0.005, Verdict.NO_IMPROVEMENT),
        (-1.0, 0.5, Verdict.NO_IMPROVEMENT),  # of two faults, the one that no rescaling to the bound repairs
        (1.0, 0.5, Verdict.KL_TOO_LARGE),
        (NAN, 0.005, Verdict.NON_FINITE),
        (INF, 0.005, Verdict.NON_FINITE),
        (-INF, 0.005, Verdict.NON_FINITE),
        (1.0, NAN, Verdict.NON_FINITE),
        (1.0, INF, Verdict.NON_FINITE),
        (NAN, NAN, Verdict.NON_FINITE),
    ],
)
def test_verdict(improvement, kl, verdict):
    assert judge(evaluation(improvement, kl), max_kl=DELTA) is verdict
    search = scripted((improvement, kl), max_backtracks=0)
    assert search.last.verdict is verdict
    assert search.accepted is (verdict is Verdict.ACCEPTED)


def test_a_good_full_step_is_taken_without_another_look():
    search = scripted((1.0, 0.005))  # a second evaluation would run out of script
    assert search.accepted
    assert search.last.fraction == 1.0
    assert search.backtracks == 0


def test_the_first_acceptable_candidate_wins_over_better_ones_behind_it():
    search = scripted((-1.0, 0.005), (0.1, 0.004), (9.0, 0.001))
    assert search.accepted
    assert search.backtracks == 1
    assert search.last.evaluation == evaluation(0.1, 0.004)


@pytest.mark.parametrize("max_backtracks", [0, 1, 4])
def test_a_hopeless_search_tries_the_full_step_and_every_backtrack(max_backtracks):
    search = scripted(*[(-1.0, 0.005)] * (max_backtracks + 1), max_backtracks=max_backtracks)
    assert not search.accepted
    assert len(search.candidates) == max_backtracks + 1
    assert search.backtracks == max_backtracks


@pytest.mark.parametrize(
    "failure", [(-1.0, 0.005), (0.0, 0.005), (-1.0, 0.0121), (NAN, 0.0121), (1.0, INF), (1.0, NAN)]
)
def test_without_improvement_or_without_a_number_the_factor_is_constant(failure):
    search = scripted(failure, failure, failure, (1.0, 0.005), backtrack_factor=0.5)
    assert [candidate.fraction for candidate in search.candidates] == [1.0, 0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    ("kl", "shrink"),
    [
        (0.0121, 0.995 / 1.1),  # √(0.01 / 0.0121) = 1 / 1.1
        (0.0104, 0.995 * math.sqrt(0.01 / 0.0104)),
        (0.0154, 0.995 * math.sqrt(0.01 / 0.0154)),  # 0.8018, the last above the factor
        (0.0156, 0.8),  # 0.7966 would be below
        (1.0, 0.8),
    ],
)
def test_a_broken_bound_alone_shrinks_to_just_inside_it_but_never_below_the_factor(kl, shrink):
    search = scripted((1.0, kl), (1.0, 0.0099))
    assert search.accepted
    assert search.last.fraction == pytest.approx(shrink, rel=1e-12)


def test_shrinkings_multiply_whatever_their_reasons():
    search = scripted((1.0, 0.0121), (-1.0, 0.0098), (NAN, 0.01), (1.0, 0.0121), (1.0, 0.005))
    shrinkings = [0.995 / 1.1, 0.8, 0.8, 0.995 / 1.1]
    assert search.last.fraction == pytest.approx(math.prod(shrinkings), rel=1e-12)
    verdicts = [candidate.verdict for candidate in search.candidates]
    assert verdicts == [
        Verdict.KL_TOO_LARGE,
        Verdict.NO_IMPROVEMENT,
        Verdict.NON_FINITE,
        Verdict.KL_TOO_LARGE,
        Verdict.ACCEPTED,
    ]


def test_an_exactly_quadratic_kl_ends_at_99_percent_of_the_bound_after_one_look():
    # KL = 0.0144 f²: the full step is 1.2 times too long, and 0.995² = 0.990025 of the bound is spent
    search = line_search(lambda f: evaluation(f, 0.0144 * f**2), max_kl=DELTA, max_backtracks=1, backtrack_factor=0.5)
    assert search.accepted
    assert search.last.evaluation.kl == pytest.approx(0.990025 * DELTA, rel=1e-12)


@pytest.mark.parametrize("improvement", [1.0, -1.0])
@pytest.mark.parametrize("kl", [0.5 * DELTA, 50.0])
def test_without_a_search_the_full_step_is_taken_whatever_it_does(improvement, kl):
    search = full_step(lambda fraction: evaluation(improvement * fraction, kl))
    assert search.accepted
    assert [candidate.fraction for candidate in search.candidates] == [1.0]
    assert search.last.evaluation == evaluation(improvement, kl)


@pytest.mark.parametrize("wrong", [(NAN, 0.1), (0.1, INF), (-INF, 0.1)])
def test_without_a_search_nothing_that_is_not_finite_is_taken(wrong):
    search = full_step(lambda _: evaluation(*wrong))
    assert not search.accepted
    assert search.last.verdict is Verdict.NON_FINITE
