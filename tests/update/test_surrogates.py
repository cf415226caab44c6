import math

import pytest
import torch
from oracles import DISTRIBUTIONS, normal, random_batch, random_policy

from trpo.config import TrustRegionConfig
from trpo.models.distributions import DiagonalGaussian
from trpo.numerics.params import flatten
from trpo.update.objective import Objective
from trpo.update.profile import profile_step
from trpo.update.surrogates import Score, pieces
from trpo.update.trust_region import trust_region_step

ROWS = torch.tensor([1, 4, 5, 17])


class Imitation:
    """Somebody's third surrogate: minus half the squared distance of the mean from a target, per sample."""

    scale = 3.0

    def __init__(self, policy, batch):
        self.columns = {"targets": normal(*batch.actions.shape, seed=8), "old": batch.old_parameters}

    def gain(self, parameters, piece):
        size = piece.columns["targets"].shape[1]
        new, old = parameters[:, :size], piece.columns["old"][:, :size]
        target = piece.columns["targets"]
        return ((new - old) * (target - 0.5 * (new + old))).sum(1).double()


@pytest.fixture(params=DISTRIBUTIONS)
def policy(request):
    return random_policy(DISTRIBUTIONS[request.param])


@pytest.mark.parametrize("micro_batch", [0, 1, 5, 24, 100])
def test_pieces_are_the_batch_and_the_columns_side_by_side(policy, micro_batch):
    batch = random_batch(policy)
    score = Score(policy.distribution, batch)
    parts = pieces(batch, score, micro_batch=micro_batch)
    assert torch.equal(torch.cat([part.observations for part in parts]), batch.observations)
    assert torch.equal(torch.cat([part.old_parameters for part in parts]), batch.old_parameters)
    for name, column in score.columns.items():
        assert torch.equal(torch.cat([part.columns[name] for part in parts]), column)
    assert max(len(part.observations) for part in parts) <= (micro_batch or 24)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_chosen_rows_are_a_batch_of_their_own(policy, micro_batch):
    """Gradient, products and evaluation over some rows are those of the batch that has no others."""
    batch = random_batch(policy)
    some = Objective(policy, batch, rows=ROWS, micro_batch=micro_batch)
    alone = Objective(policy, batch.map(lambda column: column[ROWS]), micro_batch=micro_batch)
    v = normal(len(flatten(policy)), seed=3)
    assert some.samples == len(ROWS)
    assert torch.equal(some.gradient(), alone.gradient())
    assert torch.equal(some.fisher_product(v), alone.fisher_product(v))
    assert some.evaluate(flatten(policy) + 0.1 * v) == alone.evaluate(flatten(policy) + 0.1 * v)


def test_of_no_rows_everything_is_zero(policy):
    """As for a rank without an environment of one half."""
    empty = Objective(policy, random_batch(policy), rows=torch.empty(0, dtype=torch.long))
    assert empty.samples == 0
    assert not empty.gradient().any()
    assert not empty.fisher_product(normal(len(flatten(policy)), seed=3)).any()


def test_the_scale_of_the_score_is_that_of_the_advantages():
    policy = random_policy(DiagonalGaussian(2))
    assert Score(policy.distribution, random_batch(policy)._replace(advantage_scale=4.0)).scale == 4.0


class TestAThirdSurrogate:
    """Nothing but `columns`, `gain` and `scale` is asked of it."""

    @pytest.fixture
    def policy(self):
        return random_policy(DiagonalGaussian(2))

    @pytest.fixture
    def batch(self, policy):
        return random_batch(policy)._replace(advantages=torch.full((24,), math.nan))  # nobody may look at them

    def loss(self, policy, batch, theta):
        surrogate = Imitation(policy, batch)
        (piece,) = pieces(batch, surrogate)
        return surrogate.gain(Objective(policy, batch).parameters(theta, batch.observations), piece).mean()

    @pytest.mark.parametrize("micro_batch", [0, 7])
    def test_its_gradient_and_its_improvement_are_those_by_hand(self, policy, batch, micro_batch):
        theta = flatten(policy).requires_grad_()
        (expected,) = torch.autograd.grad(self.loss(policy, batch, theta), theta)
        config = TrustRegionConfig(micro_batch=micro_batch)
        step = trust_region_step(policy, batch, config, surrogate=Imitation(policy, batch))
        torch.testing.assert_close(step.gradient, expected, rtol=1e-9, atol=1e-12)
        assert step.accepted
        assert step.improvement == pytest.approx(float(self.loss(policy, batch, flatten(policy))), rel=1e-9)
        assert step.improvement > 0

    def test_the_multiplier_is_bounded_in_its_unit(self, policy, batch):
        config = TrustRegionConfig(min_multiplier=1e3)
        step = trust_region_step(policy, batch, config, surrogate=Imitation(policy, batch))
        assert step.multiplier == pytest.approx(1e3 / Imitation.scale)

    def test_its_solve_may_use_a_share_of_the_batch(self, policy, batch):
        config = TrustRegionConfig(fisher_fraction=0.5)
        assert trust_region_step(policy, batch, config, surrogate=Imitation(policy, batch)).accepted

    def test_it_has_a_profile(self, policy, batch):
        surrogate, config = Imitation(policy, batch), TrustRegionConfig()
        theta = flatten(policy)
        step = trust_region_step(policy, batch, config, surrogate=surrogate)
        profile = profile_step(policy, batch, step, config, surrogate)
        at = profile.fractions.index(1.0)
        expected = float(self.loss(policy, batch, theta + step.step))
        assert profile.improvement[at] == pytest.approx(expected, rel=1e-9)
        assert profile.halves is None  # of a batch from no environments
