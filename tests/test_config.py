"""Keys, defaults and ranges: what is refused, and what is frozen."""

import dataclasses
import json
import math

import pytest
from tiny_runs import compose

from trpo.commands.compose import tasks
from trpo.config import (
    ActionValuesConfig,
    AdvantageConfig,
    Config,
    CriticConfig,
    EnvConfig,
    NormalizeConfig,
    PolicyConfig,
    RecordConfig,
    RunConfig,
    TrustRegionConfig,
    UserError,
)
from trpo.keys import fields_by_key
from trpo.models.observations import named
from trpo.sampling.making import check_environment

SECTIONS = [
    Config,
    EnvConfig,
    PolicyConfig,
    NormalizeConfig,
    AdvantageConfig,
    TrustRegionConfig,
    CriticConfig,
    ActionValuesConfig,
    RecordConfig,
    RunConfig,
]


@pytest.mark.parametrize("task", tasks())
def test_every_task_composes_and_its_environment_can_be_made(task):
    config = compose(f"task={task}")
    assert config.env.id == tasks()[task]
    assert named(check_environment(config.env).observations)


def test_without_a_task_the_defaults_are_those_of_the_dataclasses():
    assert compose("env.id=CartPole-v1") == Config(env=EnvConfig(id="CartPole-v1"))


def test_an_override_wins_over_the_task():
    assert compose("run.total_steps=123", "task=cartpole").run.total_steps == 123


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_frozen(section):
    config = section()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)


def test_a_list_becomes_a_tuple():
    assert PolicyConfig(hidden_sizes=[8, 4]).hidden_sizes == (8, 4)
    assert compose("task=cartpole", "critic.hidden_sizes=[3]").critic.hidden_sizes == (3,)
    assert compose("action_values.hidden_sizes=[3,4e0]").action_values.hidden_sizes == (3, 4)


@pytest.mark.parametrize("value", ["probes:Scaled", {"wrapper": "probes:Scaled"}, 3])
def test_a_list_of_anything_is_a_list(value):
    assert EnvConfig(wrappers=[value, value]).wrappers == (value, value)
    with pytest.raises(UserError, match=r"^env\.wrappers must be a list, got "):
        EnvConfig(wrappers=value)


# Section, field, a value that is refused, the nearest value that is not, and what is allowed in words.
EDGES = [
    (Config, "seed", -1, 0, "at least 0"),
    (EnvConfig, "backend", "threads", "async", "one of sync, async, vector, envpool"),
    (EnvConfig, "num_envs", 0, 1, "at least 1"),
    (PolicyConfig, "hidden_sizes", (64, 0), (64, 1), "at least 1"),
    (PolicyConfig, "activation", "gelu", "elu", "one of tanh, relu, elu, silu"),
    (PolicyConfig, "initial_log_std", 5.1, 5.0, "at most 5"),
    (PolicyConfig, "initial_log_std", -2.3, -2.2, "above policy.min_log_std"),
    (PolicyConfig, "min_log_std", -20.1, -20.0, "at least -20"),
    (PolicyConfig, "noise_correlation", -0.1, 0.0, "at least 0 and at most 0.99"),
    (PolicyConfig, "noise_correlation", 1.0, 0.99, "at least 0 and at most 0.99"),
    (AdvantageConfig, "gamma", -0.1, 0.0, "at least 0 and at most 1"),
    (AdvantageConfig, "gamma", 1.1, 1.0, "at least 0 and at most 1"),
    (AdvantageConfig, "lam", -0.1, 0.0, "at least 0 and at most 1"),
    (AdvantageConfig, "lam", 1.1, 1.0, "at least 0 and at most 1"),
    (TrustRegionConfig, "max_kl", -1e-12, 0.0, "at least 0 and at most 100"),
    (TrustRegionConfig, "min_multiplier", -1e-9, 0.0, "at least 0"),
    (TrustRegionConfig, "cg_iterations", 0, 1, "at least 1"),
    (TrustRegionConfig, "cg_tolerance", -1e-9, 0.0, "at least 0"),
    (TrustRegionConfig, "damping", -1e-9, 0.0, "at least 0"),
    (TrustRegionConfig, "relative_damping", -1e-9, 0.0, "at least 0"),
    (TrustRegionConfig, "max_backtracks", -1, 0, "at least 0"),
    (TrustRegionConfig, "backtrack_factor", 0.0, 0.01, "above 0 and at most 0.99"),
    (TrustRegionConfig, "backtrack_factor", 1.0, 0.99, "above 0 and at most 0.99"),
    (TrustRegionConfig, "fisher", "empirical", "hessian", "one of gauss_newton, hessian"),
    (TrustRegionConfig, "fisher_fraction", 0.0, 0.01, "above 0 and at most 1"),
    (TrustRegionConfig, "fisher_fraction", 1.1, 1.0, "above 0 and at most 1"),
    (TrustRegionConfig, "micro_batch", -1, 0, "at least 0"),
    (CriticConfig, "hidden_sizes", (0,), (1,), "at least 1"),
    (CriticConfig, "activation", "gelu", "relu", "one of tanh, relu, elu, silu"),
    (CriticConfig, "learning_rate", 0.0, 1e-9, "above 0"),
    (CriticConfig, "epochs", 0, 1, "at least 1"),
    (CriticConfig, "minibatch_size", 0, 1, "at least 1"),
    (CriticConfig, "hidden_sizes", None, (64,), "a list of whole numbers at least 1"),
    (RunConfig, "total_steps", 0, 1, "at least 1"),
    (RunConfig, "steps_per_iteration", 0, 1, "at least 1"),
    (RunConfig, "evaluate_every", -1, 0, "at least 0"),
    (RunConfig, "evaluation_episodes", -1, 0, "at least 0"),
    (RunConfig, "checkpoint_every", -1, 0, "at least 0"),
    (RunConfig, "keep_checkpoints", 0, 1, "at least 1"),
    (RunConfig, "threads", 0, 1, "at least 1"),
]


@pytest.mark.parametrize(("section", "name", "refused", "allowed", "words"), EDGES)
def test_a_value_out_of_range_is_refused_in_words_and_the_nearest_in_range_is_not(
    section, name, refused, allowed, words
):
    key = f"{section.path}.{name}".lstrip(".")
    with pytest.raises(UserError, match=f"^{key} must be {words}.*, got "):
        section(**{name: refused})
    assert getattr(section(**{name: allowed}), name) == allowed


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["max_kl", "cg_tolerance", "damping", "backtrack_factor", "fisher_fraction"])
def test_no_number_may_be_infinite_or_nan(name, number):
    with pytest.raises(UserError, match=f"trust_region.{name}"):
        TrustRegionConfig(**{name: number})


BOUNDS = [  # max_kl, surrogate, discrete actions, δ, what is left of it after six tenths of the run
    (0, "score", False, 0.04, 1 - 0.9 * 0.6),
    (0, "score", True, 0.01, 1 - 0.9 * 0.6),
    (0, "pathwise", False, 0.15, (1 - 0.99 * 0.6) ** 2),
    (0, "pathwise", True, 0.01, 1 - 0.9 * 0.6),
    (0.3, "score", True, 0.3, 1 - 0.9 * 0.6),
    (0.3, "pathwise", False, 0.3, (1 - 0.99 * 0.6) ** 2),
]


@pytest.mark.parametrize(("max_kl", "surrogate", "discrete", "expected", "left"), BOUNDS)
def test_the_bound_and_its_fall_follow_surrogate_and_actions(max_kl, surrogate, discrete, expected, left):
    config = TrustRegionConfig(max_kl=max_kl, surrogate=surrogate)
    assert config.bound(0.0, discrete=discrete) == expected
    assert config.bound(0.6, discrete=discrete) == pytest.approx(left * expected)


@pytest.mark.parametrize(("surrogate", "discrete"), [("score", False), ("pathwise", False), ("pathwise", True)])
def test_a_fall_that_is_given_is_what_it_says(surrogate, discrete):
    constant, cubic = {"anneal": 0.0}, {"anneal": 0.5, "anneal_power": 3.0}
    bounds = [
        TrustRegionConfig(max_kl=0.3, surrogate=surrogate, **fall).bound(0.6, discrete=discrete)
        for fall in (constant, cubic)
    ]
    assert bounds == [0.3, pytest.approx(0.3 * 0.7**3)]


def test_with_a_power_of_two_it_is_the_length_of_a_step_that_falls_on_a_line():
    config = TrustRegionConfig(max_kl=0.02, anneal=0.8, anneal_power=2.0)
    lengths = [math.sqrt(2 * config.bound(progress, discrete=False)) for progress in (0.0, 0.5, 1.0)]
    assert lengths == pytest.approx([0.2, 0.6 * 0.2, 0.2 * 0.2])


def test_no_power_leaves_nothing_of_the_bound():
    """With 1,000 δ ended at 0, and the run in the middle by a division."""
    assert TrustRegionConfig(anneal=0.99, anneal_power=10.0).bound(1.0, discrete=True) == pytest.approx(1e-22)
    with pytest.raises(UserError, match="anneal_power must be at least 0 and at most 10, got 1000"):
        TrustRegionConfig(anneal_power=1000.0)


def test_every_key_has_a_line_of_help():
    assert all(field.metadata["text"] for _, field in fields_by_key())


def test_a_configuration_is_plain_data():
    assert json.loads(json.dumps(dataclasses.asdict(Config())))["trust_region"]["max_kl"] == 0.0
