"""Targets of real rollouts and the fit, by another route."""

import math
from dataclasses import replace

import oracles
import pytest
import torch
from oracles import generator
from test_batch import ENVS, SIZE, STEPS, agent_for, batch_of, rollout_of

from trpo.config import ActionValuesConfig
from trpo.models.bounds import Clip
from trpo.models.distributions import Categorical, DiagonalGaussian
from trpo.numerics.ensemble import forward, layers_of
from trpo.numerics.moments import moments
from trpo.update.action_values import (
    Reader,
    Samples,
    assess,
    beside,
    fit_action_values,
    make_optimizer,
    recorded,
    samples_of,
)

BOUNDS = Clip(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
CONFIG = ActionValuesConfig(hidden_sizes=(16, 16), minibatches=150, minibatch_size=64)
BINNED = replace(CONFIG, bins=51, minibatches=300)


def case(distribution, bounds):
    agent = agent_for(distribution, rewards=True)
    rollout = rollout_of(agent)
    agent.reward_scale.moments.update(moments(3 * rollout.rewards[rollout.valid].unsqueeze(1)))
    record = recorded(rollout, batch_of(agent, rollout), distribution)
    values = oracles.action_values(CONFIG, SIZE, distribution, seed=1)
    return agent, rollout, record, values, Reader(values, agent, bounds, 0.5)


def true_next(agent, rollout):
    """The normalised observation that each row led to (T, B, O), row by row."""
    finals = iter(rollout.final_observations)
    following = torch.empty_like(rollout.observations)
    for t in range(STEPS):
        for b in range(ENVS):
            after = rollout.observations[t + 1, b] if t + 1 < STEPS else rollout.last_observations[b]
            following[t, b] = next(finals) if rollout.truncated[t, b] else after
    return agent.normalize(following.flatten(0, 1)).view_as(following)


def test_one_step_targets_are_those_of_each_rows_true_next_observation():
    """Discrete, so that V is a sum over actions; the order of the final observations is that of the truncated rows."""
    distribution = Categorical((3,))
    agent, rollout, record, values, reader = case(distribution, None)
    samples = samples_of(record, reader, generator(0), gamma=0.9, trace=0.0, draws=2)
    following = true_next(agent, rollout)
    expected = []
    for t in range(STEPS):
        for b in range(ENVS):
            if rollout.valid[t, b]:
                observation = following[t, b].unsqueeze(0)
                chances = torch.softmax(agent.policy(observation), 1)
                several = values(observation)
                worth = float((chances * (several.mean(0) - 0.5 * several.std(0, correction=0))).sum().detach())
                reward = float(rollout.rewards[t, b]) / agent.reward_std
                expected.append(reward + (0.0 if rollout.terminated[t, b] else 0.9 * worth))
    assert rollout.truncated.any()
    assert rollout.terminated.any()
    assert samples.targets.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    actions = rollout.actions[rollout.valid].flatten()
    assert samples.outputs.tolist() == actions.tolist()
    assert torch.equal(samples.inputs, agent.normalize(rollout.observations[rollout.valid]))


def flipped(rollout):
    """The same environments in the opposite order, with other final observations."""
    rows = {name: getattr(rollout, name).flip(1) for name in rollout._fields[:6]}
    finals = 7 - rollout.final_observations
    return rollout._replace(**rows, last_observations=rollout.last_observations.flip(0), final_observations=finals)


def test_rollouts_side_by_side_have_the_samples_that_each_has_alone():
    """Discrete, so that no noise is drawn; the final observations are those of the rows that they were of."""
    distribution = Categorical((3,))
    agent, rollout, record, _, reader = case(distribution, None)
    other = flipped(rollout)
    records = [record, recorded(other, batch_of(agent, other), distribution), record]
    wide = beside(records)
    settings = {"gamma": 0.9, "trace": 0.8, "draws": 2}
    together = samples_of(wide, reader, generator(0), **settings)
    alone = [samples_of(one, reader, generator(0), **settings) for one in records]
    for column, parts in zip(together, zip(*alone, strict=True), strict=True):
        grids = []
        for one, part in zip(records, parts, strict=True):
            grids.append(part.new_zeros(STEPS, ENVS, *part.shape[1:]))
            grids[-1][one.rollout.valid] = part
        torch.testing.assert_close(column, torch.cat(grids, dim=1)[wide.rollout.valid])


def test_continuous_actions_enter_as_the_environment_saw_them():
    agent, rollout, record, _, reader = case(DiagonalGaussian(2), BOUNDS)
    wide = record.rollout._replace(actions=3 * rollout.actions)
    samples = samples_of(record._replace(rollout=wide), reader, generator(0), gamma=0.9, trace=0.5, draws=2)
    states, actions = samples.inputs.split([SIZE, 2], dim=1)
    assert torch.equal(states, agent.normalize(rollout.observations[rollout.valid]))
    assert torch.equal(actions, (3 * rollout.actions[rollout.valid]).clamp(-1, 1))
    assert (actions.abs() == 1).any()


def test_under_the_policy_that_acted_every_ratio_is_one():
    agent, _, record, _, reader = case(DiagonalGaussian(2), BOUNDS)
    samples = samples_of(record, reader, generator(0), gamma=0.9, trace=0.5, draws=2)
    torch.testing.assert_close(samples.traces, torch.ones_like(samples.traces), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        agent.policy.network[0].bias += 1.0
    moved = samples_of(record, reader, generator(0), gamma=0.9, trace=0.5, draws=2)
    assert moved.traces.min() < 0.9
    assert moved.traces.max() <= 1.0


@pytest.mark.parametrize(
    ("distribution", "bounds", "drawn"),
    [(Categorical((3,)), None, False), (DiagonalGaussian(2), BOUNDS, True)],
    ids=str,
)
def test_only_actions_that_cannot_be_counted_are_drawn(distribution, bounds, drawn):
    _, _, record, _, reader = case(distribution, bounds)
    used, fresh = generator(0), generator(0)
    samples_of(record, reader, used, gamma=0.9, trace=0.5, draws=2)
    assert torch.equal(used.get_state(), fresh.get_state()) is not drawn


def data(rows=400):
    inputs = torch.randn(rows, 5, generator=generator(1))
    targets = torch.sin(inputs[:, 0]) + 0.5 * inputs[:, 1]
    return Samples(inputs, torch.zeros(rows, dtype=torch.long), targets, torch.ones(rows))


def error(values, outputs, targets):
    """Squared errors of values, or the cross-entropy of torch for logits of bins."""
    if values.head.outputs == 1:
        return (outputs.squeeze(2) - targets).square().mean(1).sum()
    wanted = values.head.wanted(targets)
    return sum(torch.nn.functional.cross_entropy(one, wanted) for one in outputs)


@pytest.mark.parametrize("bins", [0, 20])
def test_a_fit_is_that_of_autograd_and_adamw_step_by_step(bins):
    shape = {"hidden_sizes": (7,), "bins": bins}
    samples, config = data(), ActionValuesConfig(minibatches=20, minibatch_size=32, **shape)
    fitted, by_hand = (oracles.action_values(config, 3, DiagonalGaussian(2), seed=1) for _ in range(2))
    fit_action_values(fitted, make_optimizer(fitted, config), samples, config, generator(5))
    by_hand.theta.requires_grad_()
    optimizer = torch.optim.AdamW([by_hand.theta], lr=config.learning_rate, weight_decay=1e-4)
    for chosen in torch.randint(400, (20, 32), generator=generator(5)):
        outputs = forward(layers_of(by_hand.theta, 2, by_hand.sizes), samples.inputs[chosen])
        loss = error(by_hand, outputs, samples.targets[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(fitted.theta, by_hand.theta.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [CONFIG, BINNED], ids=["numbers", "bins"])
def test_a_fit_learns_and_its_assessment_says_so(config):
    samples = data()
    values = oracles.action_values(config, 3, DiagonalGaussian(2), seed=1)
    before = assess(values, samples)
    fit_action_values(values, make_optimizer(values, config), samples, config, generator(5))
    after = assess(values, samples)
    assert after.loss < before.loss / 5
    assert after.explained_variance > 0.8
    q = values(samples.inputs).squeeze(2)
    assert after.loss == pytest.approx(float((q - samples.targets).square().mean()), rel=1e-4)
    assert after.disagreement == pytest.approx(float((q - q.mean(0)).square().mean().sqrt()), rel=1e-4)
    expected = 1 - float((samples.targets - q.mean(0)).var()) / float(samples.targets.var())
    assert after.explained_variance == pytest.approx(expected, rel=1e-4)


def test_targets_that_can_be_fitted_have_figures():
    """Squares of 2e19 are none of float32's numbers."""
    samples = data()
    samples = samples._replace(targets=1e19 * samples.targets)
    values = oracles.action_values(CONFIG, 3, DiagonalGaussian(2), seed=1)
    fit_action_values(values, make_optimizer(values, CONFIG), samples, CONFIG, generator(5))
    assessment = assess(values, samples)
    assert assessment.loss == pytest.approx(float(samples.targets.double().square().mean()), rel=1e-6)
    assert assessment.explained_variance == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("config", "target"), [(CONFIG, 1e38), (BINNED, math.nan)])
def test_networks_that_diverge_are_left_as_they_were(config, target):
    samples = data()._replace(targets=torch.full((400,), target))
    values = oracles.action_values(config, 3, DiagonalGaussian(2), seed=1)
    before = values.theta.clone()
    with pytest.raises(FloatingPointError, match=r"the action values diverged: their targets reach (1e\+38|nan)"):
        fit_action_values(values, make_optimizer(values, config), samples, config, generator(5))
    assert torch.equal(values.theta, before)
