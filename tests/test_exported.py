"""An exported policy answers as its agent does: every kind of space, both formats, any number of observations."""

import functools

import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array
from tiny_runs import compose

from trpo.compared import apart, difference, gap
from trpo.config import UserError
from trpo.exported import ExportedPolicy, export
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
    "squashed, with a σ of the state": (NUMBERS, MIXED, ["policy.bounds=tanh", "policy.std=state"], ["observation"]),
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

SMALL = ["policy.memory_size=8", "critic.memory_size=7"]
STATE, PREVIOUS, REWARD = "memory.policy_state", "memory.action", "memory.reward"
BOTH_INPUTS = "policy.memory_inputs=[action,reward]"
CASES |= {
    "GRU, numbers to Box": (
        NUMBERS,
        spaces.Box(-2.0, 2.0, (2, 3)),
        ["policy.memory=gru", "policy.memory_inputs=[action]", *SMALL],
        ["observation", STATE, PREVIOUS],
    ),
    "LSTM, masked grid to Discrete": (
        MASKED,
        spaces.Discrete(5),
        ["policy.memory=lstm", "critic.memory=gru", BOTH_INPUTS, *SMALL],
        ["observation.grid", "action_mask", STATE, PREVIOUS, REWARD],
    ),
    "LSTM, picture to MultiBinary": (
        PICTURE,
        spaces.MultiBinary((2, 2)),
        ["policy.memory=lstm", BOTH_INPUTS, *SMALL],
        ["observation", STATE, PREVIOUS, REWARD],
    ),
    "GRU, Dict to MultiDiscrete, one part seen": (
        GOAL,
        spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[0, 7], [-1, 2]]),
        ["policy.memory=gru", "policy.observations=[action]", "policy.memory_inputs=[reward]", *SMALL],
        ["observation.action", STATE, REWARD],
    ),
    "GRU, as they are": (
        spaces.Discrete(5),
        spaces.Discrete(3, start=-1),
        ["policy.memory=gru", "normalize.observations=false", BOTH_INPUTS, *SMALL],
        ["observation", STATE, PREVIOUS, REWARD],
    ),
    "the critic's memory alone": (NUMBERS, spaces.Discrete(3), ["critic.memory=gru", *SMALL], ["observation"]),
    "the critic's memory, what both see": (
        NUMBERS,
        spaces.MultiDiscrete([2, 3]),
        ["critic.memory=lstm", BOTH_INPUTS, *SMALL],
        ["observation", PREVIOUS, REWARD],
    ),
}


def trained_agent(observed, answered, *overrides):
    """An agent with weights and statistics that matter, as after much training."""
    config = compose("env.id=Any-v0", "policy.hidden_sizes=[16]", *overrides)
    interface = make_interface(observed, answered, config.sees)
    agent = agent_for(config, interface)
    generator = torch.Generator().manual_seed(0)
    for parameter in agent.policy.parameters():
        size = min(0.3, parameter[0].numel() ** -0.5)  # sums over a picture's many features stay sums that gates take
        parameter.data += size * torch.randn(parameter.shape, generator=generator)
    encoded = interface.encode(batch_of(sampled(observed, answered, 500)[1], observed))
    rows = recalling(agent, carried_to(agent, 500)).seen(encoded)
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


def carried_to(agent, count):
    """Any numbers in the place of what is carried, by name; they are not those that an export is checked with."""
    generator, carried = torch.Generator().manual_seed(count), agent.recall(count).state() or {}
    return {name: torch.randn(rows.shape, generator=generator) for name, rows in carried.items()}


def recalling(agent, carried):
    """An agent's recall of what is carried."""
    recall = agent.recall(len(next(iter(carried.values()), ())))
    recall.restore(carried)
    return recall


def batch_of(rows, space):
    return concatenate(space, rows, create_empty_array(space, len(rows)))


def part(raw, name):
    """What an input stands for in a batch of raw observations and what is carried, by the rule of the manual."""
    raw, carried = raw
    if name.startswith("memory."):
        return carried[name].numpy()
    if isinstance(raw, np.ndarray):
        return raw
    keys = name.removeprefix("observation.").split(".")
    return functools.reduce(lambda parts, key: parts[int(key) if isinstance(parts, tuple) else key], keys, raw)


@functools.cache
def of_case(name):
    """An agent, raw observations with what is carried to them, its answers and where they are no matter of rounding."""
    observed, answered, settings, _ = CASES[name]
    agent = trained_agent(observed, answered, *settings)
    raw = batch_of(sampled(observed, answered, WHOLE)[1], observed)
    carried = carried_to(agent.agent, WHOLE)
    seen = recalling(agent.agent, carried).seen(agent.interface.encode(raw))
    logits = agent.agent.policy(agent.agent.normalize(seen))
    told_apart = clear(agent.interface.distribution, logits.detach().numpy())
    return agent, (raw, carried), predicted(agent, raw, carried), told_apart


def predicted(agent, raw, carried):
    """What an agent gives for raw observations and what is carried to them, by the names of the outputs."""
    reward = carried[REWARD][:, 0] if REWARD in carried else None
    actions, after = agent.predict(raw, carried, deterministic=True, reward=reward)
    left = {f"next.{name}": after[name].numpy() for name in (STATE, PREVIOUS) if name in carried}
    return {"action": actions, **left}


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
        names = [one.name for one in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))
    module = torch.export.load(file).module()
    return lambda inputs: in_numpy(module({name: torch.from_numpy(rows) for name, rows in inputs.items()}))


def in_numpy(outputs):
    return {name: rows.detach().numpy() for name, rows in outputs.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec:FutureWarning")  # torch's own, where a .pt2 is loaded
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", CASES)
def test_a_file_answers_as_its_agent_does(name, suffix, exported):
    _, raw, expected, told_apart = of_case(name)
    *_, names = CASES[name]
    written = exported(name, suffix)
    assert written.difference <= 1e-5 * max(1.0, *(np.abs(rows).max() for rows in expected.values()))
    run, start = runner(written.file), 0
    for size in BATCHES:
        rows = slice(start, start + size)
        found = run({name: part(raw, name)[rows] for name in names})
        assert [*found] == [*expected]
        for output, whole in expected.items():
            told = told_apart[rows] | (output == f"next.{STATE}")
            assert (found[output].dtype, found[output].shape) == (whole.dtype, whole[rows].shape)
            tolerance = 1e-5 if np.issubdtype(whole.dtype, np.floating) else 0
            np.testing.assert_allclose(found[output][told], whole[rows][told], rtol=tolerance, atol=tolerance)
        start += size
    assert told_apart.mean() > 0.9
    for whole in expected.values():
        assert len(np.unique(whole, axis=0)) > 1  # an agent that always does the same would prove nothing


@pytest.mark.parametrize("name", CASES)
def test_the_inputs_of_a_file_are_those_that_the_manual_says(name):
    """By name, of the space's own types."""
    agent, raw, *_ = of_case(name)
    inputs = ExportedPolicy(agent).inputs(*raw)
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
    _, (raw, _), *_ = of_case("masked grid to Discrete")
    run = runner(exported("masked grid to Discrete", ".onnx").file)
    for only in range(5):
        mask = np.zeros((20, 5), dtype=np.int8)
        mask[:, only] = 1
        assert (run({"observation.grid": raw["grid"][:20], "action_mask": mask})["action"] == only).all()


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
    assert difference(agent, changed(module), module.inputs) == 0
    with pytest.raises(UserError, match="differ by 1,"):
        difference(agent, changed(module, action=lambda rows: rows + 1), module.inputs)
    with pytest.raises(UserError, match="the file gives int32"):
        difference(agent, changed(module, action=lambda rows: rows.astype(np.int32)), module.inputs)
    with pytest.raises(UserError, match=r"the file gives int64 \(1000, 1\)"):
        difference(agent, changed(module, action=lambda rows: rows[:, None]), module.inputs)


def changed(module, **changes):
    """What a module makes of inputs, some outputs changed; dots in a name are written as _."""

    def run(inputs):
        found = in_numpy(module(inputs))
        return {name: changes.get(name.replace(".", "_"), lambda rows: rows)(rows) for name, rows in found.items()}

    return run


def test_a_state_that_is_another_is_no_rounding_whatever_the_action():
    agent = trained_agent(NUMBERS, spaces.Discrete(3), "policy.memory=lstm", "policy.memory_inputs=[action]")
    module = ExportedPolicy(agent)
    assert difference(agent, changed(module), module.inputs) < 1e-5
    for name in ("next_memory_policy_state", "next_memory_action"):
        with pytest.raises(UserError, match="more than rounding"):
            difference(agent, changed(module, **{name: lambda rows: rows + np.float32(0.01)}), module.inputs)
    with pytest.raises(UserError, match=r"the file gives action, the agent action, next\.memory\.policy_state, next"):
        difference(agent, lambda inputs: {"action": in_numpy(module(inputs))["action"]}, module.inputs)


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec:FutureWarning")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", [name for name, (*_, inputs) in CASES.items() if PREVIOUS in inputs])
def test_what_a_file_gives_is_what_it_takes_at_the_next_step(name, suffix, exported):
    """Four episodes side by side, each begun anew at another step: by the file's outputs alone, and by the agent's."""
    observed, answered, _, names = CASES[name]
    agent, run = of_case(name)[0], runner(exported(name, suffix).file)
    generator, singles = np.random.default_rng(0), sampled(observed, answered, 48)[1]
    state = agent.agent.recall(4).state()
    memory = {name: state[name].numpy() for name in names if name in state}
    for t in range(12):
        raw, starts = batch_of(singles[4 * t : 4 * t + 4], observed), np.arange(4) == t - 5
        memory = {name: np.where(starts[:, None], np.float32(0), rows) for name, rows in memory.items()}
        found = run({**{name: part((raw, {}), name) for name in names if name not in memory}, **memory})
        reward = state[REWARD][:, 0] if REWARD in state else None
        actions, state = agent.predict(raw, state, starts, deterministic=True, reward=reward)
        np.testing.assert_allclose(found["action"], actions, rtol=1e-5, atol=1e-5)
        memory = {name: found.get(f"next.{name}") for name in memory}
        for left in {STATE, PREVIOUS} & {*memory}:
            np.testing.assert_allclose(memory[left], state[left], rtol=1e-5, atol=1e-5)
        if REWARD in memory:
            memory[REWARD] = generator.normal(size=(4, 1)).astype(np.float32)
            state[REWARD] = torch.from_numpy(memory[REWARD])


def test_a_continuous_action_may_differ_by_rounding_of_its_own_size():
    agent = trained_agent(NUMBERS, spaces.Box(-1e4, 1e4, (2,)))
    module = ExportedPolicy(agent)
    assert difference(agent, changed(module, action=lambda rows: rows + np.float32(0.01)), module.inputs) > 0.009
    with pytest.raises(UserError, match="more than rounding"):
        difference(agent, changed(module, action=lambda rows: rows + np.float32(1)), module.inputs)


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
