"""Several ranks with a share of the samples each compute what one process computes with all of them."""

import json
import math
import socket
import subprocess
import sys
from itertools import chain

import pytest
import rank_work
import torch
from rank_scaling import messages
from rank_work import CUTS, SAMPLES
from tiny_runs import environment_variables

from trpo.config import CriticConfig
from trpo.numerics.params import flatten
from trpo.system import ranks
from trpo.update.critic import make_optimizer

EXACT = {"rtol": 1e-12, "atol": 1e-14}  # float64 rounding
COUNTS = (3, 2)

pytestmark = pytest.mark.slow  # processes of their own


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank of 2 and of 3 computed; under 1, this process."""
    folder = tmp_path_factory.mktemp("ranks")
    ports = json.dumps({count: free_port() for count in COUNTS})
    processes = [
        subprocess.Popen(
            [sys.executable, rank_work.__file__, str(rank), ports, folder],
            env=environment_variables() | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(max(COUNTS))
    ]
    try:
        alone = rank_work.work()
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    load = lambda count: [torch.load(folder / f"{count}_{rank}", weights_only=False) for rank in range(count)]  # noqa: E731
    return {1: [alone], **{count: load(count) for count in COUNTS}}


@pytest.fixture(params=COUNTS, ids="{} ranks".format)
def several(request, results):
    return results[request.param]


@pytest.fixture
def alone(results):
    return results[1][0]


def close(one, other):
    """Whether two nested results agree to float64 rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(close, one, other))
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and torch.allclose(one.double(), other.double(), **EXACT)
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    return one == other


@pytest.mark.parametrize("part", ["objective", "profile", "judgement", "statistics", "assess"])
def test_every_rank_has_what_one_process_has(part, several, alone):
    for rank in several:
        if isinstance(alone[part], dict):
            assert [name for name in alone[part] if not close(rank[part][name], alone[part][name])] == []
        assert close(rank[part], alone[part])


def test_halves_are_those_of_one_process(several, alone):
    """Not as close as the rest: a solve with a hundredth of the curvature magnifies what rounding did to its space."""
    for rank in several:
        for name, expected in alone["halves"].items():
            assert rank["halves"][name] == pytest.approx(expected, rel=1e-6), name


def rounding_of_the_solve(result):
    """How far θ may be off: by products, sums over samples and over θ, times the condition number of the solve."""
    lowest, highest = (result["figures"][f"curvature_{end}"] + result["figures"]["damping"] for end in ("min", "max"))
    terms = SAMPLES + len(result["theta"])
    return terms * torch.finfo(torch.float64).eps * highest / lowest * result["figures"]["step_norm"]


def test_every_rank_takes_the_step_of_one_process(several, alone):
    for rank in several:
        for form, expected in alone["step"].items():
            taken, tolerance = rank["step"][form], rounding_of_the_solve(expected)
            torch.testing.assert_close(taken["theta"], expected["theta"], rtol=0, atol=tolerance)
            assert taken["outcome"] == expected["outcome"]
            assert close(taken["figures"], expected["figures"])


def test_the_steps_compared_were_taken(alone):
    outcomes = {result["outcome"] for result in alone["step"].values()}
    assert outcomes == {"ACCEPTED"}


def bits(result):
    return [result["step"][form]["theta"] for form in result["step"]] + [
        *(fit["theta"] for fit in result["fit"].values()),
        result["iterations"]["theta"],
        *result["statistics"]["normalizer"].values(),
    ]


def test_all_ranks_have_the_same_bits(several):
    for rank in several[1:]:
        assert all(map(torch.equal, bits(several[0]), bits(rank)))


def test_advantages_are_standardised_over_the_samples_of_all_ranks(several, alone):
    together = torch.cat([rank["advantages"] for rank in several])
    torch.testing.assert_close(together, alone["advantages"], **EXACT)
    assert abs(float(together.mean())) < 1e-12
    assert float(together.std(correction=0)) == pytest.approx(1, abs=1e-12)
    assert all(abs(float(rank["advantages"].mean())) > 1e-3 for rank in several)  # each alone would differ


def test_a_critic_step_on_all_samples_is_that_of_one_process(several, alone):
    assert close(several[0]["fit"][SAMPLES], alone["fit"][SAMPLES])


@pytest.mark.parametrize("minibatch_size", [5, 1])  # a rank may have fewer rows than steps
def test_a_critic_step_takes_each_ranks_share_of_the_minibatch(minibatch_size, several):
    """Done again in one process, with the minibatches that the ranks' generators gave."""
    critic, observations, returns = rank_work.critic_problem()
    optimizer = make_optimizer(critic, CriticConfig())
    cuts = CUTS[len(several)]
    starts = [sum(cuts[:rank]) for rank in range(len(cuts))]
    generators = [rank_work.generator(6 + rank) for rank in range(len(cuts))]
    steps = min(math.ceil(SAMPLES / minibatch_size), max(cuts))  # each has a row of some rank at least
    for _ in range(3):
        orders = [torch.randperm(cut, generator=generator) for cut, generator in zip(cuts, generators, strict=True)]
        shares = [(begin + order).tensor_split(steps) for begin, order in zip(starts, orders, strict=True)]
        for parts in zip(*shares, strict=True):
            rows = torch.cat(parts)
            optimizer.zero_grad()
            (critic(observations[rows]) - returns[rows]).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(several[0]["fit"][minibatch_size]["theta"], flatten(critic), rtol=1e-9, atol=1e-10)


def test_messages_by_hand(results):
    """Rank r has r + 1 samples, all of value r: over two ranks (0 + 2·1)/3, over three (0 + 2·1 + 3·2)/6."""
    for count, mean, total in ((1, 0.0, 0), (2, 2 / 3, 1), (3, 8 / 6, 3)):
        for number, rank in enumerate(results[count]):
            cases = rank["small_cases"]
            torch.testing.assert_close(cases["mean"], torch.tensor([mean, 1.0]))
            assert cases["total"].tolist() == [total, count]
            assert cases["gathered"].tolist() == [[r, 10 + r] for r in range(count)]
            assert cases["largest"] == [count - 1, 0]
            assert cases["everyones"] == [{"rank": r} for r in range(count)]
            assert cases["of_leader"] == ("from", 0)
            assert cases["leads"] is (number == 0)


def test_shares_are_all_items_once_in_order_and_even(results):
    for members in results.values():
        for shares, items in zip(
            zip(*(rank["small_cases"]["shares"] for rank in members), strict=True), (0, 1, 3, 8, 20), strict=True
        ):
            assert list(chain(*shares)) == list(range(items))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_different_parameters_are_noticed_by_every_rank(several, alone):
    assert alone["disagreement"] is None
    for rank in several:
        assert f"the parameters of ranks [{len(several) - 1}] are no longer those of rank 0" in rank["disagreement"]


@pytest.mark.parametrize("problem", [("CartPole-v1", "sync"), ("Pendulum-v1", "sync")], ids="-".join)
def test_the_first_rollout_of_all_ranks_is_that_of_one_process(problem, several, alone):
    """The same environments from the same seeds, with the same noise.

    A rank acts on fewer rows, and matrix products over them round otherwise: in actions that are numbers this shows.
    Discrete ones are choices, which it could move only where two are as good but for the last bits: what follows is
    the same to the bit.
    """
    exact = problem[0] == "CartPole-v1"
    for name, whole in alone["rollout"][problem].items():
        if name != "final_observations":  # in row-major order, over its own environments
            parts = [rank["rollout"][problem][name] for rank in several]
            together = torch.cat(parts, dim=0 if name == "last_observations" else 1)
            assert together.dtype == whole.dtype
            torch.testing.assert_close(together, whole, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6, msg=name)


def test_an_iteration_of_several_ranks(several, alone):
    """CartPole's first rollout and so its statistics are one process's; from then on minibatches differ."""
    for rank in several:
        iterations = rank["iterations"]
        torch.testing.assert_close(iterations["warm"], alone["iterations"]["warm"], **EXACT)
        assert iterations["env_steps"] == alone["iterations"]["env_steps"] == 3 * 40
        assert iterations["fingerprint"] == several[0]["iterations"]["fingerprint"]
        assert iterations["evaluation"] == several[0]["iterations"]["evaluation"]


def test_iterations_with_memory_are_those_of_one_process(several, alone):
    """Every critic step is on all rows, whoever has them: what is left is the rounding of float32.

    Actions are discrete, so what they led to is the same to the bit.
    """
    expected = alone["memory"][40]
    for rank in several:
        found = rank["memory"][40]
        torch.testing.assert_close(found["theta"], expected["theta"], rtol=0, atol=3e-4)
        for figures, ours in zip(found["figures"], expected["figures"], strict=True):
            assert {tag: figures[tag] for tag in OF_MEMORY} == pytest.approx(
                {tag: ours[tag] for tag in OF_MEMORY}, 1e-3, 1e-9
            )
    for name, whole in expected["carried"].items():
        together = torch.cat([rank["memory"][40]["carried"][name] for rank in several])
        exact = name in ("memory.action", "memory.reward")
        torch.testing.assert_close(together, whole, rtol=0, atol=0 if exact else 3e-5, msg=name)
        assert whole.any(dim=1).all(), name


def test_a_spread_that_differs_from_state_to_state_is_that_of_all_ranks(several, alone):
    for rank in several:
        assert rank["spread"] == pytest.approx(alone["spread"], rel=1e-4)
    assert alone["spread"]["std_min"] < 0.99 * alone["spread"]["std_mean"]


OF_MEMORY = (
    *("policy/entropy", "critic/explained_variance_after", "trust_region/gradient_norm", "trust_region/kl"),
    *("trust_region/improvement", "trust_region/state_kl", "trust_region/normalizer_kl"),
)


def test_a_rank_with_fewer_segments_than_the_critic_takes_steps_keeps_up(several):
    """Some of its minibatches are empty; whole segments are never cut."""
    for rank in several:
        assert torch.equal(rank["memory"][10]["theta"], several[0]["memory"][10]["theta"])
        assert rank["memory"][10]["theta"].isfinite().all()


def test_an_iteration_sends_the_messages_that_are_counted_for_it(several):
    """Forty samples, so four critic steps in each of three epochs; the stop request comes from outside an iteration.

    The first iteration has no step to judge.
    """
    for rank in several:
        for iteration, sent in enumerate(rank["iterations"]["sent"]):
            expected = messages(sent["cg_iterations"], sent["candidates"], critic_steps=12)
            assert sent["all_gather_into_tensor"] == sum(expected.values()) - 1 - (iteration == 0)
            assert {"all_gather_object", "broadcast_object_list"}.isdisjoint(sent)


def test_one_process_sends_nothing(alone):
    assert all(set(sent) == {"cg_iterations", "candidates"} for sent in alone["iterations"]["sent"])


@pytest.mark.parametrize(
    "environment",
    [{}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}],
    ids=["bare", "batch system", "alone"],
)
def test_without_torchrun_there_is_one_rank(environment, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with ranks.joined():
        assert (ranks.count(), ranks.number(), ranks.leads(), ranks.number_here()) == (1, 0, True, 0)
