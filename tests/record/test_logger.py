import json
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tiny_runs import rows, train_tiny

from trpo.record.logger import LAYOUT, Logger
from trpo.update.action_values import ActionValueFit

# The contract, written down a second time: what every row has, and what an accepted one has besides.
ROW = {"env_steps", "iteration", "wall_time", "outcome", "fingerprint"}
ALWAYS = {
    "rollout": {"episodes"},
    "policy": {"entropy"},
    "critic": {"loss_before", "loss_after", "explained_variance_before", "explained_variance_after"},
    "time": {"collect", "policy", "critic", "total", "steps_per_second"},
}
TRUST_REGION = {
    *("kl", "kl_quadratic", "kl_error", "kl_error_relative", "kl_zeroth_order", "kl_first_order", "kl_full_step"),
    *("kl_quadratic_full_step", "kl_quadratic_damped", "kl_reverse", "kl_max_state", "max_kl", "multiplier"),
    *("gradient_norm", "step_norm", "step_fraction", "backtracks", "accepted", "expected_improvement"),
    *("improvement", "improvement_ratio", "cg_iterations", "damping", "cg_residual", "curvature_max", "curvature_min"),
    "normalizer_kl",
}
JUDGED = {
    *("improvement_kept", "improvement_promised", "judged_kl", "advantage_std"),
    *("improvement_kept_sum", "improvement_promised_sum", "promised_per_root_nat", "kept_per_root_nat"),
}
BAND = {"kept_per_root_nat_low", "kept_per_root_nat_high"}
SOMETIMES = {
    "rollout": {"episode_return", "episode_length"},
    "evaluation": {"return_mean", "return_std", "length_mean", "episodes"},
    "policy": {"std_mean", "std_min"},
}


def tags(groups):
    return {f"{group}/{name}" for group, names in groups.items() for name in names}


@pytest.fixture(scope="module", params=["cartpole", "pendulum"])
def run(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("logger") / "run"
    train_tiny(
        directory, "run.total_steps=2000", "run.steps_per_iteration=400", "run.evaluate_every=800", task=request.param
    )
    return directory


@pytest.fixture(scope="module")
def events(run):
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0})
    return accumulator.Reload()


def test_every_row_has_the_keys_of_the_contract_and_no_others(run):
    trust_region = tags({"trust_region": TRUST_REGION | JUDGED | BAND})
    for row in rows(run):
        assert set(row) >= ROW | tags(ALWAYS)
        assert set(row) <= ROW | tags(ALWAYS) | trust_region | tags(SOMETIMES)


def test_an_accepted_row_has_every_figure_of_the_trust_region(run):
    """Those of the step before it as well if that was accepted, their spread from the second on."""
    written = rows(run)
    assert [row["outcome"] for row in written] == ["accepted"] * 4
    for row, more in zip(written, (set(), JUDGED, JUDGED | BAND, JUDGED | BAND), strict=True):
        assert {tag for tag in row if tag.startswith("trust_region/")} == tags({"trust_region": TRUST_REGION | more})


def test_a_row_in_which_no_episode_ended_has_no_return(tmp_path):
    train_tiny(tmp_path / "run", "run.total_steps=800", "run.steps_per_iteration=100", task="pendulum")
    ended = [row["rollout/episodes"] for row in rows(tmp_path / "run")]
    assert set(ended) == {0, 2}  # episodes of 200 steps, two at once
    for row in rows(tmp_path / "run"):
        assert ("rollout/episode_return" in row) == (row["rollout/episodes"] > 0)


def test_the_events_are_the_rows(run, events):
    written = {
        tag: [(row["env_steps"], np.float32(row[tag])) for row in rows(run) if tag in row]
        for tag in {key for row in rows(run) for key in row if "/" in key}
    }
    read = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert read == written


def custom_charts(events):
    """The layout that TensorBoard finds, as chart titles to regular expressions."""
    (event,) = events.Tensors(metadata.CONFIG_SUMMARY_TAG)
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {chart.title: list(chart.multiline.tag) for category in layout.category for chart in category.chart}


def test_the_chart_of_the_kl_draws_three_lines_and_each_is_one_tag(events):
    patterns = custom_charts(events)["KL: spent, predicted, allowed"]
    matched = [[tag for tag in events.Tags()["scalars"] if re.match(pattern, tag)] for pattern in patterns]
    assert matched == [["trust_region/kl"], ["trust_region/kl_quadratic"], ["trust_region/max_kl"]]


def test_every_line_of_every_chart_is_exactly_one_tag_of_the_run(events):
    charts = custom_charts(events)
    assert set(charts) == {title for group in LAYOUT.values() for title in group}
    of_action_values = [f"action_values/{name}" for name in ActionValueFit._fields]  # which a run like this has not
    for pattern in (pattern for patterns in charts.values() for pattern in patterns):
        tags_found = [*events.Tags()["scalars"], *of_action_values]
        assert sum(re.match(pattern, tag) is not None for tag in tags_found) == 1, pattern


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path):
    with Logger(tmp_path, {}) as logger:
        logger.write({"env_steps": 5, "outcome": "accepted", "trust_region/kl": 0.25}, env_steps=5)
        assert rows(tmp_path) == [{"env_steps": 5, "outcome": "accepted", "trust_region/kl": 0.25}]
        events = EventAccumulator(str(tmp_path)).Reload()
        assert [(event.step, event.value) for event in events.Scalars("trust_region/kl")] == [(5, 0.25)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_have_is_refused_and_the_file_stays_whole(tmp_path, number):
    with Logger(tmp_path, {}) as logger:
        logger.write({"a/b": 1.0}, env_steps=1)
        with pytest.raises(ValueError, match="JSON"):
            logger.write({"a/b": number}, env_steps=2)
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [{"a/b": 1.0}]
