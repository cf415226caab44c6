"""The scripts that decided what was left out: their arithmetic against dense matrices and against the package."""

from types import SimpleNamespace

import benchmark_memory
import benchmark_observations
import benchmark_squashing
import natural_gradient
import pathwise_table
import preconditioners
import promise_and_fact
import pytest
import several_steps
import step_twins
import symptoms
import torch
from oracles import DISTRIBUTIONS, dense_fisher, random_batch, random_policy
from test_batch import ENVS, STEPS, agent_for, batch_of, rollout_of
from tiny_runs import TINY

from trpo.commands.train import train
from trpo.config import TrustRegionConfig
from trpo.numerics.params import flatten
from trpo.record.runs import read_run
from trpo.update.objective import Objective
from trpo.update.trust_region import trust_region_step


def gaussian(samples=24, hidden_sizes=(5,)):
    policy = random_policy(DISTRIBUTIONS["gaussian"], dtype=torch.float32, hidden_sizes=hidden_sizes)
    return policy, random_batch(policy, samples=samples)


def test_the_diagonal_is_that_of_the_dense_fisher_matrix():
    policy, batch = gaussian()
    F = dense_fisher(policy, flatten(policy), batch.observations)
    divided = preconditioners.Factors(policy, batch).diagonal(0.1)(torch.ones(len(F)))
    torch.testing.assert_close(1 / divided, F.diagonal() + 0.1, rtol=1e-3, atol=1e-4)


def test_of_one_sample_and_one_layer_the_kronecker_product_is_the_fisher_matrix():
    """E[aaᵀ] ⊗ E[ss'ᵀ] is exact there; and with little damping its inverse is."""
    policy, batch = gaussian(samples=1, hidden_sizes=())
    F = dense_fisher(policy, flatten(policy), batch.observations)
    v = F @ torch.randn(len(F), generator=torch.Generator().manual_seed(0))  # in the range of F
    solved = preconditioners.Factors(policy, batch).kfac(1e-4)(v)
    torch.testing.assert_close(F @ solved, v, rtol=0.05, atol=0.05 * float(v.abs().max()))


def test_without_a_preconditioner_it_is_the_solve_of_the_step():
    policy, batch = gaussian()
    theta, config = flatten(policy), TrustRegionConfig(max_kl=1e-4, cg_iterations=4, min_multiplier=0.0)
    objective = Objective(policy, batch)
    info = trust_region_step(policy, batch, config)
    x = preconditioners.preconditioned(
        lambda v: objective.fisher_product(v) + info.damping * v, info.gradient, lambda r: r, 4
    )
    torch.testing.assert_close(x / x.norm(), info.step / info.step.norm(), rtol=1e-3, atol=1e-4)
    assert torch.equal(theta, info.theta)


def test_one_step_of_several_is_the_step_at_its_exact_kl():
    policy, batch = gaussian(samples=64)
    batch = batch._replace(environments=torch.arange(64) % 4)
    own = (batch.environments % 2 == 0).nonzero().flatten()
    promised, kept = several_steps.one_way(policy, batch, own, own, 1)
    assert promised == kept > 0
    half = batch.map(lambda column: column[own])
    info = trust_region_step(policy, half, TrustRegionConfig(max_kl=several_steps.MAX_KL, min_multiplier=0.0))
    per_root_nat = promised / several_steps.MAX_KL**0.5
    assert per_root_nat == pytest.approx(info.improvement / info.kl**0.5, rel=0.02)  # whose KL is a little inside


def test_halves_of_a_rollout_have_the_returns_that_they_have_in_the_whole():
    agent = agent_for(DISTRIBUTIONS["gaussian"])
    rollout = rollout_of(agent)
    assert rollout.truncated[:, ::2].any()
    assert rollout.truncated[:, 1::2].any()
    whole, environments = batch_of(agent, rollout), torch.arange(ENVS).repeat(STEPS)[rollout.valid.flatten()]
    for parity in (0, 1):
        half = batch_of(agent, step_twins.columns_of(rollout, parity))
        torch.testing.assert_close(half.returns, whole.returns[environments % 2 == parity])
        torch.testing.assert_close(half.observations, whole.observations[environments % 2 == parity])


def test_the_cosine_of_two_steps_is_that_of_the_dense_solution():
    policy, batch = gaussian(samples=200)
    F = dense_fisher(policy, flatten(policy), batch.observations).double()
    g, h = (
        Objective(policy, batch.map(lambda column, rows=rows: column[rows])).gradient()
        for rows in (slice(100), slice(100, 200))
    )
    x, y = (
        torch.linalg.solve(F + 0.03 * (v @ F @ v) / (v @ v) * torch.eye(len(F)), v) for v in (g.double(), h.double())
    )
    expected = (x @ F @ y) / ((x @ F @ x) * (y @ F @ y)).sqrt()
    metric = Objective(policy, batch)
    assert step_twins.cosine(metric, g, h) == pytest.approx(float(expected), abs=0.05)
    assert step_twins.cosine(metric, g, g) == pytest.approx(1.0, abs=1e-5)
    assert step_twins.cosine(metric, g, -g) == pytest.approx(-1.0, abs=1e-5)


def test_a_table_of_what_was_remembered(tmp_path):
    directory = tmp_path / "gru" / "cartpole_positions" / "seed0"
    line = ["task=cartpole_positions", *TINY, f"hydra.run.dir={directory}"]
    assert train(line) == 0
    final = read_run(directory).summary["final_evaluation"]["return_mean"]
    (row,) = [line for line in benchmark_memory.table(tmp_path).splitlines() if line.startswith("| cartpole")]
    assert f"| {final:.2f} ± 0.00 | {final:.2f} |" in row


TRAINERS = {  # of scripts that keep runs: a call that trains one, and where
    "benchmark_observations": lambda runs: benchmark_observations.ours(runs / "run", "taxi", 0),
    "natural_gradient": lambda runs: natural_gradient.train(runs, 0.04, "TRPO", 0),
    "promise_and_fact": lambda runs: promise_and_fact.train(runs, "score", "hopper", 0),
    "symptoms": lambda runs: symptoms.trained(runs / "run", ()),
}
DIRECTORIES = {"natural_gradient": "0.04/TRPO/0", "promise_and_fact": "score/hopper/0"}


@pytest.mark.parametrize("script", TRAINERS)
def test_a_run_that_was_stopped_goes_on_and_is_not_taken_for_done(script, tmp_path, monkeypatch):
    """Such a run has a summary, and its directory is refused to a new one."""
    directory = tmp_path / DIRECTORIES.get(script, "run")
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text("{}")
    for module in (benchmark_memory, promise_and_fact, symptoms):
        monkeypatch.setattr(module, "read_run", lambda _: SimpleNamespace(status="stopped by SIGTERM"))

    class StartedError(Exception):
        """Instead of a process."""

    def start(command, **_):
        assert {f"hydra.run.dir={directory}", "run.resume=auto"} <= {*command}
        raise StartedError

    monkeypatch.setattr("subprocess.run", start)
    with pytest.raises(StartedError):
        TRAINERS[script](tmp_path)


def test_a_run_without_an_evaluation_is_left_out_of_the_table_with_its_reason(tmp_path, monkeypatch, capsys):
    for name, episodes in (("with", 2), ("without", 0)):
        line = ["task=cartpole", *TINY, "run.total_steps=320", f"run.evaluation_episodes={episodes}"]
        assert train([*line, f"hydra.run.dir={tmp_path / name}"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["pathwise_table.py", str(tmp_path)])
    pathwise_table.main()
    output, errors = capsys.readouterr()
    assert errors == f"{tmp_path / 'without'} ended without an evaluation: left out\n"
    assert len([line for line in output.splitlines() if line.startswith("| CartPole")]) == 1


def test_runs_of_other_settings_are_no_seeds_of_one_row(tmp_path, monkeypatch, capsys):
    line = ["task=cartpole", *TINY, "run.total_steps=320"]
    for seed, max_kl in ((0, 0.04), (1, 0.04), (2, 0.02)):
        own = [f"seed={seed}", f"trust_region.max_kl={max_kl}", f"hydra.run.dir={tmp_path / str(seed)}"]
        assert train([*line, *own]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["pathwise_table.py", str(tmp_path)])
    pathwise_table.main()
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines() if row.startswith("| CartPole")]
    assert [(row[1], row[4].count("·")) for row in rows] == [("score, max_kl=0.04", 1), ("score, max_kl=0.02", 0)]


def test_a_seed_that_is_repeated_is_left_out_of_the_table_with_its_reason(tmp_path, monkeypatch, capsys):
    for name in ("first", "second"):
        assert train(["task=cartpole", *TINY, "run.total_steps=320", f"hydra.run.dir={tmp_path / name}"]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["pathwise_table.py", str(tmp_path)])
    pathwise_table.main()
    output, errors = capsys.readouterr()
    assert errors == f"{tmp_path / 'first'} repeats a seed: left out\n"  # the last one counts, as in a report
    assert output.count("| CartPole") == 1
    assert "·" not in output


def test_shares_of_the_bound(tmp_path):
    line = ["env.id=Pendulum-v1", *TINY, "trust_region.line_search=off", "trust_region.damping=0.1"]
    assert train([*line, "trust_region.max_kl=1.0", f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    run = read_run(tmp_path / "run")
    found = natural_gradient.shares(run)
    assert found == [row["trust_region/kl"] / row["trust_region/max_kl"] for row in run.rows]
    assert max(found) != 1.0


@pytest.mark.parametrize(("bounds", "share"), [("clip", 0.617), ("censor", 0.617), ("tanh", 0.0)])
def test_how_often_a_bound_is_met(bounds, share, tmp_path):
    """A normal of σ = 2 around nearly 0 lies outside ±1 in 62 per cent of its draws; its tanh is inside."""
    directory = tmp_path / "pendulum" / bounds / "seed0"
    line = ["env.id=Pendulum-v1", *TINY, "policy.initial_log_std=0.693", "trust_region.max_kl=1e-6"]
    assert train([*line, f"policy.bounds={bounds}", f"hydra.run.dir={directory}"]) == 0
    assert benchmark_squashing.at_a_bound(directory) == pytest.approx(share, abs=0.05)
