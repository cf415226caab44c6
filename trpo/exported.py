"""A trained policy as one file: from raw observations to the environment's actions, for who has no `trpo`."""

import copy
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor, nn

from trpo.compared import difference, drawn_memory
from trpo.config import UserError, first_line
from trpo.models.encoders import chosen
from trpo.models.memory import Memory
from trpo.models.networks import Policy
from trpo.models.normalizer import LeafNormalizers, Normalizer, ObservationNormalizer, rows_of
from trpo.models.observations import ALONE, MASK, Leaf
from trpo.models.recall import Remembered
from trpo.record import exports
from trpo.record.files import write_atomically
from trpo.record.run_directory import git_commit
from trpo.record.targets import check_target
from trpo.sampling.description import as_json
from trpo.sampling.inputs import ACTION, InputEncoder, Inputs, after, drawn
from trpo.trained import TrainedAgent

FEATURES = "memory.features"  # within: what the policy decides by

Module = TypeVar("Module", bound=nn.Module)


class ExportedPolicy(nn.Module):
    """The mode of a trained policy: encoding, normaliser, memory, network and decoding in one.

    It holds what acting needs and nothing else: of the normaliser the float32 copies of its statistics. What is
    remembered goes in and out, and is kept by who calls it.
    Raises `UserError` for an observation that is no tensor.
    """

    def __init__(self, agent: TrainedAgent) -> None:
        super().__init__()
        interface = agent.interface
        self.alone = isinstance(interface.observations, Leaf) and agent.agent.memory is None
        self.remembered = agent.agent.memory or Remembered(0, 0, 0, 0, interface.distribution)
        self.carried = self.remembered.of_policy()  # how many numbers each remembered input has
        seen = [*chosen(interface.observations, agent.config.policy.observations)]
        self.encoder = InputEncoder(interface, [*seen, MASK] if interface.masked else seen)
        rescaled = {n: part for n, part in rescalers(agent.agent.normalizer).items() if n in (*seen, *self.carried)}
        self.names, self.parts = tuple(rescaled), nn.ModuleList(rescaled.values())
        self.policy = without_moments(copy.deepcopy(agent.agent.policy))
        self.memory = memory_of(self.policy)
        self.bounds, self.decoder = agent.agent.bounds, interface.decoder
        self.requires_grad_(False).eval()

    def forward(self, inputs: Inputs) -> Inputs:
        """Return the environment's actions (B, …), and what the step after remembers (B, n), by name.

        Args:
            inputs: named raw observations (B, …), and what is remembered: zeros where an episode starts.
        """
        leaves = {**self.encoder(inputs), **{name: inputs[name] for name in self.carried}}
        leaves |= {name: part(rows_of(leaves[name])) for name, part in zip(self.names, self.parts, strict=True)}
        state = None
        if self.memory is not None:
            leaves[FEATURES], state = self.memory.advance(leaves)  # type: ignore[arg-type]  # a dictionary will do
        parameters = self.policy(leaves[ALONE] if self.alone else leaves)
        actions = self.policy.distribution.mode(parameters)
        left = self.remembered.after(state, actions)
        sent = actions if self.bounds is None else self.bounds.sent(actions)
        return {ACTION: self.decoder(sent), **{after(name): rows.float() for name, rows in left.items()}}

    def inputs(self, raw: object, carried: Mapping[str, Tensor]) -> Inputs:
        """Return the named tensors of a batch of raw observations and of what is carried to it."""
        return {**self.encoder.inputs(raw), **{name: carried[name] for name in self.carried}}


class Encoded(nn.Module):
    """In an encoder's place: what is encoded, and remembered, already."""

    def forward(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """Return features (B, F)."""
        return leaves[FEATURES]


def memory_of(policy: Policy) -> Memory | None:
    """Take the memory, if any, out of a policy, whose forward pass does not give the state after it, and return it."""
    memory = getattr(policy, "encoder", None)
    if not isinstance(memory, Memory):
        return None
    policy.encoder = Encoded()
    return memory


def rescalers(normalizer: Normalizer | None) -> dict[str, nn.Module]:
    """Return what rescales each part of an observation, without the statistics in float64, which only grow."""
    if normalizer is None:
        return {}
    whole = copy.deepcopy(normalizer)
    parts: dict[str, nn.Module] = {ALONE: whole}
    if isinstance(whole, LeafNormalizers):
        parts = dict(zip(whole.names, whole.parts, strict=True))
    return {name: without_moments(part) for name, part in parts.items()}


def without_moments(module: Module) -> Module:
    """Return a module without the statistics in float64 of its normalisers, which it acts without."""
    for part in list(module.modules()):
        if isinstance(part, ObservationNormalizer):
            del part.moments
    return module


class Export(NamedTuple):
    """What became of an export."""

    file: Path
    size: int  # bytes
    difference: float | None  # the largest from the agent; None if nothing here could run the file


def export(agent: TrainedAgent, path: str | Path, *, force: bool = False) -> Export:
    """Write the policy of an agent as one file, `.onnx` or `.pt2`, and return how far it is from the agent.

    It is compared with the agent on random observations before it is written, by ONNX Runtime if that is installed.
    Raises `UserError`, and writes nothing, if the file exists and not `force`, or cannot be written, for another
    suffix, if a package is missing, and if the agent and its file are not the same.
    """
    file = Path(path)
    check_target(file, force=force)
    kind = exports.format_of(file.suffix)
    module = ExportedPolicy(agent)
    inputs = module.inputs(drawn(agent.interface, 2, seed=0), drawn_memory(agent, 2, seed=0))
    try:
        data = kind.written(module, inputs, metadata(agent) | {"memory": json.dumps(module.carried)})
    except Exception as error:
        raise UserError(f"{file}: the policy cannot be put into {file.suffix}: {first_line(error)}") from error
    run = kind.read(data)
    found = None if run is None else difference(agent, run, module.inputs)
    write_atomically(file, data)
    return Export(file, len(data), found)


def metadata(agent: TrainedAgent) -> dict[str, str]:
    """Return what a file says of itself; spaces as JSON."""
    spaces = {f"{name}_space": json.dumps(as_json(space)) for name, space in agent.interface.description().items()}
    commit = git_commit()
    return {
        "env_id": agent.config.env.id,
        "env_steps": str(agent.env_steps),
        **spaces,
        "trpo_version": version("trpo"),
        **({"git_commit": commit} if commit else {}),
    }
