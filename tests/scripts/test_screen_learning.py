"""The screening design: its algebra, effects that are put in and found, one real run of it."""

import itertools

import numpy as np
import pytest
import screen_learning
from screen_learning import estimate_effects, make_design


@pytest.mark.parametrize("factors", [1, 3, 5, 6, 11, 16])
def test_no_factor_is_another_nor_a_product_of_two(factors):
    design = make_design(factors)
    assert design.shape == (2 ** min(factors, 5), factors)
    assert (design.sum(0) == 0).all()
    gram = design.T @ design
    assert (gram == len(design) * np.eye(factors)).all()
    for one, other in itertools.combinations(range(factors), 2):
        assert not (design.T @ (design[:, one] * design[:, other])).any()


def test_effects_that_were_put_in_are_found():
    design = make_design(16)
    truth = np.zeros(16)
    truth[[2, 7]] = 30.0, -10.0  # high minus low
    interaction = 20.0 * design[:, 0] * design[:, 4]  # which must not look like a main effect
    noise = np.random.default_rng(0).normal(size=32)
    effects, errors = estimate_effects(design, 200 + design @ truth / 2 + interaction + noise)
    assert effects == pytest.approx(truth / 2, abs=0.5)  # per cent of 200
    assert (errors > 5).all()  # the interaction is in the error
    _, errors = estimate_effects(design, 200 + design @ truth / 2 + noise)
    assert errors == pytest.approx(np.full(16, 100 * 2 / np.sqrt(32) / 200), rel=0.4)


def test_failed_runs_are_left_out():
    design, scores = make_design(3), np.full(8, 10.0)
    scores += design[:, 1]
    scores[3] = np.nan
    effects, _ = estimate_effects(design, scores)
    assert effects == pytest.approx([0, 20 / np.nanmean(scores) * 10, 0])


def test_too_many_factors_are_refused():
    with pytest.raises(SystemExit, match="at most 16"):
        make_design(17)


def test_a_factor_may_have_lists_for_values():
    assert screen_learning.factor("policy.hidden_sizes=[64,64],[128]") == ("policy.hidden_sizes", ["[64,64]", "[128]"])
    assert screen_learning.task("hopper=300_000") == ("hopper", 300_000)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--factors", "trust_region.max_kl"),
        ("--factors", "trust_region.max_kl=0.01"),
        ("--factors", "trust_region.max_kl=0.01,0.02,0.03"),
        ("--factors", "trust_region.max_kl=0.01,"),
        ("--tasks", "hopper"),
        ("--tasks", "hopper=many"),
        ("--tasks", "hopper=0"),
    ],
)
def test_a_mistake_is_one_line(option, text, tmp_path, capsys):
    right = {"--tasks": "CartPole-v1=512", "--factors": "advantage.gamma=0.9,0.99"} | {option: text}
    with pytest.raises(SystemExit) as stop:
        screen_learning.main([str(tmp_path), *(word for pair in right.items() for word in pair)])
    assert stop.value.code == 2
    assert f"got '{text}'" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_a_real_screen(tmp_path, capsys):
    arguments = [str(tmp_path), "--tasks", "CartPole-v1=512", "--factors", "run.steps_per_iteration=128,256"]
    assert screen_learning.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("| `run.steps_per_iteration` |") == 2
    assert (tmp_path / "screen.md").read_text() in printed
    configs = [(tmp_path / f"run0{run}/CartPole-v1/config.yaml").read_text() for run in (0, 1)]
    assert ["steps_per_iteration: 128" in config for config in configs] == [True, False]
