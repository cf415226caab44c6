import pytest
import torch

from trpo.numerics.advantages import gae

STEPS, ENVS = 13, 4


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def rollout():
    """A random rollout in which episodes terminate, are truncated, and both, also in the last row."""
    chance = torch.rand(STEPS, ENVS, generator=torch.Generator().manual_seed(1))
    terminated, truncated = chance < 0.2, (chance > 0.1) & (chance < 0.3)
    terminated[-1, 0], truncated[-1, 1] = True, True
    assert (terminated & truncated).any()
    assert (terminated & ~truncated).any()
    assert (truncated & ~terminated).any()
    return {
        "rewards": noise(2, STEPS, ENVS),
        "values": noise(3, STEPS, ENVS),
        "next_values": noise(4, STEPS, ENVS),
        "terminated": terminated,
        "truncated": truncated,
    }


def by_definition(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    """Â_t = Σ_l (γλ)^l δ_{t+l}, the sum ending with the episode: O(T²), one environment at a time."""
    advantages = torch.zeros_like(rewards)
    for env in range(rewards.shape[1]):
        for start in range(len(rewards)):
            weight = 1.0
            for t in range(start, len(rewards)):
                successor = 0.0 if terminated[t, env] else gamma * next_values[t, env]
                advantages[start, env] += weight * (rewards[t, env] + successor - values[t, env])
                if terminated[t, env] or truncated[t, env]:
                    break
                weight *= gamma * lam
    return advantages


# Three steps of one environment, γ = λ = ½, r = (1, 2, 4), V = (8, 4, 2). Without an end
#   δ = (1 + ½·4 − 8, 2 + ½·2 − 4, 4 + ½·16 − 2) = (−5, −1, 10), as the next value of the last step is 16, and
#   Â₂ = 10, Â₁ = −1 + ¼·10 = 1.5, Â₀ = −5 + ¼·1.5 = −4.625.
# An end at step 1 leaves δ₂ = 10 and cuts Â₁ = δ₁; the observation that it ended in is worth 32.
# fmt: off
HAND_WORKED = {  # (terminated at, truncated at, value of what followed each step, Â)
    "the rollout just ends": ([], [], (4, 2, 16), (-4.625, 1.5, 10)),
    # δ₂ = 4 − 2 = 2, Â₁ = −1 + ¼·2, Â₀ = −5 − ¼·½
    "terminated with the rollout": ([2], [], (4, 2, 16), (-5.125, -0.5, 2)),
    "truncated with the rollout": ([], [2], (4, 2, 16), (-4.625, 1.5, 10)),
    # δ₁ = 2 − 4 = −2, Â₀ = −5 − ½
    "terminated in the middle": ([1], [], (4, 32, 16), (-5.5, -2, 10)),
    # δ₁ = 2 + 16 − 4 = 14, Â₀ = −5 + 3.5
    "truncated in the middle": ([], [1], (4, 32, 16), (-1.5, 14, 10)),
    "both in the middle": ([1], [1], (4, 32, 16), (-5.5, -2, 10)),
    # δ₀ = 1 + ½·32 − 8 = 9; then δ₁ = −2
    "two ends in a row": ([1], [0], (32, 32, 16), (9, -2, 10)),
}
# fmt: on


def hand_worked(case, layout):
    """Return GAE's arguments and the rows of `layout` that are steps; a None in it is a reset row of garbage."""
    terminated_at, truncated_at, next_values, _ = HAND_WORKED[case]
    rewards, values = (1, 2, 4), (8, 4, 2)
    column = {
        "rewards": [99.0 if t is None else rewards[t] for t in layout],
        "values": [-77.0 if t is None else values[t] for t in layout],
        "next_values": [55.0 if t is None else next_values[t] for t in layout],
        "terminated": [t in terminated_at for t in layout],
        "truncated": [t in truncated_at for t in layout],
    }
    arguments = {name: torch.tensor(rows).unsqueeze(-1) for name, rows in column.items()}
    arguments |= {name: arguments[name].double() for name in ("rewards", "values", "next_values")}
    return arguments, [row for row, t in enumerate(layout) if t is not None]


def next_step_layout(case):
    """The rows that next-step autoreset makes of three steps: a reset row after every end but the last row's."""
    ends = {*HAND_WORKED[case][0], *HAND_WORKED[case][1]} - {2}
    return [row for t in range(3) for row in ([t, None] if t in ends else [t])]


@pytest.mark.parametrize("case", HAND_WORKED)
def test_advantages_of_hand_worked_endings(case):
    arguments, _ = hand_worked(case, layout=[0, 1, 2])
    assert gae(**arguments, gamma=0.5, lam=0.5).squeeze(-1).tolist() == list(HAND_WORKED[case][3])


@pytest.mark.parametrize("case", HAND_WORKED)
def test_reset_rows_between_episodes_change_no_advantage(case):
    arguments, steps = hand_worked(case, next_step_layout(case))
    assert gae(**arguments, gamma=0.5, lam=0.5)[steps].squeeze(-1).tolist() == list(HAND_WORKED[case][3])


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_equals_its_definition(rollout, gamma, lam):
    expected = by_definition(**rollout, gamma=gamma, lam=lam)
    torch.testing.assert_close(gae(**rollout, gamma=gamma, lam=lam), expected, rtol=1e-12, atol=1e-12)


def test_lambda_0_gives_the_td_errors(rollout):
    bootstrap = torch.where(rollout["terminated"], 0.0, 0.9 * rollout["next_values"])
    td_errors = rollout["rewards"] + bootstrap - rollout["values"]
    torch.testing.assert_close(gae(**rollout, gamma=0.9, lam=0.0), td_errors, rtol=0, atol=1e-15)


def test_lambda_1_gives_discounted_sums_of_rewards_plus_the_bootstrap_minus_the_value(rollout):
    # V(s_{t+1}) must be the next row's value inside an episode for the values to telescope.
    ended = rollout["terminated"] | rollout["truncated"]
    rollout["next_values"][:-1] = torch.where(ended[:-1], rollout["next_values"][:-1], rollout["values"][1:])
    sums = torch.zeros(STEPS, ENVS, dtype=torch.float64)
    for env in range(ENVS):
        for start in range(STEPS):
            end = next((t for t in range(start, STEPS) if ended[t, env]), STEPS - 1)
            discounts = 0.9 ** torch.arange(end - start + 2, dtype=torch.float64)
            tail = torch.where(rollout["terminated"][end, env], 0.0, rollout["next_values"][end, env])
            sums[start, env] = discounts @ torch.cat([rollout["rewards"][start : end + 1, env], tail.unsqueeze(0)])
    advantages = gae(**rollout, gamma=0.9, lam=1.0)
    torch.testing.assert_close(advantages + rollout["values"], sums, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_gamma_0_leaves_reward_minus_value(rollout, lam):
    assert torch.equal(gae(**rollout, gamma=0.0, lam=lam), rollout["rewards"] - rollout["values"])


def test_permuting_environments_permutes_the_advantages(rollout):
    """To the bit: single sums and products round alike in every column."""
    order = torch.tensor([2, 0, 3, 1])
    permuted = gae(**{name: part[:, order] for name, part in rollout.items()}, gamma=0.9, lam=0.8)
    assert torch.equal(permuted, gae(**rollout, gamma=0.9, lam=0.8)[:, order])


def test_a_terminated_step_lacks_exactly_gamma_times_the_final_value(rollout):
    """And nothing else differs: the λ-recursion is cut by either."""
    only_truncated = rollout | {"terminated": torch.zeros_like(rollout["terminated"])}
    only_truncated["truncated"] = rollout["terminated"] | rollout["truncated"]
    difference = gae(**only_truncated, gamma=0.9, lam=0.0) - gae(**rollout, gamma=0.9, lam=0.0)
    expected = torch.where(rollout["terminated"], 0.9 * rollout["next_values"], 0.0)
    torch.testing.assert_close(difference, expected, rtol=0, atol=1e-14)


def test_an_end_hides_everything_after_it_from_everything_before(rollout):
    terminated, truncated = rollout["terminated"].clone(), rollout["truncated"].clone()
    terminated[6], truncated[6] = torch.tensor([True, False, True, False]), torch.tensor([False, True, True, True])
    cut = rollout | {"terminated": terminated, "truncated": truncated}
    changed = {name: part.clone() for name, part in cut.items()}
    for name in ("rewards", "values", "next_values"):
        changed[name][7:] += 1000.0
    first, second = (gae(**arguments, gamma=0.99, lam=0.95) for arguments in (cut, changed))
    assert torch.equal(first[:7], second[:7])
    assert not torch.equal(first[7:], second[7:])
