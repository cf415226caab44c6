"""What is searched: Hydra's words to numbers and choices, and numbers to text and back."""

from decimal import Decimal

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trpo.commands.compose import register_schema
from trpo.commands.search_space import corners, parse_space, parsed_value, with_configured
from trpo.config import UserError
from trpo.search.sampler import RoundingSampler, distributions_of
from trpo.search.space import Choices, Numbers, rounded

BY_HAND = {
    "advantage.lam=interval(0.9,0.99)": Numbers("advantage.lam", 0.9, 0.99),
    "advantage.lam=interval(0,1)": Numbers("advantage.lam", 0.0, 1.0),
    "trust_region.max_kl=tag(log,interval(0.005,0.1))": Numbers("trust_region.max_kl", 0.005, 0.1, log=True),
    "critic.epochs=interval(5,30)": Numbers("critic.epochs", 5, 30),
    "critic.epochs=tag(log,interval(1e1,1e3))": Numbers("critic.epochs", 10, 1000, log=True),
    "critic.epochs=range(5,30,5)": Numbers("critic.epochs", 5, 25, 5),
    "critic.epochs=range(5,31,5)": Numbers("critic.epochs", 5, 30, 5),
    "critic.epochs=range(4)": Numbers("critic.epochs", 0, 3),
    "critic.epochs=range(30,5,-5)": Numbers("critic.epochs", 10, 30, 5),
    "critic.epochs=tag(log,range(1,11))": Numbers("critic.epochs", 1, 10, log=True),
    "advantage.lam=range(0.1,0.5,0.1)": Numbers("advantage.lam", 0.1, 0.4, 0.1),
    "advantage.lam=range(0.81234,0.99,0.05)": Numbers("advantage.lam", 0.81234, 0.96234, 0.05),
    "advantage.lam=range(0.99,0.8,-0.05)": Numbers("advantage.lam", 0.84, 0.99, 0.05),
    "advantage.gamma=range(0.99,0.9999,0.00033)": Numbers("advantage.gamma", 0.99, 0.99957, 0.00033),
    "critic.learning_rate=range(1e-4,1e-3,3e-4)": Numbers("critic.learning_rate", 0.0001, 0.0007, 0.0003),
    "critic.epochs=range(1.0,9.0,2.0)": Numbers("critic.epochs", 1, 7, 2),
    "advantage.lam=range(0,2)": Numbers("advantage.lam", 0.0, 1.0, 1.0),
    "policy.activation=tanh,relu": Choices("policy.activation", ("tanh", "relu")),
    "policy.activation=choice(relu,tanh,relu)": Choices("policy.activation", ("relu", "tanh")),
    "policy.hidden_sizes=[64,64],[8]": Choices("policy.hidden_sizes", ("[64,64]", "[8]")),
    "surrogate=score,pathwise": Choices("surrogate", ("score", "pathwise")),
    "+env.kwargs.g=interval(0,1)": Numbers("++env.kwargs.g", 0.0, 1.0),
    "+env.kwargs.g=int(interval(0,7))": Numbers("++env.kwargs.g", 0, 7),
    "+env.kwargs.g=range(1,9,2)": Numbers("++env.kwargs.g", 1, 7, 2),
}


@pytest.mark.parametrize("line", BY_HAND)
def test_a_line_says_what_is_searched(line):
    (dimension,) = parse_space([line])[1]
    assert dimension == BY_HAND[line]
    ends = dimension.texts if isinstance(dimension, Choices) else (dimension.low, dimension.high)
    assert [type(end) for end in ends] == [type(end) for end in getattr(BY_HAND[line], "texts", ends)]
    if isinstance(dimension, Numbers):
        assert (type(dimension.low), type(dimension.high)) == (type(BY_HAND[line].low), type(BY_HAND[line].high))


def test_everything_else_is_fixed():
    fixed, space = parse_space(["task=hopper", "advantage.lam=interval(0,1)", "policy.hidden_sizes=[8,8]"])
    assert fixed == ["task=hopper", "policy.hidden_sizes=[8,8]"]
    assert [dimension.name for dimension in space] == ["advantage.lam"]


REFUSED = {
    "": "no key is searched; say what to search",
    "task=hopper": "no key is searched",
    "task=hopper,ant advantage.lam=interval(0,1)": "cannot be compared",
    "env.id=A-v0,B-v0": "cannot be compared",
    "seed=range(3)": "--seeds",
    "seed=3 advantage.lam=interval(0,1)": "--seeds",
    "run.resume=auto advantage.lam=interval(0,1)": "the same line",
    "hydra.run.dir=x advantage.lam=interval(0,1)": "directories and processes of its own",
    "advantage.lambda=interval(0,1)": "did you mean advantage.lam",
    "~seed": "cannot be removed",
    "advantage.lam=interval(1,0)": "below the second",
    "advantage.lam=interval(1,1)": "below the second",
    "advantage.lam=interval(0,nan)": "below the second",
    "advantage.lam=interval(0,inf)": "below the second",
    "advantage.lam=tag(log,interval(0,1))": "above 0",
    "advantage.lam=tag(quick,interval(0,1))": "the only tag is log",
    "advantage.lam=tag(log,range(0.1,0.5,0.1))": "cannot be logarithmic",
    "advantage.lam=tag(log,range(1,3))": "cannot be logarithmic",
    "critic.epochs=tag(log,range(1,9,2))": "cannot be logarithmic",
    "critic.epochs=interval(0.5,3)": "whole numbers",
    "critic.epochs=range(0.5,3)": "whole numbers",
    "critic.epochs=range(1,9,0)": "fewer than two",
    "critic.epochs=range(5,1)": "fewer than two",
    "advantage.lam=range(0.5,0.6,0.2)": "fewer than two",
    "advantage.lam=range(0,inf,0.1)": "must be finite",
    "advantage.lam=range(0,1,nan)": "must be finite",
    "advantage.lam=range(0.1,1000.1,1e-16)": "more digits than a number keeps",
    "critic.epochs=choice(3)": "one choice is none",
    "critic.epochs=tag(log,choice(1,2))": "not for a search",
    "surrogate=glob(*)": "not for a search",
    "policy.activation=interval(0,1)": "search it with choice",
    "policy.hidden_sizes=interval(8,64)": "search it with choice",
    "advantage.lam=interval(0,1) advantage.lam=0,1": "twice",
    "advantage.lam=interval(0": "cannot read advantage",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_searched_is_refused(line):
    with pytest.raises(UserError, match=REFUSED[line]):
        parse_space(line.split())


floats = st.floats(1e-6, 1e6)
ranges = st.builds(lambda low, step, count: (low, low + step * count, step), *[st.integers(1, 1000)] * 3)
decimals = st.builds(lambda digits, power: Decimal(digits).scaleb(-power), st.integers(1, 99999), st.integers(0, 7))


@given(floats, floats, st.booleans())
@settings(max_examples=100, deadline=None)
def test_an_interval_means_the_same_when_it_is_typed_as_it_is_described(low, high, log):
    assume(low < high)
    dimension = Numbers("trust_region.damping", low, high, log=log)
    assert parse_space([dimension.describe()])[1] == [dimension]


@given(ranges)
@settings(max_examples=100, deadline=None)
def test_a_range_means_the_same_when_it_is_typed_as_it_is_described(ends):
    low, high, step = ends
    dimension = Numbers("critic.epochs", low, high, step if step > 1 else None)
    assert parse_space([dimension.describe()])[1] == [dimension]


@given(decimals, decimals, st.integers(2, 60), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=200, deadline=None)
def test_a_range_holds_its_own_numbers_without_its_end_and_only_those_are_tried(first, step, count, whole, down, seed):
    step, end = (-step, first - step * count) if down else (step, first + step * count)
    stop = float(end if whole else end - step / 3)  # whole steps lead to the end, or the last is cut short
    line = f"+env.kwargs.g=range({float(first)},{stop},{float(step)})"
    (dimension,) = parse_space([line])[1]
    numbers = {float(first + step * index) for index in range(count)}
    assert (dimension.low, dimension.high) == (min(numbers), max(numbers))
    assert parse_space([dimension.describe()])[1] == [dimension]
    space = distributions_of([dimension])
    assert (space["env.kwargs.g"].low, space["env.kwargs.g"].high) == (dimension.low, dimension.high)
    study = optuna.create_study(sampler=RoundingSampler([dimension], seed))
    tried = {study.ask(space).params["env.kwargs.g"] for _ in range(5)}
    assert tried <= numbers
    assert all(parsed_value(str(value)) == value for value in tried)


@given(floats, floats, st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_number_that_is_tried_has_few_digits_lies_inside_and_is_what_is_run(low, high, where):
    low, high = rounded(min(low, high)), rounded(max(low, high))
    assume(low < high)
    value = Numbers("trust_region.damping", low, high).near(low + where * (high - low))
    assert low <= value <= high
    assert value == pytest.approx(low + where * (high - low), rel=5.1e-4)
    assert parsed_value(str(value)) == value
    assert len(f"{value:e}".split("e")[0].rstrip("0").replace(".", "")) <= 4


@pytest.mark.parametrize(
    ("value", "log", "recorded"), [(0.5, False, 0.5), (7, False, 7), (0.0, True, 0.1), (None, False, 0.1)]
)
def test_a_configured_value_is_recorded_wherever_it_has_a_place(value, log, recorded):
    assert Numbers("a", 0.1, 0.4, log=log).recorded(value) == recorded


def test_a_configured_value_that_is_no_choice_becomes_one():
    space = [Choices("a", ("1", "2")), Choices("b", ("x", "y")), Choices("c", ("u", "v")), Numbers("d", 0, 1)]
    assert with_configured(space, {"a": "3", "b": "y", "d": 9}) == [Choices("a", ("1", "2", "3")), *space[1:]]


def test_every_corner_is_composed_or_of_a_large_space_every_end():
    register_schema()
    three = parse_space(["advantage.lam=interval(0.9,0.99)", "critic.epochs=range(1,9)", "policy.activation=tanh,elu"])
    jobs = corners(["task=cartpole"], three[1], None)
    found = {(job.advantage.lam, job.critic.epochs, job.policy.activation) for job in jobs}
    assert found == {(lam, epochs, name) for lam in (0.9, 0.99) for epochs in (1, 8) for name in ("tanh", "elu")}
    many = parse_space([f"critic.{key}=range(1,9)" for key in ("epochs", "minibatch_size")] + three[0])
    wide = [*many[1], *parse_space([f"policy.hidden_sizes={','.join(f'[{width}]' for width in range(1, 10))}"])[1]]
    jobs = corners(["task=cartpole"], wide, None)
    assert len(jobs) == 2 + 2 + 9
    assert {job.critic.epochs for job in jobs} == {1, 8, 10}
