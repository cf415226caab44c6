"""A dumped update read by others: `numpy.load`, and scripts/recompute_update.py, which shares nothing with trpo."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import recompute_update
import torch
from tiny_runs import rows, train_tiny

from trpo.record.dump import write_dump

FOUR_ITERATIONS = ("run.total_steps=320", "run.steps_per_iteration=64", "run.evaluation_episodes=0")
ALWAYS = {"observations", "old_parameters", "theta_old", "theta_new", "description"}
NO_ROWS = {"censored_at", "bounds", "action_values_theta", "action_values_centres", "squashed", "entropy_weight"}
SURROGATES = {  # its overrides, and what only it dumps
    "score": ([], {"actions", "old_log_probs", "advantages"}),
    "censored": (["policy.bounds=censor"], {"censored_at", "actions", "old_log_probs", "advantages"}),
    "pathwise": (
        *[["trust_region.surrogate=pathwise", "action_values.warm_up=0", "action_values.hidden_sizes=[9,7]"]],
        {"noise", "old_action_values", "bounds", "action_values_theta"},
    ),
    "binned": (
        [
            *("trust_region.surrogate=pathwise", "action_values.warm_up=0", "action_values.hidden_sizes=[9,7]"),
            *("action_values.bins=12", "policy.bounds=censor"),
        ],
        {"censored_at", "noise", "old_action_values", "bounds", "action_values_theta", "action_values_centres"},
    ),
    "squashed": (
        [
            *("trust_region.surrogate=pathwise", "action_values.warm_up=0", "action_values.hidden_sizes=[9,7]"),
            *("policy.bounds=tanh", "policy.std=state", "trust_region.entropy=0.05"),
        ],
        {*("noise", "old_action_values", "bounds", "action_values_theta"), "squashed", "old_entropy", "entropy_weight"},
    ),
}


@pytest.fixture(scope="module", params=SURROGATES)
def surrogate(request):
    return request.param


@pytest.fixture(scope="module")
def run(surrogate, tmp_path_factory):
    directory = tmp_path_factory.mktemp("dump") / "run"
    overrides = SURROGATES[surrogate][0]
    assert train_tiny(directory, *FOUR_ITERATIONS, "record.dump_every=1", *overrides, task="pendulum") == 0
    return directory


@pytest.fixture(scope="module")
def files(run):
    return sorted((run / "dumps").glob("*.npz"))


def load(file):
    with np.load(file, allow_pickle=False) as dump:
        arrays = dict(dump)
    return arrays, json.loads(str(arrays["description"]))


def tampered(file, folder, **changes):
    """A copy of a dump with some of it changed."""
    arrays, description = load(file)
    description |= changes.pop("description", {})
    np.savez(folder / "changed.npz", **(arrays | changes | {"description": np.array(json.dumps(description))}))
    return folder / "changed.npz"


def recompute(monkeypatch, *files):
    monkeypatch.setattr("sys.argv", ["recompute_update.py", *map(str, files)])
    return recompute_update.main()


def test_every_iteration_is_a_file_that_loads_without_pickle(run, files, surrogate):
    assert [int(file.stem.removeprefix("step_")) for file in files] == [row["env_steps"] for row in rows(run)]
    for file in files:
        arrays, _ = load(file)
        assert set(arrays) == ALWAYS | SURROGATES[surrogate][1]
        kinds = {array.dtype.kind for name, array in arrays.items() if name not in ("description", "squashed")}
        assert kinds == {"f"}
        assert all(np.isfinite(array).all() for name, array in arrays.items() if name != "description")
        a_row_each = set(arrays) - {"theta_old", "theta_new", "description", *NO_ROWS}
        assert {len(arrays[name]) for name in a_row_each} == {64}


def test_the_parameters_are_the_ones_before_and_after_the_update(run, files):
    thetas = [(load(file)[0]["theta_old"], load(file)[0]["theta_new"]) for file in files]
    for (_, new), (old, _) in itertools.pairwise(thetas):
        assert np.array_equal(new, old)
    assert [hashlib.sha256(new.tobytes()).hexdigest()[:16] for _, new in thetas] == [
        row["fingerprint"] for row in rows(run)
    ]


def test_the_description_has_the_figures_of_the_row(run, files):
    for file, row in zip(files, rows(run), strict=True):
        arrays, description = load(file)
        figures = {f"trust_region/{name}": value for name, value in description["figures"].items()}
        assert figures == {tag: row[tag] for tag in figures}
        assert {"trust_region/kl", "trust_region/kl_quadratic", "trust_region/kl_error"} <= set(figures)
        assert (description["outcome"], description["iteration"]) == (row["outcome"], row["iteration"])
        assert (description["env_id"], description["env_steps"]) == ("Pendulum-v1", row["env_steps"])
        assert sum(np.prod(shape, dtype=int) for shape in description["theta"].values()) == len(arrays["theta_old"])


def test_observations_are_as_the_networks_saw_them(files):
    for file in files:
        arrays, description = load(file)
        rho, layers = recompute_update.unpack(arrays["theta_old"], description["theta"])
        mean, rho, *_ = recompute_update.outputs(arrays["observations"], layers, layers, rho, rho)
        old_mean, old_log_std = np.split(arrays["old_parameters"], 2, axis=1)
        np.testing.assert_allclose(mean, old_mean, rtol=1e-4, atol=1e-6)
        floor = description["policy"]["min_log_std"]
        np.testing.assert_allclose(floor + np.log1p(np.exp(rho)) + 0 * old_log_std, old_log_std, rtol=1e-5)


def test_the_figures_can_be_recomputed_from_a_dump(files):
    for file in files:
        logged, recomputed = recompute_update.figures(file)
        assert set(recomputed) == {"kl", "kl_quadratic", "kl_error", "improvement"}
        assert recomputed["kl"] > 1e-4
        for name in ("kl", "kl_quadratic", "kl_error"):
            assert logged[name] == pytest.approx(recomputed[name], abs=1e-5 * recomputed["kl"])
        assert logged["improvement"] == pytest.approx(recomputed["improvement"], rel=1e-4)


def test_the_script_says_what_it_recomputed_and_that_it_agrees(files, monkeypatch, capsys):
    assert recompute(monkeypatch, *files) == 0
    output = capsys.readouterr().out
    assert all(str(file) in output for file in files)
    assert output.count("recomputed") == 4 * len(files)


def moved(theta):
    theta = theta.copy()
    theta[0] += 1e-3
    return theta


# What somebody changed, given the arrays: the script must notice.
TAMPERED = {
    "a weight after": lambda arrays: {"theta_new": moved(arrays["theta_new"])},
    "a weight before": lambda arrays: {"theta_old": moved(arrays["theta_old"])},
    "an observation": lambda arrays: {"observations": arrays["observations"] * np.float32(1.001)},
    "NaN for a weight": lambda arrays: {"theta_new": arrays["theta_new"] * np.nan},
    "the old parameters in place of the new": lambda arrays: {"theta_new": arrays["theta_old"]},
}


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("change", TAMPERED)
def test_a_tampered_array_is_noticed(change, files, tmp_path, monkeypatch):
    changed = tampered(files[1], tmp_path, **TAMPERED[change](load(files[1])[0]))
    assert recompute(monkeypatch, changed) == 1


@pytest.mark.parametrize("name", ["kl", "kl_quadratic", "kl_error", "improvement"])
def test_a_tampered_figure_is_noticed_even_in_one_file_of_several(name, files, tmp_path, monkeypatch):
    figures = load(files[1])[1]["figures"]
    figures[name] += 2e-5 * figures["kl"] if name.startswith("kl") else 2e-4 * figures[name]
    changed = tampered(files[1], tmp_path, description={"figures": figures})
    assert recompute(monkeypatch, files[0], changed, files[2]) == 1


REFUSED = {  # task and overrides of a run whose first update is refused, and why
    "not Gaussian": ("cartpole", [], "Gaussian"),
    "a schedule": ("pendulum", ["policy.final_std_scale=0.5"], "schedule"),
    "no tanh": ("pendulum", ["policy.activation=relu"], "tanh"),
    "a network of one's own": ("pendulum", ["policy.network=own_networks:Plain"], "network of one's own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recomputed_is_refused_in_words(case, tmp_path, monkeypatch):
    task, overrides, word = REFUSED[case]
    recorded = ("record.dump_every=1", "run.total_steps=64", "run.evaluation_episodes=0")
    assert train_tiny(tmp_path / "run", *recorded, *overrides, task=task) == 0
    (file,) = (tmp_path / "run" / "dumps").iterdir()
    with pytest.raises(SystemExit, match=word) as refusal:
        recompute(monkeypatch, file)
    assert isinstance(refusal.value.code, str)  # printed, exit code 1


def test_a_rejected_update_is_named_and_keeps_no_other_from_being_recomputed(tmp_path, monkeypatch, capsys):
    recorded = ("record.dump_every=1", "run.total_steps=64", "run.evaluation_episodes=0")
    files = []
    for name, overrides in (("rejected", ["trust_region.max_backtracks=0", "seed=1"]), ("accepted", [])):
        assert train_tiny(tmp_path / name, *recorded, *overrides, task="pendulum") == 0
        (row,), (file,) = rows(tmp_path / name), (tmp_path / name / "dumps").iterdir()
        arrays, description = load(file)
        assert description["outcome"] == row["outcome"]
        assert (name == "rejected") is np.array_equal(arrays["theta_old"], arrays["theta_new"])
        files.append(file)
    capsys.readouterr()
    assert recompute(monkeypatch, *files) == 0
    output, errors = capsys.readouterr()
    assert errors == f"{files[0]}: this update was rejected, there is nothing to recompute\n"
    assert output.splitlines()[0] == str(files[1])
    assert recompute(monkeypatch, files[0]) == 1


def test_arrays_come_back_bit_for_bit(tmp_path):
    arrays = {"a": torch.tensor([[0.1, -0.0, 1e-45]]), "b": torch.arange(3, requires_grad=False)}
    write_dump(tmp_path / "new" / "dump.npz", arrays, {"text": "δ", "number": 0.1})
    with np.load(tmp_path / "new" / "dump.npz", allow_pickle=False) as dump:
        assert json.loads(str(dump["description"])) == {"text": "δ", "number": 0.1}
        for name, tensor in arrays.items():
            assert dump[name].tobytes() == tensor.numpy().tobytes()
            assert dump[name].dtype == tensor.numpy().dtype
