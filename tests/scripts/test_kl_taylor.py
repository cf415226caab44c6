import itertools
import math
import re
import sys
from pathlib import Path

import constrained_optimum
import kl_taylor
import numpy as np
import pytest
import torch
from tiny_runs import process

SCRIPTS = Path(kl_taylor.__file__).parent


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taylor")
    ended = process(sys.executable, SCRIPTS / "kl_taylor.py", "--figure", "figure.png", cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [path.name for path in folder.iterdir()] == ["figure.png"]
    assert (folder / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert ended.stdout.endswith("figure.png\n")
    return ended.stdout


def line(printed, start):
    """The one line that begins with `start`, without it."""
    (found,) = [text for text in printed.splitlines() if text.startswith(start)]
    return found.removeprefix(start).strip()


# As the example prints them, to the last digit.
EXAMPLE = {
    "Fisher matrix": "[7.5     1.09375] on the diagonal",
    "KL divergence": "0.04063719565666954",
    "quadratic form": "0.042968749999999986",
    "difference": "-0.002331554343330447",
}


@pytest.mark.parametrize("start", EXAMPLE)
def test_the_example_has_its_printed_digits(printed, start):
    assert line(printed, start) == EXAMPLE[start]


def test_the_example_comes_first(printed):
    places = [printed.index(f"\n{start}") for start in EXAMPLE]
    assert places == sorted(places)
    assert places[-1] < printed.index("in nats, with the matrix at the old point")


def test_the_printed_digits_are_those_of_the_formulas_by_hand():
    kl = 0.3 * math.log2(0.3 / 0.2) + 0.7 * math.log2(0.7 / 0.8)
    form = 0.5 * (0.1**2 * 0.3 / 0.2**2 + 0.1**2 * 0.7 / 0.8**2)
    assert float(EXAMPLE["KL divergence"]) == pytest.approx(kl, rel=1e-14)
    assert float(EXAMPLE["quadratic form"]) == pytest.approx(form, rel=1e-14)
    assert float(EXAMPLE["difference"]) == pytest.approx(kl - form, rel=1e-12)


def test_in_nats_and_at_the_old_point_the_numbers_are_others(printed):
    kl = 0.3 * math.log(0.3 / 0.2) + 0.7 * math.log(0.7 / 0.8)
    at_new, at_old = 0.5 * 0.1**2 * (7.5 + 1.09375), 0.5 * 0.1**2 * (1 / 0.3 + 1 / 0.7)
    assert (f"{kl:.6f}", f"{at_new:.6f}", f"{at_old:.6f}") == ("0.028168", "0.042969", "0.023810")
    assert line(printed, "matrix at the new point").endswith(
        f"KL 0.028168, form 0.042969, KL − form {kl - at_new:+.6f}"
    )
    assert line(printed, "matrix at the old point").endswith(
        f"KL 0.028168, form 0.023810, KL − form {kl - at_old:+.6f}"
    )
    assert "[3.33333333 1.42857143]" in line(printed, "matrix at the old point")


GRADIENTS = {"gradient in (q₁, q₂)": "(-1.000000, -1.000000)", "gradient in logits": "(0.000000, 0.000000)"}


@pytest.mark.parametrize("start", GRADIENTS)
def test_gradients_at_the_old_point_are_minus_one_in_probabilities_and_zero_in_logits(printed, start):
    autograd, differences = re.findall(r"\(.*?\)", line(printed, start))
    assert (autograd, differences) == (GRADIENTS[start],) * 2
    assert line(printed, "KL(p ‖ p) =") == "0.0"


def test_finite_differences_are_those_of_a_function_with_a_known_gradient():
    at = torch.tensor([0.3, 0.7], dtype=torch.float64)
    found = kl_taylor.differences(lambda q: q[0].exp() * q[1], at)
    assert found.tolist() == pytest.approx([0.7 * math.exp(0.3), math.exp(0.3)], rel=1e-9)


# The row, its order, and what its relative error tends to: form / KL − 1.
ROWS = {
    "bits against nats": (2, math.log(2) - 1),
    "nats, matrix at the new point": (3, 0),
    "nats, matrix at the old point": (3, 0),
    "Gaussian in (μ, log σ)": (3, 0),
    "softmax over logits": (3, 0),
    "policy network on Pendulum": (3, 0),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_of_orders_has_what_theory_says(printed, name):
    order, limit = ROWS[name]
    fitted, relative, *errors = line(printed, name).split()
    assert float(fitted) == pytest.approx(order, abs=0.1)
    assert float(relative.rstrip("%")) / 100 == pytest.approx(limit, abs=0.005)
    sizes = [abs(float(error)) for error in errors]
    slopes = [2 * math.log10(a / b) for a, b in itertools.pairwise(sizes)]  # fractions fall by √10
    assert slopes == pytest.approx([order] * 2, abs=0.15)


def simplex_errors(t):
    """KL − form for the example's forms at p + t(q − p): bits against nats, matrix at the new point, at the old one."""
    (p, r), d = (0.3, 0.7), 0.1 * t
    nats = p * math.log(p / (p - d)) + r * math.log(r / (r + d))
    at_new, at_old = 0.5 * d**2 * (p / (p - d) ** 2 + r / (r + d) ** 2), 0.5 * d**2 * (1 / p + 1 / r)
    return nats / math.log(2) - at_new, nats - at_new, nats - at_old


def test_errors_on_the_simplex_are_those_by_hand():
    assert kl_taylor.FRACTIONS[0] == pytest.approx(10 * kl_taylor.FRACTIONS[-1])  # a decade
    series = kl_taylor.simplex_series()
    for k, t in enumerate(kl_taylor.FRACTIONS):
        assert [one.errors[k] for one in series] == pytest.approx(simplex_errors(t), rel=1e-6)


def test_the_matrix_at_the_new_point_has_minus_twice_the_error_in_the_limit():
    _, new, old = kl_taylor.simplex_series()
    ratios = [a / b for a, b in zip(new.errors, old.errors, strict=True)]
    assert ratios[-1] == pytest.approx(-2, abs=0.02)
    assert abs(ratios[-1] + 2) < 0.2 * abs(ratios[0] + 2)


def test_the_closed_form_is_what_the_solver_finds():
    step, multiplier, found, found_multiplier = constrained_optimum.quadratic_optimum()
    np.testing.assert_allclose(step.numpy(), found, rtol=1e-4)
    assert multiplier == pytest.approx(found_multiplier, rel=1e-4)


def test_the_closed_form_satisfies_the_conditions_of_an_optimum():
    root = np.random.default_rng(3).normal(size=(4, 4))
    H, g, max_kl = root @ root.T + np.eye(4), np.array([1.0, -2.0, 0.5, 3.0]), 0.3
    step, multiplier = constrained_optimum.lagrange_step(torch.from_numpy(H), torch.from_numpy(g), max_kl)
    s = step.numpy()
    assert 0.5 * s @ H @ s == pytest.approx(max_kl, rel=1e-10)
    np.testing.assert_allclose(multiplier * H @ s, g, rtol=1e-9)
    assert multiplier == pytest.approx(math.sqrt(g @ np.linalg.solve(H, g) / (2 * max_kl)), rel=1e-10)


@pytest.fixture(scope="module")
def objective():
    return constrained_optimum.pendulum_objective(hidden_sizes=())


@pytest.fixture(scope="module")
def optima(objective):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = constrained_optimum.exact_optima(objective)
    torch.set_num_threads(threads)
    return found


def test_the_exact_optimum_departs_from_the_step_of_trpo_by_the_root_of_the_bound(printed, optima):
    bounds, differences = [one.max_kl for one in optima], [one.difference for one in optima]
    order = np.polyfit(np.log(bounds), np.log(differences), 1)[0]
    assert order == pytest.approx(0.5, abs=0.03)
    assert f"falls as δ^{order:.3f}" in printed


@pytest.mark.parametrize("index", range(5))
def test_the_exact_optimum_uses_its_bound_and_is_stationary_inside_it(objective, optima, index):
    optimum = optima[index]
    theta = (objective.theta.detach() + torch.from_numpy(optimum.exact)).requires_grad_()
    kl, gain = objective.kl(theta), objective.surrogate_gain(theta)
    assert kl.item() == pytest.approx(optimum.max_kl, rel=1e-5)
    (of_kl,), (of_gain,) = torch.autograd.grad(kl, theta), torch.autograd.grad(gain, theta)
    assert torch.cosine_similarity(of_kl, of_gain, dim=0).item() == pytest.approx(1, abs=1e-5)


def test_observations_of_the_policy_are_those_of_pendulum():
    observations = constrained_optimum.pendulum_observations(300).numpy()
    assert observations.shape == (300, 3)
    np.testing.assert_allclose(observations[:, 0] ** 2 + observations[:, 1] ** 2, 1, rtol=1e-5)
    assert len(np.unique(observations, axis=0)) == 300
