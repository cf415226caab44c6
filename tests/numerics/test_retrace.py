"""Retrace by hand, by brute force, and against the values of a chain that are known exactly."""

import numpy as np
import pytest
import torch
from oracles import generator, normal

from trpo.numerics.retrace import retrace

STEPS, ENVS = 9, 4


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def flags(*values):
    return torch.tensor(values, dtype=torch.bool).unsqueeze(1)


def test_by_hand():
    """γ ½, λ 1; the rows: a termination, its reset row, a step, a truncation, a step, and the rollout's end.

    From the end: 6 + ½·30 = 21. Before it 5 + ½[20 + ½(21 − 8)] = 18.25. The truncation: 4 + ½·10 = 9. Before it, with
    a ratio of 2 that counts as 1: 3 + ½[6 + 1·(9 − 2)] = 9.5. The termination: 1.
    """
    targets = retrace(
        column(1, 99, 3, 4, 5, 6),
        column(50, 60, 6, 10, 20, 30),
        column(7, 70, 1, 2, 3, 8),
        column(1, 1, 0.3, 2.0, 1, 0.5),
        flags(1, 0, 0, 0, 0, 0),
        flags(0, 0, 0, 1, 0, 0),
        flags(1, 0, 1, 1, 1, 1),
        gamma=0.5,
        trace=1.0,
    ).flatten()
    assert targets[[0, 2, 3, 4, 5]].tolist() == [1.0, 9.5, 9.0, 18.25, 21.0]


def random_rollout():
    ended = torch.rand(STEPS, ENVS, generator=generator(1)) < 0.3
    terminated = ended & (torch.rand(STEPS, ENVS, generator=generator(2)) < 0.5)
    valid = torch.rand(STEPS, ENVS, generator=generator(3)) < 0.85
    columns = [normal(STEPS, ENVS, seed=seed) for seed in (4, 5, 6)]
    ratios = (0.7 * normal(STEPS, ENVS, seed=7)).exp()
    return *columns, ratios, terminated, ended & ~terminated, valid


def brute_force(rewards, next_values, q, ratios, terminated, truncated, valid, *, gamma, trace, t, b):
    """The sum of equation 3, written as a sum: products of traces over temporal differences."""
    total, weight = float(q[t, b]), 1.0
    for s in range(t, STEPS):
        bootstrap = 0.0 if terminated[s, b] else gamma * float(next_values[s, b])
        total += weight * (float(rewards[s, b]) + bootstrap - float(q[s, b]))
        if terminated[s, b] or truncated[s, b] or s == STEPS - 1 or not valid[s + 1, b]:
            break
        weight *= gamma * trace * min(1.0, float(ratios[s + 1, b]))
    return total


@pytest.mark.parametrize(("gamma", "trace"), [(0.9, 0.8), (1.0, 1.0), (0.9, 0.0)])
def test_every_target_is_the_sum_of_its_weighted_differences(gamma, trace):
    rollout = random_rollout()
    targets = retrace(*rollout, gamma=gamma, trace=trace)
    for t in range(STEPS):
        for b in range(ENVS):
            if rollout[-1][t, b]:
                expected = brute_force(*rollout, gamma=gamma, trace=trace, t=t, b=b)
                assert float(targets[t, b]) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_what_lies_beyond_an_end_does_not_matter():
    rollout = random_rollout()
    first = retrace(*rollout, gamma=0.9, trace=1.0)
    rewards, next_values, q, ratios, terminated, truncated, valid = (part.clone() for part in rollout)
    garbage = torch.full_like(rewards, 1e6)
    rewards, q, ratios = (torch.where(valid, part, garbage) for part in (rewards, q, ratios))
    second = retrace(rewards, torch.where(terminated, garbage, next_values), q, ratios, terminated, truncated, valid,
                     gamma=0.9, trace=1.0)  # fmt: skip
    assert torch.equal(first[valid], second[valid])


def test_nothing_leaks_out_of_rows_that_mean_nothing():
    """Not even NaN: a reset row, and the value behind a termination."""
    rewards, next_values, q, ratios, terminated, truncated, valid = random_rollout()
    garbage = torch.full_like(rewards, torch.nan)
    rewards, q, ratios = (torch.where(valid, part, garbage) for part in (rewards, q, ratios))
    next_values = torch.where(valid & ~terminated, next_values, garbage)
    targets = retrace(rewards, next_values, q, ratios, terminated, truncated, valid, gamma=0.9, trace=1.0)
    assert torch.isfinite(targets[valid]).all()


class Chain:
    """Two states, two actions; states change with probability ¾ where the action says so."""

    P = np.array([[[1.0, 0.0], [0.25, 0.75]], [[0.0, 1.0], [0.75, 0.25]]])  # (S, A, S)
    r = np.array([[0.0, 0.3], [1.0, -0.5]])
    gamma = 0.8

    def action_values(self, pi):
        q = np.zeros((2, 2))
        for _ in range(400):
            q = self.r + self.gamma * self.P @ (pi * q).sum(1)
        return q

    def play(self, behaviour, steps, envs, rng):
        state = rng.integers(2, size=envs)
        states, actions = [], []
        for _ in range(steps):
            action = (rng.random(envs) < behaviour[state, 1]).astype(int)
            states.append(state)
            actions.append(action)
            state = (rng.random(envs) < self.P[state, action, 1]).astype(int)
        return np.array(states), np.array(actions), state


def test_repeated_from_off_policy_data_it_finds_the_policys_own_values():
    """Q ← the mean target of each pair: its fixed point is Q of π, though every action is of another policy."""
    chain, rng = Chain(), np.random.default_rng(0)
    pi, behaviour = np.array([[0.2, 0.8], [0.9, 0.1]]), np.array([[0.6, 0.4], [0.3, 0.7]])
    states, actions, last = chain.play(behaviour, 40, 4_000, rng)
    following = np.concatenate([states[1:], last[None]])
    never, q = torch.zeros(states.shape, dtype=torch.bool), np.zeros((2, 2))
    ratios = torch.from_numpy(pi[states, actions] / behaviour[states, actions])
    for _ in range(25):
        targets = retrace(
            torch.from_numpy(chain.r[states, actions]),
            torch.from_numpy((pi * q).sum(1)[following]),
            torch.from_numpy(q[states, actions]),
            ratios,
            never,
            never,
            ~never,
            gamma=chain.gamma,
            trace=0.9,
        ).numpy()
        q = np.array([[targets[(states == s) & (actions == a)].mean() for a in (0, 1)] for s in (0, 1)])
    assert q == pytest.approx(chain.action_values(pi), abs=0.02)
    assert np.abs(q - chain.action_values(behaviour)).max() > 0.2
