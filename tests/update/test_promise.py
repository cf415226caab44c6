"""What the next batch says of a step, against enumeration: a bandit and a chain whose values are known exactly."""

import math

import pytest
import torch
from oracles import DISTRIBUTIONS, generator, normal, random_batch, random_policy
from torch import nn

from trpo.batch import Batch
from trpo.config import TrustRegionConfig
from trpo.models.distributions import Categorical, DiagonalGaussian
from trpo.models.networks import Policy
from trpo.numerics.params import assign, flatten
from trpo.update.promise import WINDOW, Judge, Promise, judge, promise_of
from trpo.update.trust_region import trust_region_step


class Table(Policy):
    """Logits for every state; observations are one-hot."""

    def __init__(self, logits):
        super().__init__()
        self.distribution = Categorical((logits.shape[1],))
        self.logits = nn.Parameter(logits)

    def forward(self, observations):
        return observations @ self.logits


class World:
    """Transitions P (S, A, S), rewards r (S, A), a discount and a first state, solved exactly."""

    def __init__(self, transitions, rewards, gamma):
        self.P = torch.tensor(transitions, dtype=torch.float64)
        self.r = torch.tensor(rewards, dtype=torch.float64)
        self.gamma = gamma
        self.start = torch.eye(len(self.P), dtype=torch.float64)[0]

    def visits(self, pi):
        """d(s) = (1 − γ)Σγᵗ P(s_t = s)."""
        P = torch.einsum("sa,sat->st", pi, self.P)
        return (1 - self.gamma) * torch.linalg.solve(torch.eye(len(P)).double() - self.gamma * P.T, self.start)

    def values(self, pi):
        P, r = torch.einsum("sa,sat->st", pi, self.P), (pi * self.r).sum(1)
        return torch.linalg.solve(torch.eye(len(P)).double() - self.gamma * P, r)

    def advantages(self, pi):
        return self.r + self.gamma * self.P @ self.values(pi) - self.values(pi).unsqueeze(1)

    def objective(self, pi):
        """(1 − γ)J."""
        return float((1 - self.gamma) * self.start @ self.values(pi))


STAY, SWITCH = [[1, 0], [0, 1]], [[0, 1], [1, 0]]
CHAIN = World([[STAY[0], SWITCH[0]], [STAY[1], SWITCH[1]]], [[0.0, 0.3], [1.0, -0.5]], gamma=0.5)
BANDIT = World([[[1.0]] * 3], [[0.2, 1.0, -0.4]], gamma=0.0)
# Of the new policies; in the chain d(s)π(a|s) is (18, 6, 2, 2)/28, so that 28 rows are its distribution exactly.
CHAIN_PI = torch.tensor([[0.75, 0.25], [0.5, 0.5]], dtype=torch.float64)
BANDIT_PI = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
COUNTS = torch.tensor([[18, 6], [2, 2]])
STEP = {"chain": [[0.3, -0.2], [-0.1, 0.25]], "bandit": [[-0.2, 0.3, -0.15]]}
WORLDS = {"chain": (CHAIN, CHAIN_PI), "bandit": (BANDIT, BANDIT_PI)}


def batch_of(world, policy, states, actions, *, standardized=False):
    pi = torch.softmax(policy.logits.detach(), dim=1)
    observations = torch.eye(len(world.P), dtype=torch.float64)[states]
    advantages = world.advantages(pi)[states, actions]
    scale = float(advantages.std(correction=0)) if standardized else 1.0
    if standardized:
        advantages = (advantages - advantages.mean()) / scale
    old = policy(observations).detach()
    return Batch(observations, actions.unsqueeze(1).double(), old, advantages, advantages, advantage_scale=scale)


def promise_from(theta):
    return Promise(theta, improvement=0.7, kl=0.01, reward_std=1.0)


def before(name, fraction):
    """θ_k (P,), so many full steps before the new policy."""
    return WORLDS[name][1].log().flatten() - fraction * torch.tensor(STEP[name], dtype=torch.float64).flatten()


def enumerated(name, theta):
    """Σ_s d_{k+1}(s) Σ_a (π_{k+1} − π_k)(a|s) A^{k+1}(s, a)."""
    world, pi = WORLDS[name]
    pi_k = torch.softmax(theta.view_as(pi), dim=1)
    return float((world.visits(pi).unsqueeze(1) * (pi - pi_k) * world.advantages(pi)).sum())


def test_the_counts_are_the_distribution():
    torch.testing.assert_close(COUNTS.double() / COUNTS.sum(), CHAIN.visits(CHAIN_PI).unsqueeze(1) * CHAIN_PI)


def exact_rows():
    pairs = [(s, a) for s in (0, 1) for a in (0, 1) for _ in range(int(COUNTS[s, a]))]
    return torch.tensor(pairs).unbind(1)


@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("standardized", [False, True])
def test_over_the_exact_distribution_it_is_the_enumeration(fraction, standardized):
    policy = Table(CHAIN_PI.log())
    batch = batch_of(CHAIN, policy, *exact_rows(), standardized=standardized)
    kept = judge(policy, batch, promise_from(before("chain", fraction))).improvement_kept
    assert kept == pytest.approx(enumerated("chain", before("chain", fraction)), rel=1e-9)


def test_halving_the_step_quarters_the_distance_to_the_true_improvement():
    policy = Table(CHAIN_PI.log())
    batch = batch_of(CHAIN, policy, *exact_rows())
    distances = []
    for fraction in (0.2, 0.1, 0.05):
        theta = before("chain", fraction)
        gained = CHAIN.objective(CHAIN_PI) - CHAIN.objective(torch.softmax(theta.view(2, 2), dim=1))
        distances.append(judge(policy, batch, promise_from(theta)).improvement_kept - gained)
    assert distances[0] / distances[1] == pytest.approx(4, rel=0.1)
    assert distances[1] / distances[2] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("name", WORLDS)
def test_the_mean_of_many_seeds_is_the_enumeration(name):
    world, pi = WORLDS[name]
    policy, theta = Table(pi.log()), before(name, 1.0)
    joint = (world.visits(pi).unsqueeze(1) * pi).flatten()
    kept = []
    for seed in range(200):
        drawn = torch.multinomial(joint, 4_000, replacement=True, generator=generator(seed))
        states, actions = drawn // pi.shape[1], drawn % pi.shape[1]
        batch = batch_of(world, policy, states, actions, standardized=True)
        kept.append(judge(policy, batch, promise_from(theta)).improvement_kept)
    kept = torch.tensor(kept)
    truth, error = enumerated(name, theta), float(kept.std() / math.sqrt(len(kept)))
    assert error < 0.1 * abs(truth)
    assert abs(float(kept.mean()) - truth) < 2 * error


def noisy_step(seed, *, shuffled):
    """A step on 500 samples of a bandit with contexts, and what 500 fresh ones keep of it."""
    policy = random_policy(DiagonalGaussian(2), seed=seed, hidden_sizes=(16,))
    first, second = (random_batch(policy, samples=500, seed=1000 * seed + k) for k in (10, 20))

    def judged(batch):
        advantages = -(batch.actions - batch.observations[:, :2]).square().sum(1)
        if shuffled:
            advantages = advantages[torch.randperm(500, generator=generator(seed))]
        return batch._replace(advantages=(advantages - advantages.mean()) / advantages.std())

    promise = promise_of(trust_region_step(policy, judged(first), TrustRegionConfig()), scale=1.0)
    noise = normal(500, 2, seed=seed + 77)
    with torch.no_grad():
        old = policy(second.observations)
    second = second._replace(old_parameters=old, actions=policy.distribution.sample(old, noise))
    return judge(policy, judged(second), promise)


def test_of_noise_nothing_is_kept_though_as_much_is_promised():
    true, noise = ([noisy_step(seed, shuffled=shuffled) for seed in range(100, 160)] for shuffled in (False, True))
    promised = [torch.tensor([one.improvement_promised for one in steps]).mean() for steps in (true, noise)]
    kept = [torch.tensor([one.improvement_kept for one in steps]) for steps in (true, noise)]
    error = float(kept[1].std() / math.sqrt(60))
    assert promised[1] > 20 * error
    assert abs(float(kept[1].mean())) < 3 * error
    assert kept[0].mean() > 0.5 * promised[0]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("micro_batch", [1, 7, 24])
def test_micro_batches_change_nothing_but_the_rounding(name, micro_batch):
    policy = random_policy(DISTRIBUTIONS[name])
    batch = random_batch(policy)._replace(advantage_scale=2.0)
    promise = promise_from(flatten(policy) + 0.1)
    whole, parts = judge(policy, batch, promise), judge(policy, batch, promise, micro_batch=micro_batch)
    assert list(parts) == pytest.approx(list(whole), rel=1e-9, abs=1e-12)
    assert abs(whole.improvement_kept) > 1e-3


def test_a_step_that_changed_nothing_keeps_exactly_nothing():
    """Also where the normaliser moved in between: both policies see the observations of the batch."""
    policy = random_policy(DiagonalGaussian(2))
    moved = random_batch(policy)
    moved = moved._replace(observations=3 * moved.observations - 1)
    moved = moved._replace(old_parameters=policy(moved.observations).detach())
    assert judge(policy, moved, promise_from(flatten(policy))).improvement_kept == 0.0


def test_units():
    """A common factor of the rewards changes what a batch says by it, and the promise by what the scale did since."""
    policy = random_policy(DiagonalGaussian(2))
    batch = random_batch(policy)
    promise = promise_from(flatten(policy) + 0.1)._replace(reward_std=6.0)
    one = judge(policy, batch, promise, reward_std=2.0)
    other = judge(policy, batch._replace(advantages=5 * batch.advantages + 3), promise, reward_std=2.0)
    scaled = judge(policy, batch._replace(advantage_scale=5.0), promise, reward_std=2.0)
    assert other.improvement_kept == pytest.approx(5 * one.improvement_kept)  # and a shift changes nothing
    assert other.advantage_std == pytest.approx(5 * one.advantage_std)
    assert list(scaled) == pytest.approx(list(other))
    assert one.improvement_promised == pytest.approx(0.7 * 6 / 2)
    assert one.advantage_std == pytest.approx(float(batch.advantages.std(correction=0)))


def test_ratios_that_overflow_are_no_judgement():
    policy = random_policy(DiagonalGaussian(2), dtype=torch.float32)
    batch = random_batch(policy)
    nearly_sure = flatten(policy)
    nearly_sure[:2] = -1e4  # ρ: log σ at its floor, far below where the actions were drawn from
    batch = batch._replace(
        actions=policy.distribution.mode(batch.old_parameters),
        old_parameters=batch.old_parameters + torch.tensor([0.0, 0.0, 50.0, 50.0]),
    )
    assert judge(policy, batch, promise_from(nearly_sure)) is None


def test_only_a_step_that_was_taken_promises():
    policy = random_policy(DiagonalGaussian(2))
    batch = random_batch(policy)
    equal = trust_region_step(policy, batch._replace(advantages=torch.zeros(24)), TrustRegionConfig())
    assert promise_of(equal, scale=1.0) is None
    taken = trust_region_step(policy, batch, TrustRegionConfig())
    promise = promise_of(taken, scale=3.0, reward_std=2.0)
    assert promise.improvement == 3 * taken.improvement
    assert (promise.kl, promise.reward_std) == (taken.kl, 2.0)
    assert torch.equal(promise.theta, taken.theta)


class TestJudge:
    @pytest.fixture
    def policy(self):
        return random_policy(DiagonalGaussian(2))

    @pytest.fixture
    def batch(self, policy):
        return random_batch(policy)

    def after(self, judge, policy, batch, steps):
        """What is said after so many steps with a promise."""
        for k in range(steps):
            judge.promise = promise_from(flatten(policy) + 0.01 * (k + 1))
            figures = judge.judge(policy, batch)
        return figures

    def test_nothing_is_said_without_a_step(self, policy, batch):
        judge = Judge()
        assert judge.judge(policy, batch) == {}
        self.after(judge, policy, batch, 1)
        assert judge.judge(policy, batch) == {}  # a promise is judged once

    def test_the_first_judgement_has_no_error_yet(self, policy, batch):
        figures = self.after(Judge(), policy, batch, 1)
        assert "kept_per_root_nat" in figures
        assert "kept_per_root_nat_low" not in figures

    def test_running_means_are_those_of_the_window_and_sums_those_of_the_run(self, policy, batch):
        judge, kept = Judge(), []
        for k in range(WINDOW + 5):
            judge.promise = promise_from(flatten(policy) + 0.001 * (k + 1))
            figures = judge.judge(policy, batch)
            kept.append(figures["improvement_kept"])
        spent = math.sqrt(0.01) * figures["advantage_std"]
        last = torch.tensor(kept[-WINDOW:], dtype=torch.float64)
        error = float(last.std() / math.sqrt(WINDOW)) / spent
        assert figures["kept_per_root_nat"] == pytest.approx(float(last.mean()) / spent)
        assert figures["kept_per_root_nat_high"] - figures["kept_per_root_nat"] == pytest.approx(2 * error)
        assert figures["promised_per_root_nat"] == pytest.approx(0.7 / spent)
        assert figures["improvement_kept_sum"] == pytest.approx(sum(kept))
        assert figures["improvement_promised_sum"] == pytest.approx(0.7 * len(kept))

    def test_its_state_brings_everything_back(self, policy, batch):
        first, second = Judge(), Judge()
        self.after(first, policy, batch, 3)
        first.promise = promise_from(flatten(policy) + 0.2)
        second.restore(first.state(), torch.device("cpu"))
        assert first.judge(policy, batch) == second.judge(policy, batch)

    def test_what_overflows_is_left_out(self, policy, batch):
        judge = Judge()
        judge.promise = promise_from(flatten(policy) + 0.1)
        assert judge.judge(policy, batch._replace(advantages=batch.advantages * math.inf)) == {}
        assert judge.window == type(judge.window)()


def test_the_figures_of_a_step_and_its_judge_are_about_the_same_policies():
    """A whole turn: a step, a batch of the policy it led to, and the judgement by torch.distributions."""
    policy = random_policy(DiagonalGaussian(2))
    theta = flatten(policy)
    step = trust_region_step(policy, random_batch(policy, samples=60), TrustRegionConfig())
    fresh = random_batch(policy, samples=60, seed=9)
    judgement = judge(policy, fresh, promise_of(step, scale=1.0))

    def log_probs(at):
        assign(policy, at)
        mean, log_std = policy(fresh.observations).detach().chunk(2, dim=1)
        return torch.distributions.Normal(mean, log_std.exp()).log_prob(fresh.actions).sum(1)

    new = log_probs(flatten(policy))
    ratios = (log_probs(theta) - new).exp()
    centred = fresh.advantages - fresh.advantages.mean()
    assert judgement.improvement_kept == pytest.approx(float(-((ratios - 1) * centred).mean()), rel=1e-9)
    assert judgement.judged_kl == step.kl
