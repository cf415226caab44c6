"""From the overrides of a search to what is searched and what is fixed, in the words of Hydra's sweeps."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from trpo.commands.compose import check_override, compose_jobs, one_line
from trpo.commands.resume import GROUPS
from trpo.config import Config, UserError
from trpo.fields import describe
from trpo.keys import fields_by_key
from trpo.models.agent import Agent
from trpo.models.distributions import Bernoulli, Categorical
from trpo.search.space import Choices, Dimension, Numbers, Value, exact

HOW = "say what to search: trust_region.max_kl=interval(0.005,0.1), choice(…), range(…) or tag(log,interval(…))"
INCOMPARABLE = ("task", "env.id")  # whose returns cannot be compared
OWN = {"seed": "the seeds of a trial are 0, 1, …: say how many with --seeds"}
OWN["run.resume"] = "a search goes on by the same line"
MOST_CORNERS = 32  # composed and checked together; of a larger space every end is, one key after the other


def parse_space(overrides: Sequence[str]) -> tuple[list[str], list[Dimension]]:
    """Return the fixed overrides and what is searched. Raises `UserError` for what cannot be either."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise UserError(one_line(error)) from error
    for override in parsed:
        check_override(override, multirun=True)
        check_belongs(override)
    space = [dimension_of(override) for override in parsed if override.is_sweep_override()]
    if not space:
        raise UserError(f"no key is searched; {HOW}")
    if len({dimension.name for dimension in space}) < len(space):
        raise UserError("a key is searched twice")
    return [str(override.input_line) for override in parsed if not override.is_sweep_override()], space


def check_belongs(override: Override) -> None:
    """Raise `UserError` for a key that a search sets itself, or that would make its trials incomparable."""
    name = override.key_or_group
    if name in OWN:
        raise UserError(f"{override.input_line}: {OWN[name]}")
    if name.startswith("hydra"):
        raise UserError(f"{override.input_line}: a search has directories and processes of its own")
    if name in INCOMPARABLE and override.is_sweep_override():
        raise UserError(f"{override.input_line}: returns of different environments cannot be compared")


def dimension_of(override: Override) -> Dimension:
    """Return what a key is searched in. Raises `UserError` if the key takes no such values."""
    sweep = override.value()
    tags = sweep.tags if isinstance(sweep, ChoiceSweep | RangeSweep | IntervalSweep) else set()
    if tags - {"log"}:
        raise UserError(f"{override.input_line}: the only tag is log, as in tag(log,interval(0.001,0.1))")
    if isinstance(sweep, IntervalSweep):
        return interval(override, sweep)
    if isinstance(sweep, RangeSweep):
        return steps(override, sweep)
    if not isinstance(sweep, ChoiceSweep) or tags:
        raise UserError(f"{override.input_line} is not for a search; {HOW}")
    texts = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if len(texts) < 2:
        raise UserError(f"{override.input_line}: one choice is none")
    return Choices(typed_key(override), texts)


def typed_key(override: Override) -> str:
    """Return the key; one that is added may also be set by a fixed override."""
    key = override.get_key_element()
    return f"++{key.lstrip('+')}" if key.startswith("+") else key


def interval(override: Override, sweep: IntervalSweep) -> Numbers:
    """Return the numbers of an `interval`: whole ones if the key takes only those, or both ends are cast to them."""
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    whole = isinstance(low, int) and isinstance(high, int)
    return checked(override, low, high, whole=whole, log="log" in sweep.tags)


def steps(override: Override, sweep: RangeSweep) -> Numbers:
    """Return the numbers of a `range`, whose end is not one of them. Raises `UserError` if they are fewer than two."""
    assert sweep.start is not None
    assert sweep.stop is not None
    typed = (sweep.start, sweep.stop, sweep.step)
    if not all(math.isfinite(one) for one in typed):
        raise UserError(f"{override.input_line}: the numbers of a range must be finite")
    low, high = ends_of_range(*map(exact, typed))
    if low == high:
        raise UserError(f"{override.input_line} holds fewer than two numbers")
    step = abs(sweep.step)
    if any(exact(float(one)) != one for one in (low, high, high + exact(step))):
        raise UserError(f"{override.input_line}: its numbers have more digits than a number keeps")
    number = int if all(isinstance(one, int) for one in typed) else float
    return checked(override, number(low), number(high), whole=number is int, log="log" in sweep.tags, step=step)


def ends_of_range(start: Fraction, stop: Fraction, step: Fraction) -> tuple[Fraction, Fraction]:
    """Return the smallest and the largest number of a `range`, the same one if it holds fewer than two.

    Hydra adds floats, whose errors let the end in where whole steps lead to it.
    """
    count = math.ceil((stop - start) / step) if step else 0
    last = start + (max(count, 1) - 1) * step
    return min(start, last), max(start, last)


def checked(
    override: Override, low: float, high: float, *, whole: bool, log: bool, step: float | None = None
) -> Numbers:
    """Return numbers that the key takes, of its type. Raises `UserError` if it takes none, or the ends are wrong."""
    field = dict(fields_by_key()).get(override.key_or_group)
    if field is not None and not str(field.type).startswith(("int", "float")):
        raise UserError(f"{override.key_or_group} takes {describe(field)}: search it with choice(…)")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UserError(f"{override.input_line}: the first end must be below the second")
    if log and low <= 0:
        raise UserError(f"{override.input_line}: a logarithmic interval must lie above 0")
    if field is not None and field.type == "int":
        if not all(float(number).is_integer() for number in (low, high, step or 1)):
            raise UserError(f"{override.key_or_group} takes whole numbers: {override.input_line}")
        whole = True
    elif field is not None:
        whole = False
    if whole and step == 1:
        step = None
    if log and step is not None:
        raise UserError(f"{override.input_line}: a range with steps cannot be logarithmic, an interval can")
    kind = int if whole else float
    return Numbers(typed_key(override), kind(low), kind(high), None if step is None else kind(step), log)


def corners(fixed: list[str], space: Sequence[Dimension], config_dir: str | None) -> list[DictConfig]:
    """Return a composed job for every corner of the space, or of a large one for every end of every key."""
    ends = [f"{dimension.typed}={','.join(dimension.ends())}" for dimension in space]
    if math.prod(len(dimension.ends()) for dimension in space) <= MOST_CORNERS:
        return compose_jobs([*fixed, *ends], config_dir, multirun=True)
    return [job for line in ends for job in compose_jobs([*fixed, line], config_dir, multirun=True)]


def configured(job: DictConfig, dimension: Dimension, config: Config, agent: Agent) -> Value | None:
    """Return the value that a searched key has without the search, as it is typed, or None if it has none."""
    if dimension.name in GROUPS:
        return str(OmegaConf.select(job, f"hydra.runtime.choices.{dimension.name}") or "score")
    value = OmegaConf.select(job, dimension.name)
    if value is None:
        return None
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if dimension.name == "trust_region.max_kl" and not value:  # 0 stands for a bound that goes with the actions
        discrete = isinstance(agent.policy.distribution, Categorical | Bernoulli)
        value = config.trust_region.bound(0.0, discrete=discrete)
    if isinstance(dimension, Choices):
        same = (text for text in dimension.texts if parsed_value(text) == value)
        return next(same, Transformer.str(value))
    return value if isinstance(value, int | float) else str(value)


def parsed_value(text: str) -> Any:
    """Return what Hydra makes of a value as it is typed."""
    return OverridesParser.create().parse_override(f"key={text}").value()


def with_configured(space: Sequence[Dimension], start: dict[str, Value]) -> list[Dimension]:
    """Return the space in which every configured value that is searched by choices is one of them."""
    return [
        Choices(dimension.typed, (*dimension.texts, str(start[dimension.name])))
        if isinstance(dimension, Choices) and str(start.get(dimension.name, dimension.texts[0])) not in dimension.texts
        else dimension
        for dimension in space
    ]
