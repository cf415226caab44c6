import itertools
import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from oracles import normal

from trpo.numerics.conjugate_gradient import Stop, conjugate_gradient
from trpo.numerics.krylov import ritz_values

SIZE = 12


def with_eigenvalues(eigenvalues, seed=0):
    """A symmetric matrix with these eigenvalues in a random basis."""
    basis, _ = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=seed))
    A = basis @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return (A + A.T) / 2


def relative_residual(A, x, b):
    return float((b - A @ x).norm() / b.norm())


def solve(A, b, *, max_iterations=SIZE, tolerance=0.0):
    return conjugate_gradient(lambda v: A @ v, b, max_iterations=max_iterations, tolerance=tolerance)


class Counted:
    """Products with A, counted; from number `broken_from` on they hold a `poison`."""

    def __init__(self, A, *, broken_from=math.inf, poison=math.nan):
        self.A, self.broken_from, self.poison, self.calls = A, broken_from, poison, 0

    def __call__(self, v):
        self.calls += 1
        product = self.A @ v
        if self.calls >= self.broken_from:
            product[0] = self.poison
        return product


@pytest.fixture(params=[0, 1, 2])
def system(request):
    seed = request.param
    return with_eigenvalues(torch.linspace(0.5, 20.0, SIZE), seed), normal(SIZE, seed=seed + 10)


def test_solution_is_that_of_a_direct_solver(system):
    A, b = system
    torch.testing.assert_close(solve(A, b).x, torch.linalg.solve(A, b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 5, 9])
def test_every_iterate_is_scipys(system, iterations):
    A, b = system
    theirs, _ = scipy.sparse.linalg.cg(A.numpy(), b.numpy(), rtol=0.0, maxiter=iterations)
    np.testing.assert_allclose(solve(A, b, max_iterations=iterations).x.numpy(), theirs, rtol=1e-9)


def test_residual_vanishes_after_as_many_steps_as_there_are_dimensions(system):
    A, b = system
    assert solve(A, b).residuals[-1] < 1e-9 < 1e-4 < solve(A, b, max_iterations=SIZE - 2).residuals[-1]


def test_three_distinct_eigenvalues_take_three_steps():
    A = with_eigenvalues([1.0] * 4 + [3.0] * 5 + [10.0] * 3)
    solution = solve(A, normal(SIZE, seed=1), tolerance=1e-10)
    assert solution.stop is Stop.CONVERGED
    assert solution.iterations == 3


def test_inputs_keep_their_bits_and_the_same_inputs_give_the_same_bits(system):
    A, b = system
    before = b.clone()
    first = solve(A, b)
    assert torch.equal(b, before)
    assert torch.equal(solve(A, b).x, first.x)


def test_each_iteration_costs_one_product_and_there_is_no_other(system):
    A, b = system
    for max_iterations in [1, 4, 9]:
        product = Counted(A)
        solution = conjugate_gradient(product, b, max_iterations=max_iterations, tolerance=0.0)
        assert product.calls == solution.iterations == max_iterations
        assert solution.stop is Stop.MAX_ITERATIONS


def test_it_stops_at_the_first_residual_inside_the_tolerance(system):
    A, b = system
    product = Counted(A)
    solution = conjugate_gradient(product, b, max_iterations=100, tolerance=1e-2)
    assert solution.stop is Stop.CONVERGED
    assert (
        relative_residual(A, solution.x, b)
        <= 1e-2
        < relative_residual(A, solve(A, b, max_iterations=product.calls - 1).x, b)
    )


def test_tolerance_is_relative_to_the_right_hand_side(system):
    A, b = system
    iterations = solve(A, b, tolerance=1e-3).iterations
    assert solve(A, 1e6 * b, tolerance=1e-3).iterations == solve(A, 1e-6 * b, tolerance=1e-3).iterations == iterations


def test_reported_residuals_are_those_of_the_iterates(system):
    A, b = system
    solution = solve(A, b, max_iterations=8)
    recomputed = [relative_residual(A, solve(A, b, max_iterations=k).x, b) for k in range(9)]
    assert solution.residuals == pytest.approx(recomputed, rel=1e-9)


def test_a_zero_right_hand_side_has_its_own_reason_and_costs_nothing():
    product = Counted(torch.eye(SIZE))
    solution = conjugate_gradient(product, torch.zeros(SIZE), max_iterations=5, tolerance=1e-3)
    assert solution.stop is Stop.ZERO_RIGHT_HAND_SIDE
    assert torch.equal(solution.x, torch.zeros(SIZE))
    assert product.calls == 0


def test_a_negative_first_curvature_leaves_zero():
    solution = solve(-torch.eye(SIZE, dtype=torch.float64), normal(SIZE, seed=1))
    assert solution.stop is Stop.NON_POSITIVE_CURVATURE
    assert solution.iterations == 0
    assert not solution.x.any()


def test_a_zero_matrix_is_not_positive():
    assert solve(torch.zeros(SIZE, SIZE), torch.ones(SIZE)).stop is Stop.NON_POSITIVE_CURVATURE


def test_an_indefinite_matrix_keeps_the_iterate_before_the_bad_direction():
    A = with_eigenvalues([-1.0, *torch.linspace(1.0, 9.0, SIZE - 1)])
    b = normal(SIZE, seed=1)
    solution = solve(A, b)
    assert solution.stop is Stop.NON_POSITIVE_CURVATURE
    assert 0 < solution.iterations < SIZE
    assert torch.equal(solution.x, solve(A, b, max_iterations=solution.iterations).x)
    assert len(solution.residuals) == solution.iterations + 1


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("broken_from", [1, 3])
def test_a_non_finite_product_keeps_the_iterate_before_it(system, poison, broken_from):
    A, b = system
    product = Counted(A, broken_from=broken_from, poison=poison)
    solution = conjugate_gradient(product, b, max_iterations=SIZE, tolerance=0.0)
    assert solution.stop is Stop.NON_FINITE
    assert solution.iterations == broken_from - 1
    assert torch.equal(solution.x, solve(A, b, max_iterations=broken_from - 1).x)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_right_hand_side_leaves_zero_and_costs_nothing(poison):
    product = Counted(torch.eye(SIZE))
    b = torch.ones(SIZE)
    b[4] = poison
    solution = conjugate_gradient(product, b, max_iterations=5, tolerance=1e-3)
    assert solution.stop is Stop.NON_FINITE
    assert torch.equal(solution.x, torch.zeros(SIZE))
    assert product.calls == 0


@pytest.mark.parametrize("scale", [1e25, 1.0, 1e-25])  # squares of 1e±50 do not fit float32
def test_huge_and_tiny_right_hand_sides_in_float32(system, scale):
    A, b = system[0].float(), system[1].float() * scale
    solution = solve(A, b, max_iterations=50, tolerance=1e-4)
    assert solution.stop is Stop.CONVERGED
    expected = torch.linalg.solve(system[0], system[1])
    torch.testing.assert_close(solution.x.double() / scale, expected, rtol=2e-3, atol=1e-4)


def test_a_solution_that_does_not_fit_float32_is_not_called_converged():
    # x = 10²⁵ / 10⁻³⁰ = 10⁵⁵
    solution = solve(1e-30 * torch.eye(SIZE), torch.full((SIZE,), 1e25), tolerance=1e-3)
    assert solution.stop is Stop.NON_FINITE
    assert torch.equal(solution.x, torch.zeros(SIZE))


def test_ritz_values_after_all_steps_are_the_eigenvalues(system):
    A, b = system
    torch.testing.assert_close(ritz_values(solve(A, b)), torch.linalg.eigvalsh(A), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_ritz_values_are_eigenvalues_of_the_matrix_projected_on_the_krylov_space(system, iterations):
    A, b = system
    krylov = torch.stack([torch.linalg.matrix_power(A, k) @ b for k in range(iterations)], dim=1)
    basis, _ = torch.linalg.qr(krylov)
    projected = torch.linalg.eigvalsh(basis.T @ A @ basis)
    torch.testing.assert_close(ritz_values(solve(A, b, max_iterations=iterations)), projected, rtol=1e-7, atol=0.0)


def test_ritz_values_lie_inside_the_spectrum_and_spread_with_every_step(system):
    A, b = system
    eigenvalues = torch.linalg.eigvalsh(A)
    spreads = [ritz_values(solve(A, b, max_iterations=k)) for k in range(1, SIZE)]
    assert all(eigenvalues[0] < ritz[0] and ritz[-1] < eigenvalues[-1] for ritz in spreads)
    assert all(wide[0] < narrow[0] and narrow[-1] < wide[-1] for narrow, wide in itertools.pairwise(spreads))


def test_a_solve_without_steps_has_no_ritz_values():
    assert len(ritz_values(solve(torch.eye(2), torch.zeros(2)))) == 0


@pytest.mark.parametrize("iterations", [0, 1, 5, SIZE])
@pytest.mark.parametrize("damping", [0.0, 0.5, 1e6])
def test_the_product_with_the_solution_comes_with_it_undamped(system, damping, iterations):
    A, b = system
    solution = conjugate_gradient(lambda v: A @ v, b, damping=damping, max_iterations=iterations, tolerance=0.0)
    torch.testing.assert_close(solution.product, A @ solution.x, rtol=1e-10, atol=1e-14)


def test_in_float32_the_curvature_from_the_solve_is_that_of_a_product_of_its_own():
    """Of a policy step, whose KL error is a hundred times what float32 may add to the curvature here."""
    A = with_eigenvalues(np.geomspace(1e-3, 1e3, SIZE)).float()
    b = normal(SIZE, seed=1).float()
    solution = conjugate_gradient(lambda v: A @ v, b, damping=30.0, max_iterations=SIZE, tolerance=0.0)
    exact = solution.x.double() @ A.double() @ solution.x.double()
    assert float(solution.x.double() @ solution.product.double()) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("damping", [0.5, 100.0])
def test_a_damped_system_is_the_system_with_the_damping_on_the_diagonal(system, damping):
    A, b = system
    damped = conjugate_gradient(lambda v: A @ v, b, damping=damping, max_iterations=SIZE, tolerance=0.0)
    expected = solve(A + damping * torch.eye(SIZE, dtype=A.dtype), b)
    torch.testing.assert_close(damped.x, expected.x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ritz_values(damped), ritz_values(expected), rtol=1e-6, atol=1e-9)
