"""Running statistics and what is said of the policy, by hand."""

import pytest
import torch
from test_batch import SIZE, agent_for, batch_of, rollout_of

from trpo.models.distributions import DiagonalGaussian
from trpo.update.statistics import update_normalizer, update_reward_scale


def test_the_reward_scale_sees_discounted_sums_that_restart_after_either_end():
    agent = agent_for(DiagonalGaussian(2), rewards=True)
    rollout = rollout_of(agent)
    start = torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64)
    after = update_reward_scale(agent, rollout, start, gamma=0.9)
    sums, seen = start.tolist(), []
    for t, env in torch.cartesian_prod(torch.arange(len(rollout.rewards)), torch.arange(len(sums))).tolist():
        if rollout.valid[t, env]:
            sums[env] = 0.9 * sums[env] + float(rollout.rewards[t, env])
            seen.append(sums[env])
            sums[env] *= not (rollout.terminated[t, env] or rollout.truncated[t, env])
    assert after.tolist() == pytest.approx(sums)
    assert agent.reward_std == pytest.approx(float(torch.tensor(seen).std(correction=0)), rel=1e-5)
    assert rollout.truncated.any()
    assert rollout.terminated.any()


def test_the_figures_of_sigma_are_its_mean_and_its_least():
    agent = agent_for(DiagonalGaussian(2))
    with torch.no_grad():
        agent.policy.rho.copy_(torch.tensor([1.0, -0.5]))
    rollout = rollout_of(agent)
    figures = update_normalizer(agent, rollout, batch_of(agent, rollout))
    sigmas = agent.policy.log_std().exp().tolist()
    assert figures["policy/std_min"] == pytest.approx(min(sigmas))
    assert figures["policy/std_mean"] == pytest.approx(sum(sigmas) / 2)
    assert sigmas[0] > sigmas[1] + 0.1
    assert agent.normalizer.moments.count == 100 + rollout.size
    assert agent.normalizer.moments.mean.shape == (SIZE,)
