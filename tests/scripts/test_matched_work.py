"""That the benchmark gives everybody the same work, and counts no more than it in the floor."""

import pytest
import torch
from speed import floor, updates
from speed.rows import Options
from speed.work import make_work, old_parameters

from trpo.update.objective import Objective

CPU = torch.device("cpu")


def test_the_floor_has_the_products_counted_by_hand():
    products = floor.products_of((17, 64, 48, 6), 100, CPU)
    first, second, third = 17 * 64, 64 * 48, 48 * 6
    assert sum(product.operations for product in products) == 2 * 100 * (2 * first + 4 * second + 4 * third)
    assert len(products) == 2 + 4 + 4
    assert all(tuple(p.out.shape) == (p.left.shape[0], p.right.shape[1]) for p in products)


def test_the_floor_is_the_work_of_a_linear_network():
    """With no activations JᵀJv is nothing but matrix products: PyTorch's own count of its operations agrees."""
    from torch.utils.flop_counter import FlopCounterMode

    work = make_work(64, (32, 16), CPU)
    objective = Objective(work.policy, work.batch)
    v = torch.randn_like(objective.theta)
    objective.fisher_product(v)
    with FlopCounterMode(display=False) as counter:
        objective.fisher_product(v)
    products = floor.products_of((17, 32, 16, 6), 64, CPU)
    assert counter.get_total_flops() == sum(product.operations for product in products)


def test_the_floor_multiplies_into_its_outputs():
    products = floor.products_of((3, 4, 2), 5, CPU)
    outputs = [product.out for product in products]
    floor.multiply(products)()
    for product, out in zip(products, outputs, strict=True):
        assert product.out is out
        torch.testing.assert_close(out, product.left @ product.right)


def test_a_contestant_that_is_not_installed_has_a_row_that_says_how_to_install_it():
    options = Options(CPU, repetitions=2, quick=True)
    rows = updates.measured({"there": lambda: 4.0, "missing": None}, {"samples": 1}, options)
    assert [(row.contestant, row.values) for row in rows] == [("there", [4.0, 4.0]), ("missing", [])]
    assert rows[1].note == "missing is not installed: pip install 'trpo[peers]'"


@pytest.fixture(scope="module")
def work():
    """Work with a σ of its own, which a peer does not have unless it is copied."""
    work = make_work(200, (16, 16), CPU)
    with torch.no_grad():
        work.policy.rho.sub_(1)
    return work._replace(batch=work.batch._replace(old_parameters=old_parameters(work.policy, work.batch.observations)))


def counted(monkeypatch, owner, name):
    """A list that grows with every call of a method."""
    calls, method = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **kwargs: calls.append(name) or method(*args, **kwargs))
    return calls


def test_our_update_has_15_iterations_and_their_curvature_for_nothing(work, monkeypatch):
    calls = counted(monkeypatch, Objective, "fisher_product")
    restore = updates.restorer(work)
    updates.our_update(work, updates.CONFIG)()
    restore()
    assert len(calls) == 15


@pytest.mark.filterwarnings("ignore")
def test_sb3_contrib_gets_the_same_work(work, monkeypatch):
    library = pytest.importorskip("sb3_contrib")
    from speed import sb3

    assert_same_network(work, sb3.make_fisher_product(work, CPU), share=6)  # its KL is a mean over action dimensions
    model = sb3.make_model(work, CPU)
    for column, name in ((work.batch.observations, "observations"), (work.batch.advantages, "advantages")):
        assert getattr(model.rollout_buffer, name).flatten().tolist() == column.flatten().tolist()
    calls = counted(monkeypatch, library.TRPO, "hessian_vector_product")
    _, update = sb3.make_update(work, CPU, 15)
    update()
    assert len(calls) == 1 + 15 + 1  # it starts from a random point, whose residual it needs


@pytest.mark.filterwarnings("ignore")
def test_tianshou_gets_the_same_work(work, monkeypatch):
    library = pytest.importorskip("tianshou.algorithm")
    from speed import tianshou_peer

    assert_same_network(work, tianshou_peer.make_fisher_product(work, CPU), share=1)
    calls = counted(monkeypatch, library.TRPO, "_MVP")
    _, update = tianshou_peer.make_update(work, CPU, 15)
    update()
    assert len(calls) == 15 + 1


def assert_same_network(work, product, share):
    """A peer's product less its damping is ours, but for σ, which everybody parametrises in another way."""
    objective = Objective(work.policy, work.batch)
    v = torch.randn_like(objective.theta)
    v[:6] = 0
    theirs = (product(v) - 0.1 * v) * share
    torch.testing.assert_close(theirs[6:], objective.fisher_product(v)[6:], rtol=1e-3, atol=1e-6)
