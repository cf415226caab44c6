import pytest
import torch
from oracles import normal

from trpo.numerics.conjugate_gradient import conjugate_gradient
from trpo.numerics.krylov import lanczos_matrix, shifted_solutions

SIZE = 12
DAMPINGS = (0.0, 0.01, 0.3, 5.0, 100.0)


@pytest.fixture
def matrix():
    root = normal(SIZE, SIZE, seed=1)
    return root @ root.T / SIZE + 0.1 * torch.eye(SIZE, dtype=torch.float64)


@pytest.fixture
def b():
    return normal(SIZE, seed=2)


def solve(matrix, b, damping, iterations):
    return conjugate_gradient(
        lambda v: matrix @ v, b, damping=damping, max_iterations=iterations, tolerance=0.0, keep_basis=True
    )


@pytest.mark.parametrize("damping", [0.0, 0.7])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_every_shift_of_one_solve_is_a_solve_of_its_own(matrix, b, damping, iterations):
    """Far from converged, so that not the system but the space decides."""
    shifted = shifted_solutions(solve(matrix, b, damping, iterations), damping, DAMPINGS)
    for one, wanted in zip(shifted, DAMPINGS, strict=True):
        x = solve(matrix, b, wanted, iterations).x
        torch.testing.assert_close(one.x, x, rtol=1e-9, atol=1e-11)
        assert one.curvature == pytest.approx(float(x @ matrix @ x), rel=1e-9)


def test_with_as_many_products_as_there_are_dimensions_it_is_the_dense_solution(matrix, b):
    (one,) = shifted_solutions(solve(matrix, b, 0.0, SIZE), 0.0, [0.5])
    dense = torch.linalg.solve(matrix + 0.5 * torch.eye(SIZE, dtype=torch.float64), b)
    torch.testing.assert_close(one.x, dense, rtol=1e-6, atol=1e-8)


def test_the_lanczos_matrix_is_that_of_the_basis(matrix, b):
    solution = solve(matrix, b, 0.2, 5)
    V = torch.stack([(-1) ** k * r / r.norm() for k, r in enumerate(solution.basis)])
    damped = matrix + 0.2 * torch.eye(SIZE, dtype=torch.float64)
    torch.testing.assert_close(lanczos_matrix(solution), V @ damped @ V.T, rtol=1e-9, atol=1e-11)


def test_the_basis_is_kept_only_if_asked_for(matrix, b):
    plain = conjugate_gradient(lambda v: matrix @ v, b, max_iterations=3, tolerance=0.0)
    assert plain.basis == () or list(plain.basis) == []
    assert torch.equal(plain.x, solve(matrix, b, 0.0, 3).x)
