"""Whole runs, as the rows of their metrics tell them."""

import itertools
import logging
import math

import pytest
import torch
from tiny_runs import checkpoints, rows, summary, train_tiny

from trpo import trainer
from trpo.numerics.params import flatten
from trpo.system import seeds

# Settings under which steps are accepted, shortened, and rejected.
SETTINGS = {
    "cartpole": ("cartpole", []),
    "pendulum": ("pendulum", []),
    "without normalisation": ("pendulum", ["normalize.observations=false", "normalize.rewards=false"]),
    "large region": ("cartpole", ["trust_region.max_kl=0.3"]),
    "undamped": ("pendulum", ["trust_region.damping=0", "trust_region.cg_iterations=30"]),
    "no backtracking": ("pendulum", ["trust_region.max_backtracks=0"]),
    "half of the Fisher matrix": ("pendulum", ["trust_region.fisher_fraction=0.5"]),
    "micro-batches": ("cartpole", ["trust_region.micro_batch=5"]),
    "micro-batches of continuous actions": ("pendulum", ["trust_region.micro_batch=5"]),
}


@pytest.fixture(scope="module", params=SETTINGS)
def metrics(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run") / "run"
    task, overrides = SETTINGS[request.param]
    assert train_tiny(directory, "run.total_steps=352", "run.evaluation_episodes=0", *overrides, task=task) == 0
    return rows(directory)


def test_the_kl_never_breaks_its_bound(metrics):
    assert all(0 <= row["trust_region/kl"] <= row["trust_region/max_kl"] for row in metrics)


def test_the_first_terms_of_the_expansion_are_zero(metrics, request):
    """To the bit, as one pass gives the batch's old parameters and the update's; in micro-batches up to rounding.

    There two layers sum 4 inputs and a bias, and 8 and a bias: numbers near 1, off by as many ε of float32, in each of
    two passes. As far as that, r in the metric of F, the policy seems to have moved: K = ½r², ∇Kᵀs ≤ r√(sᵀFs).
    """
    in_parts = request.node.callspec.params["metrics"].startswith("micro-batches")
    r = 2 * (5 + 9) * torch.finfo(torch.float32).eps if in_parts else 0.0
    for row in metrics:
        assert abs(row["trust_region/kl_zeroth_order"]) <= 0.5 * r**2
        assert abs(row["trust_region/kl_first_order"]) <= r * math.sqrt(2 * row["trust_region/max_kl"])


def test_every_number_is_finite(metrics):
    assert all(math.isfinite(value) for row in metrics for value in row.values() if not isinstance(value, str))


def test_the_error_is_the_difference_between_the_spent_and_the_predicted(metrics):
    for row in metrics:
        kl, predicted = row["trust_region/kl"], row["trust_region/kl_quadratic"]
        assert row["trust_region/kl_error"] == kl - predicted  # one difference of the same two numbers
        whole = row["trust_region/kl_quadratic_full_step"]
        assert predicted == pytest.approx(whole * row["trust_region/step_fraction"] ** 2)
        assert whole <= row["trust_region/max_kl"] * (1 + 1e-6)


def test_a_row_is_either_accepted_and_moves_the_policy_or_rejected_and_does_not(metrics):
    for before, row in itertools.pairwise(metrics):
        accepted = row["outcome"] == "accepted"
        assert row["trust_region/accepted"] == accepted
        assert (row["fingerprint"] != before["fingerprint"]) == accepted
        assert (row["trust_region/kl"] > 0) == (row["trust_region/step_norm"] > 0) == accepted


def test_iterations_and_steps_count_up(metrics):
    assert [row["iteration"] for row in metrics] == list(range(1, len(metrics) + 1))
    steps = [row["env_steps"] for row in metrics]
    assert all(after - before == 32 for before, after in itertools.pairwise(steps))
    assert steps[-1] == 352


def test_a_rejected_step_spends_nothing_is_named_and_leaves_a_warning(tmp_path):
    train_tiny(tmp_path / "run", "trust_region.max_backtracks=0", "run.total_steps=352", task="pendulum")
    rejected = [row for row in rows(tmp_path / "run") if row["outcome"] != "accepted"]
    assert rejected
    for row in rejected:
        assert row["outcome"] == "kl_too_large"
        assert row["trust_region/kl_full_step"] > row["trust_region/max_kl"]
        assert row["trust_region/kl"] == row["trust_region/kl_quadratic"] == row["trust_region/kl_error"] == 0
        assert "trust_region/kl_error_relative" not in row
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("the last candidate broke the KL bound") == len(rejected)


def test_annealing_lowers_the_bound_and_the_learning_rate_on_a_line(tmp_path, monkeypatch):
    seen = []
    fit = trainer.fit_critic

    def recorded(critic, optimizer, *arguments, **named):
        info = fit(critic, optimizer, *arguments, **named)
        seen.append(optimizer.param_groups[0]["lr"])
        return info

    monkeypatch.setattr(trainer, "fit_critic", recorded)
    annealing = ["trust_region.max_kl=0.1", "trust_region.anneal=0.9", "critic.learning_rate=0.01", "critic.anneal=0.5"]
    train_tiny(tmp_path / "run", "run.total_steps=160", *annealing)
    done = [32, 64, 96, 128]  # of 160 steps, at the start of each iteration: the first rollout warms up
    bounds = [row["trust_region/max_kl"] for row in rows(tmp_path / "run")]
    assert bounds == pytest.approx([0.1 * (1 - 0.9 * steps / 160) for steps in done])
    assert seen == pytest.approx([0.01 * (1 - 0.5 * steps / 160) for steps in done])


def test_annealing_ends_above_zero_when_a_run_is_all_warm_up(tmp_path):
    train_tiny(tmp_path / "run", "run.total_steps=1", "trust_region.anneal=0.99", "trust_region.max_kl=0.1")
    (row,) = rows(tmp_path / "run")
    assert row["trust_region/max_kl"] == pytest.approx(0.001)


def torch_distribution(task, parameters):
    if task == "cartpole":
        return torch.distributions.Categorical(logits=parameters)
    mean, log_std = parameters.chunk(2, dim=-1)
    return torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)


@pytest.mark.parametrize("task", ["cartpole", "pendulum"])
def test_the_logged_kl_is_that_of_the_policies_before_and_after(task, tmp_path, monkeypatch):
    seen = []

    def recorded(policy, batch, config, **progress):
        before = policy(batch.observations).detach().double()
        info = step(policy, batch, config, **progress)
        after = policy(batch.observations).detach().double()
        old, new = torch_distribution(task, before), torch_distribution(task, after)
        seen.append((torch.distributions.kl_divergence(old, new), torch.distributions.kl_divergence(new, old)))
        return info

    step = trainer.trust_region_step
    monkeypatch.setattr(trainer, "trust_region_step", recorded)
    train_tiny(tmp_path / "run", "trust_region.max_kl=0.1", task=task)
    assert len(seen) == 2
    for (kl, reverse), row in zip(seen, rows(tmp_path / "run"), strict=True):
        assert row["trust_region/kl"] == pytest.approx(kl.mean().item(), rel=1e-3)
        assert row["trust_region/kl_reverse"] == pytest.approx(reverse.mean().item(), rel=1e-3)
        assert row["trust_region/kl_max_state"] == pytest.approx(kl.max().item(), rel=1e-3)


# total_steps, normalised or not, and the steps of the run: whole iterations of 32, one at least after the warm-up.
LENGTHS = [
    (65, True, 96),
    (96, True, 96),
    (97, True, 128),
    (65, False, 96),
    (64, False, 64),
    (1, True, 64),
    (1, False, 32),
]


@pytest.mark.parametrize(("asked", "normalized", "steps"), LENGTHS)
def test_the_steps_are_rounded_up_to_whole_iterations_and_the_run_says_so(asked, normalized, steps, tmp_path, capsys):
    flag = str(normalized).lower()
    train_tiny(
        tmp_path / "run",
        f"run.total_steps={asked}",
        f"normalize.observations={flag}",
        f"normalize.rewards={flag}",
    )
    assert summary(tmp_path / "run")["env_steps"] == rows(tmp_path / "run")[-1]["env_steps"] == steps
    assert f"\n{steps} steps ({asked} asked) in iterations of 32" in capsys.readouterr().out


def test_every_environment_takes_a_step_when_there_are_more_of_them_than_steps(tmp_path):
    train_tiny(tmp_path / "run", "env.num_envs=5", "run.steps_per_iteration=3", "run.total_steps=10")
    assert [row["env_steps"] for row in rows(tmp_path / "run")] == [10]


def test_one_environment_is_enough(tmp_path):
    assert train_tiny(tmp_path / "run", "env.num_envs=1") == 0
    assert [row["env_steps"] for row in rows(tmp_path / "run")] == [64, 96]


# evaluate_every, and the steps at which a run of 160 evaluates: on crossing a multiple, and at the end.
EVALUATIONS = [(0, [160]), (1000, [160]), (64, [64, 128, 160]), (50, [64, 128, 160]), (1, [64, 96, 128, 160])]


@pytest.mark.parametrize(("every", "steps"), EVALUATIONS)
def test_evaluations_and_checkpoints_come_every_so_many_steps_and_at_the_end(every, steps, tmp_path):
    train_tiny(
        tmp_path / "run",
        "run.total_steps=160",
        f"run.evaluate_every={every}",
        f"run.checkpoint_every={every}",
        "run.keep_checkpoints=99",
    )
    evaluated = [row["env_steps"] for row in rows(tmp_path / "run") if "evaluation/return_mean" in row]
    assert evaluated == steps
    assert [int(file.stem.split("_")[1]) for file in checkpoints(tmp_path / "run")] == steps


def test_no_episodes_mean_no_evaluation_at_all(tmp_path):
    train_tiny(tmp_path / "run", "run.evaluation_episodes=0", "run.evaluate_every=32")
    assert not any(key.startswith("evaluation/") for row in rows(tmp_path / "run") for key in row)
    assert summary(tmp_path / "run")["final_evaluation"] is summary(tmp_path / "run")["best_evaluation"] is None
    assert not (tmp_path / "run" / "checkpoints" / "best.pt").exists()


# The environment, what it does in environment 1 at step 40, what the one line says, and what train.log shows.
FAULTS = [
    ("NaNReward-v0", ["reward of environment 1 is nan", "step 40"], "FloatingPointError"),
    ("InfiniteReward-v0", ["reward of environment 1 is -inf", "step 40"], "FloatingPointError"),
    ("NaNObservation-v0", ["observation[2] of environment 1 is nan", "step 40"], "FloatingPointError"),
    ("Raising-v0", ["RuntimeError: the simulator fell over"], "and said why"),
]


@pytest.mark.parametrize(("name", "said", "logged"), FAULTS)
def test_a_broken_environment_ends_the_run_in_one_line_and_the_log_has_the_traceback(
    name, said, logged, tmp_path, capsys
):
    first_seed = seeds.integer(0, seeds.Role.ENVIRONMENTS, 1, 0)  # of the first episode of environment 1
    overrides = [f"env.id=broken:{name}", f"+env.kwargs.seed={first_seed}", "run.total_steps=352"]
    assert train_tiny(tmp_path / "run", "run.evaluation_episodes=0", *overrides) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("trpo-train: ")
    assert all(words in line for words in [*said, str(tmp_path / "run" / "train.log")])
    log = (tmp_path / "run" / "train.log").read_text()
    assert "Traceback" in log
    assert logged in log
    assert len(rows(tmp_path / "run")) == 1  # 16 steps of warm-up, 16 of the one iteration that was whole
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_leaves_no_log_handlers_behind(tmp_path):
    before = [list(logging.getLogger(name).handlers) for name in ("", "trpo.console")]
    train_tiny(tmp_path / "run")
    assert [list(logging.getLogger(name).handlers) for name in ("", "trpo.console")] == before


def test_the_policy_moves_only_in_accepted_steps(tmp_path, monkeypatch):
    moves = []

    def recorded(policy, batch, config, **progress):
        before = flatten(policy)
        if moves:
            assert torch.equal(before, moves[-1])
        info = step(policy, batch, config, **progress)
        moves.append(flatten(policy))
        return info

    step = trainer.trust_region_step
    monkeypatch.setattr(trainer, "trust_region_step", recorded)
    train_tiny(tmp_path / "run", "run.evaluate_every=32")
    assert len(moves) == 2
    assert not torch.equal(*moves)
