"""An exported policy answers as its agent does: every kind of space, both formats, any number of observations."""

import functools

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from tiny_runs import compose

from trpo.config import UserError
from trpo.exported import ExportedPolicy, apart, difference, export, gap
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian
from trpo.numerics.moments import Moments
from trpo.sampling.interface import make_interface
from trpo.trained import TrainedAgent
from trpo.trainer import agent_for

BATCHES = (1, 3, 5, 1_000)
WHOLE = sum(BATCHES)

NUMBERS = spaces.Box(-3.0, np.inf, (4,))
PICTURE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
GRID = spaces.Box(0, 4, (3, 5, 2), np.uint8)
MASKED = spaces.Dict({"grid": GRID, "action_mask": spaces.MultiBinary(5)})
GOAL = spaces.Dict({"observation": NUMBERS, "action": NUMBERS, "relu": spaces.Dict({"deep": spaces.Discrete(3)})})
MIXED = spaces.Box(np.array([-0.4, 0.0, -np.inf]), np.array([0.4, 10.0, 1.0]), dtype=np.float64)

# name: observation space, action space, settings, inputs
CASES = {
    "numbers to Box": (NUMBERS, spaces.Box(-2.0, 2.0, (2, 3)), [], ["observation"]),
    "numbers to Box as they are": (
        NUMBERS,
        spaces.Box(-1.0, 1.0, ()),
        ["normalize.observations=false"],
        ["observation"],
    ),
    "float64 to mixed bounds": (spaces.Box(-1e9, 1e9, (2, 2), np.float64), MIXED, [], ["observation"]),
    "one-hot to Discrete": (spaces.Discrete(16), spaces.Discrete(4), [], ["observation"]),
    "one-hot to MultiDiscrete": (
        spaces.Discrete(5, start=-3, dtype=np.int32),
        spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 7], [-1, 2]]),
        ["policy.activation=relu"],
        ["observation"],
    ),
    "picture to MultiBinary": (PICTURE, spaces.MultiBinary((2, 2)), [], ["observation"]),
    "frames to Discrete": (
        spaces.Box(0, 255, (2, 36, 36, 1), np.uint8),
        spaces.Discrete(3, start=-1, dtype=np.int32),
        [],
        ["observation"],
    ),
    "masked grid to Discrete": (MASKED, spaces.Discrete(5), [], ["observation.grid", "action_mask"]),
    "masks to MultiDiscrete": (
        spaces.Dict({"observation": NUMBERS, "action_mask": spaces.MultiBinary(5)}),
        spaces.MultiDiscrete([2, 3]),
        [],
        ["observation", "action_mask"],
    ),
    "Dict, names that clash": (
        GOAL,
        spaces.Box(0.0, 1.0, (1,)),
        [],
        ["observation", "observation.action", "observation.relu.deep"],
    ),
    "Dict, one part seen": (GOAL, spaces.Discrete(2), ["policy.observations=[action]"], ["observation.action"]),
    "Tuple": (
        spaces.Tuple([spaces.MultiDiscrete([[2, 3]], start=[[1, -1]]), spaces.MultiBinary(3), GRID]),
        spaces.MultiBinary(3),
        ["policy.vectors=['2']"],
        ["observation.0", "observation.1", "observation.2"],
    ),
}


SLOW = ("numbers to Box as they are", "one-hot to Discrete", "frames to Discrete")  # much like others


def trained_agent(observed, answered, *overrides):
    """An agent with weights and statistics that matter, as after much training."""
    config = compose("env.id=Any-v0", "policy.hidden_sizes=[16]", *overrides)
    interface = make_interface(observed, answered, config.sees)
    agent = agent_for(config, interface)
    generator = torch.Generator().manual_seed(0)
    for parameter in agent.policy.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    rows = interface.encode(batch_of(sampled(observed, answered, 500)[1], observed))
    for normalizer, leaf in agent.normalizer.learning(rows) if agent.normalizer else ():
        normalizer.update(Moments(torch.tensor(500.0), leaf.double().mean(0), leaf.double().var(0)))
    return TrainedAgent(agent, config, interface=interface, env_steps=123)


def sampled(observed, answered, count):
    """Single raw observations of a space, with at least one valid action where there is a mask."""
    observed.seed(7)
    answered.seed(8)
    rows = [observed.sample() for _ in range(count)]
    for row in rows:
        if isinstance(row, dict) and "action_mask" in row:
            row["action_mask"] |= spaces.flatten(answered, answered.sample()).astype(np.int8)
    return count, rows


def batch_of(rows, space):
    return concatenate(space, rows, create_empty_array(space, len(rows)))


def part(raw, name):
    """What an input stands for in a batch of raw observations, by the rule of the manual."""
    if isinstance(raw, np.ndarray):
        return raw
    keys = name.removeprefix("observation.").split(".")
    return functools.reduce(lambda parts, key: parts[int(key) if isinstance(parts, tuple) else key], keys, raw)


@functools.cache
def of_case(name):
    """An agent, raw observations, its answers and where they are no matter of rounding."""
    observed, answered, settings, _ = CASES[name]
    agent = trained_agent(observed, answered, *settings)
    raw = batch_of(sampled(observed, answered, WHOLE)[1], observed)
    logits = agent.agent.policy(agent.agent.normalize(agent.interface.encode(raw)))
    return agent, raw, agent.act(raw), clear(agent.interface.distribution, logits.detach().numpy())


def clear(distribution, logits):
    """Which rows have two best logits that are further apart than rounding, in every dimension."""
    if isinstance(distribution, DiagonalGaussian):
        return np.full(len(logits), True)
    if isinstance(distribution, Bernoulli):
        return (np.abs(logits) > 1e-5).all(axis=1)
    ordered = [np.sort(part, axis=1) for part in np.split(logits, np.cumsum(distribution.sizes)[:-1], axis=1)]
    return np.all([part[:, -1] - part[:, -2] > 1e-5 for part in ordered if part.shape[1] > 1], axis=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file of a case in a format, made when it is first asked for."""

    @functools.cache
    def export_of(name, suffix):
        return export(of_case(name)[0], tmp_path_factory.mktemp("exported") / f"policy{suffix}")

    return export_of


def runner(file):
    """What a file makes of arrays by name, without anything of ours."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(file)
        return lambda inputs: session.run(["action"], inputs)[0]
    module = torch.export.load(file).module()
    return lambda inputs: module({name: torch.from_numpy(rows) for name, rows in inputs.items()}).detach().numpy()


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec:FutureWarning")  # torch's own, where a .pt2 is loaded
@pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES])
def test_a_file_answers_as_its_agent_does(name, suffix, exported):
    _, raw, expected, told_apart = of_case(name)
    *_, names = CASES[name]
    written = exported(name, suffix)
    assert written.difference <= 1e-5 * max(1.0, np.abs(expected).max())
    run, start = runner(written.file), 0
    for size in BATCHES:
        rows = slice(start, start + size)
        actions = run({name: part(raw, name)[rows] for name in names})
        assert (actions.dtype, actions.shape) == (expected.dtype, expected[rows].shape)
        tolerance = 1e-5 if np.issubdtype(expected.dtype, np.floating) else 0
        told = told_apart[rows]
        np.testing.assert_allclose(actions[told], expected[rows][told], rtol=tolerance, atol=tolerance)
        start += size
    assert told_apart.mean() > 0.9
    assert len(np.unique(expected, axis=0)) > 1  # an agent that always does the same would prove nothing


@pytest.mark.parametrize("name", CASES)
def test_the_inputs_of_a_file_are_those_that_the_manual_says(name):
    """By name, of the space's own types."""
    agent, raw, *_ = of_case(name)
    inputs = ExportedPolicy(agent).encoder.inputs(raw)
    assert {*inputs} == {*CASES[name][-1]}
    for name, rows in inputs.items():
        np.testing.assert_array_equal(rows.numpy(), part(raw, name))
        assert rows.numpy().dtype == part(raw, name).dtype


def test_onnx_has_names_types_and_a_free_batch(exported):
    session = onnxruntime.InferenceSession(exported("masked grid to Discrete", ".onnx").file)
    assert {(one.name, one.type, tuple(one.shape)) for one in session.get_inputs()} == {
        ("observation.grid", "tensor(uint8)", ("batch", 3, 5, 2)),
        ("action_mask", "tensor(int8)", ("batch", 5)),
    }
    assert [(one.name, one.type, one.shape) for one in session.get_outputs()] == [
        ("action", "tensor(int64)", ["batch"])
    ]


def test_a_masked_action_is_never_the_answer(exported):
    _, raw, *_ = of_case("masked grid to Discrete")
    run = runner(exported("masked grid to Discrete", ".onnx").file)
    for only in range(5):
        mask = np.zeros((20, 5), dtype=np.int8)
        mask[:, only] = 1
        assert (run({"observation.grid": raw["grid"][:20], "action_mask": mask}) == only).all()


def test_the_module_holds_no_statistics_in_float64():
    """They would make the answer another than the agent's, whose own are float32."""
    policy = ExportedPolicy(of_case("numbers to Box")[0])
    assert {tensor.dtype for tensor in policy.state_dict().values()} == {torch.float32}
    assert not any("moments" in name for name in policy.state_dict())
    assert not policy.training


def test_an_export_leaves_its_agent_as_it_was(tmp_path):
    agent = trained_agent(NUMBERS, spaces.Discrete(3))
    before = {name: tensor.clone() for name, tensor in agent.agent.state_dict().items()}
    agent.action_space.seed(3)
    following = [agent.action_space.sample() for _ in range(9)]
    agent.action_space.seed(3)
    export(agent, tmp_path / "policy.pt2")
    assert [agent.action_space.sample() for _ in range(9)] == following
    after = agent.agent.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_text_cannot_be_exported(tmp_path):
    observed = spaces.Dict({"numbers": NUMBERS, "mission": spaces.Text(5)})
    with pytest.raises(UserError, match=r"observation\.mission is Text.*no tensor"):
        export(trained_agent(observed, spaces.Discrete(2)), tmp_path / "policy.pt2")
    unread = trained_agent(observed, spaces.Discrete(2), "policy.observations=[numbers]")
    assert export(unread, tmp_path / "policy.pt2").difference == 0


def test_a_discrete_action_that_is_another_is_no_rounding_however_far_they_count():
    agent = trained_agent(NUMBERS, spaces.Discrete(3, start=10**6))
    module = ExportedPolicy(agent)
    assert difference(agent, module.encoder, lambda inputs: module(inputs).detach().numpy()) == 0
    with pytest.raises(UserError, match="differ by 1,"):
        difference(agent, module.encoder, lambda inputs: module(inputs).detach().numpy() + 1)
    with pytest.raises(UserError, match="the file gives int32"):
        difference(agent, module.encoder, lambda inputs: module(inputs).detach().numpy().astype(np.int32))


def test_a_continuous_action_may_differ_by_rounding_of_its_own_size():
    agent = trained_agent(NUMBERS, spaces.Box(-1e4, 1e4, (2,)))
    module = ExportedPolicy(agent)
    assert difference(agent, module.encoder, lambda inputs: module(inputs).detach().numpy() + np.float32(0.01)) > 0.009
    with pytest.raises(UserError, match="more than rounding"):
        difference(agent, module.encoder, lambda inputs: module(inputs).detach().numpy() + np.float32(1))


def test_an_action_that_is_no_number_is_told_from_one():
    nan, inf = np.nan, np.inf
    found = apart(np.array([nan, inf, nan, 1.0, inf]), np.array([nan, inf, 1.0, 3.0, -inf]))
    np.testing.assert_array_equal(found, [0.0, 0.0, nan, 2.0, inf])


@pytest.mark.parametrize(
    ("distribution", "logits", "expected"),
    [
        (Categorical((3,)), [[1.0, 3.0, 2.5], [0.0, 0.0, -1.0]], [0.5, 0.0]),
        (Categorical((2, 1, 2)), [[0.0, 4.0, 9.0, 1.0, 3.0]], [2.0]),
        (Bernoulli(2), [[-0.25, 3.0]], [0.25]),
        (DiagonalGaussian(1), [[0.0, 0.0]], [np.inf]),
    ],
)
def test_the_gap_is_that_of_the_two_best_logits(distribution, logits, expected):
    assert gap(distribution, torch.tensor(logits)).tolist() == expected
