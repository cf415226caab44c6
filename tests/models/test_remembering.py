"""Memory against a loop by hand: what acts is what the update sees, whichever rows are together in a pass."""

from functools import partial

import pytest
import torch
from oracles import DISTRIBUTIONS, dense_fisher, dense_kl_hessian, generator, normal, random_policy
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from trpo.batch import Batch, by_parts
from trpo.models.encoders import Encoder
from trpo.models.memory import Memory, Segments, groups, whole_segments
from trpo.models.observations import POLICY_STATE, SEGMENT, Kind, Leaf, leaves_of, like, tree
from trpo.numerics.params import flatten, forward_at
from trpo.update.objective import Objective, evenly_spread

KINDS = ["gru", "lstm"]
SIZE, INPUTS, STEPS = 4, 3, 5
# Rows of four segments, mixed as a rollout has them: steps of one environment are not neighbours.
IDS = torch.tensor([7, 2, 7, 2, 9, 7, 2, 9, 7, 4, 7])


def memory(kind, dtype=torch.float64, seed=0):
    encoder = Encoder({"observation": Leaf(Kind.VECTOR, (INPUTS,))}, generator=generator(seed))
    made = Memory(encoder, INPUTS, size=SIZE, kind=kind, generator=generator(seed)).to(dtype)
    with torch.no_grad():
        for i, parameter in enumerate(made.parameters()):
            parameter += 0.3 * normal(*parameter.shape, seed=i, dtype=dtype)
    return made


def policy_of(distribution, kind):
    return random_policy(distribution, encoder=memory(kind))


def rows(made, ids=IDS, dtype=torch.float64):
    """Observations, each segment starting from a state of its own."""
    count = len(ids)
    leaves = {"observation": normal(count, INPUTS, seed=1, dtype=dtype)}
    leaves[POLICY_STATE] = normal(count, made.state_size, seed=2, dtype=dtype)
    return tree({**leaves, SEGMENT: ids}, (count,))


def by_hand(made, observations):
    """Each segment alone, step by step, by torch's own cells: what is remembered, and the state after each row."""
    leaves, lstm = leaves_of(observations), isinstance(made.cell, nn.LSTM)
    cell = (nn.LSTMCell if lstm else nn.GRUCell)(INPUTS, SIZE).to(leaves["observation"].dtype)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in made.cell.state_dict().items()})
    features, states = torch.empty(len(observations), SIZE).to(leaves["observation"]), leaves[POLICY_STATE].clone()
    for segment in leaves[SEGMENT].unique():
        state = None
        for row in (leaves[SEGMENT] == segment).nonzero().flatten():
            state = leaves[POLICY_STATE][row : row + 1] if state is None else state
            state = cell(leaves["observation"][row : row + 1], tuple(state.split(SIZE, -1)) if lstm else state)
            state = torch.cat(state, -1) if lstm else state
            features[row], states[row] = state[0, :SIZE].detach(), state[0].detach()
    return features, states


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_over_all_rows_is_every_segment_step_by_step(kind):
    made = memory(kind)
    observations = rows(made)
    features, states = by_hand(made, observations)
    torch.testing.assert_close(made(observations).detach(), features, rtol=0, atol=1e-12)
    last = torch.stack([states[(segment == IDS).nonzero()[-1, 0]] for segment in IDS])
    torch.testing.assert_close(made.ends(observations), last, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_of_no_rows_nothing_is_remembered_and_the_gradient_is_zero(kind):
    """What a rank sees that has fewer segments than the others: its share of the mean over all ranks is there."""
    made = memory(kind)
    features = made(rows(made)[:0])
    assert features.shape == (0, SIZE)
    features.sum().backward()
    assert all(torch.equal(weights.grad, torch.zeros_like(weights)) for weights in made.cell.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_acting_step_by_step_is_the_pass_of_the_update(kind):
    """In the float32 of a run, with the state handed on as acting hands it on."""
    made = memory(kind, torch.float32)
    whole = rows(made, torch.arange(3).repeat(STEPS), torch.float32)
    state, acted = leaves_of(whole)[POLICY_STATE][:3], []
    for t in range(STEPS):
        step = tree(
            {**leaves_of(whole[3 * t : 3 * t + 3]), POLICY_STATE: state, SEGMENT: torch.arange(3)},
            (3,),
        )
        features, state = made.advance(step)
        acted.append(features)
    torch.testing.assert_close(torch.cat(acted), made(whole).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_of_a_row_inside_a_segment_is_not_looked_at(kind):
    made = memory(kind)
    observations = rows(made)
    inside = torch.tensor([(IDS[:i] == id).any() for i, id in enumerate(IDS)])
    leaves = leaves_of(observations)
    other = like(observations, {**leaves, POLICY_STATE: torch.where(inside[:, None], 99.0, leaves[POLICY_STATE])})
    assert torch.equal(made(other), made(observations))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_padded_and_what_is_beside_a_segment_changes_nothing_of_it(kind):
    """Neither a longer segment nor more of them."""
    made = memory(kind)
    alone = rows(made, torch.tensor([0, 1, 1, 2]))
    longer = torch.cat([alone, rows(made, torch.full((40,), 2)), rows(made, torch.tensor([3, 4, 4]))])
    assert len(Segments.of(leaves_of(longer)[SEGMENT]).packed(torch.zeros(47, 3)).data) == 47
    torch.testing.assert_close(made(longer)[:4], made(alone), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_environments_may_be_permuted_and_ids_renamed(kind):
    made = memory(kind)
    observations = rows(made)
    order = torch.cat([(segment == IDS).nonzero().flatten() for segment in (9, 4, 7, 2)])
    renamed = like(observations, {**leaves_of(observations), SEGMENT: -3 * IDS})
    for other in (observations[order], renamed[order]):
        torch.testing.assert_close(made(other), made(observations)[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_is_not_moved_by_another_one(kind):
    made = memory(kind)
    observations = rows(made)
    leaves = leaves_of(observations)
    other = like(observations, {**leaves, "observation": torch.where((IDS == 7)[:, None], 5.0, leaves["observation"])})
    same = IDS != 7
    torch.testing.assert_close(made(other)[same], made(observations)[same], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_the_fisher_matrix_through_time_is_the_dense_one_in_both_forms(distribution, kind):
    """J is through every earlier row of the segment; the Hessian of the mean KL is the same matrix at θ_old."""
    policy = policy_of(distribution, kind)
    observations = rows(policy.encoder, torch.tensor([0] * STEPS + [1] * 2))
    theta = flatten(policy)
    old = forward_at(policy, theta, observations)
    F = dense_fisher(policy, theta, observations)
    torch.testing.assert_close(F, dense_kl_hessian(policy, theta, observations, old), rtol=0, atol=1e-9 * F.abs().max())
    batch = batch_of(policy, observations)
    v = normal(len(theta), seed=3)
    for fisher in ("gauss_newton", "hessian"):
        for micro_batch in (0, 3):
            product = Objective(policy, batch, fisher=fisher, micro_batch=micro_batch).fisher_product(v)
            torch.testing.assert_close(product, F @ v, rtol=0, atol=1e-9 * float((F @ v).abs().max()))


def batch_of(policy, observations):
    with torch.no_grad():  # the rows segment by segment, as the update takes them: in another order BLAS sums otherwise
        parameters = by_parts(partial(forward_at, policy, flatten(policy)), observations, 0)
    noise = policy.distribution.noise(len(parameters), generator(5), parameters.dtype)
    actions = policy.distribution.sample(parameters, noise)
    advantages = normal(len(parameters), seed=6, dtype=parameters.dtype)
    return Batch(observations, actions, parameters, advantages, torch.zeros(len(parameters)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_kl_is_the_mean_of_stepwise_ones_of_two_networks_that_remember_for_themselves(kind):
    old = policy_of(DISTRIBUTIONS["gaussian"], kind)
    observations = rows(old.encoder)
    batch = batch_of(old, observations)
    objective = Objective(old, batch)
    theta = objective.theta.detach() + 0.1 * normal(len(objective.theta), seed=8)
    new = policy_of(DISTRIBUTIONS["gaussian"], kind)
    with torch.no_grad():
        nn.utils.vector_to_parameters(theta, new.parameters())
        pairs = [
            torch.cat(
                [policy.network(by_hand(policy.encoder, observations)[0]), policy.log_std().expand(len(IDS), -1)], -1
            )
            for policy in (old, new)
        ]
        expected = old.distribution.kl(*pairs).mean()
        assert float(objective.kl(theta)) == pytest.approx(float(expected), rel=1e-9)
        assert float(objective.kl(objective.theta)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_of_one_step_are_those_of_a_network_without_memory(kind):
    """From states of zero it is one more layer: written out as such, it has the same gradient and curvature."""
    policy = policy_of(DISTRIBUTIONS["categorical"], kind)
    observations = rows(policy.encoder, torch.arange(6))
    observations = like(
        observations, {**leaves_of(observations), POLICY_STATE: torch.zeros(6, policy.encoder.state_size).double()}
    )
    batch = batch_of(policy, observations)

    class Layer(type(policy)):
        def forward(self, seen):
            w, _, b, c = self.encoder.cell.parameters()
            gates = (leaves_of(seen)["observation"] @ w.T).split(SIZE, -1)
            biases = list(zip(b.split(SIZE), c.split(SIZE), strict=True))
            if kind == "gru":
                z = torch.sigmoid(gates[1] + sum(biases[1]))
                r = torch.sigmoid(gates[0] + sum(biases[0]))
                h = (1 - z) * torch.tanh(gates[2] + biases[2][0] + r * biases[2][1])
            else:
                i, _, g, o = (gate + sum(bias) for gate, bias in zip(gates, biases, strict=True))
                h = torch.sigmoid(o) * torch.tanh(torch.sigmoid(i) * torch.tanh(g))
            return self.network(h)

    plain = policy_of(DISTRIBUTIONS["categorical"], kind)
    plain.__class__ = Layer
    pair = [Objective(one, batch) for one in (policy, plain)]
    torch.testing.assert_close(pair[0].gradient(), pair[1].gradient(), rtol=0, atol=1e-12)
    v = normal(len(pair[0].theta), seed=3)
    torch.testing.assert_close(pair[0].fisher_product(v), pair[1].fisher_product(v), rtol=0, atol=1e-12)


def test_groups_are_whole_segments_and_every_row_is_in_one():
    observations = rows(memory("gru"))
    for most in (0, 1, 3, 6, 100):
        found = groups(observations, most)
        assert sorted(torch.cat(found).tolist()) == list(range(len(IDS)))
        for group in found:
            assert not set(IDS[group].tolist()) & set(IDS[[i for i in range(len(IDS)) if i not in group]].tolist())
            assert len(group) <= max(most, 5) or most == 0
    assert len(groups(observations, 0)) == 1
    assert [IDS[segment].unique().tolist() for segment in whole_segments(observations)] == [[2], [4], [7], [9]]
    assert groups(torch.zeros(4, 3), 2) is None


def test_a_subset_for_the_fisher_matrix_is_of_whole_segments():
    policy = policy_of(DISTRIBUTIONS["gaussian"], "gru")
    batch = batch_of(policy, rows(policy.encoder))
    half = evenly_spread(batch, 0.5)
    assert len(IDS[half].unique()) == 2
    assert sorted(half.tolist()) == torch.isin(IDS, IDS[half]).nonzero().flatten().tolist()
    assert sorted(evenly_spread(batch, 1.0).tolist()) == list(range(len(IDS)))


def test_packing_and_back_gives_the_rows_again():
    """The same as PyTorch packs a list of the segments, the longest first."""
    values = normal(len(IDS), 2, seed=1)
    segments = Segments.of(IDS)
    found = segments.packed(values)
    each = [values[number == IDS] for number in IDS.unique()]
    each.sort(key=len, reverse=True)
    expected = pack_sequence(each)
    assert torch.equal(found.data, expected.data)
    assert torch.equal(found.batch_sizes, expected.batch_sizes)
    assert torch.equal(segments.unpacked(found), values)
    assert torch.equal(segments.firsts(values), torch.stack([rows[0] for rows in each]))
    assert torch.equal(segments.firsts(values)[segments.number], torch.stack([values[i == IDS][0] for i in IDS]))
