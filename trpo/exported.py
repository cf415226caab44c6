"""A trained policy as one file: from raw observations to the environment's actions, for who has no `trpo`."""

import copy
import json
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from trpo.config import UserError, first_line
from trpo.models.distributions import Bernoulli, Categorical, Distribution
from trpo.models.encoders import chosen
from trpo.models.normalizer import LeafNormalizers, Normalizer, ObservationNormalizer, rows_of
from trpo.models.observations import ALONE, MASK, Leaf
from trpo.record import exports
from trpo.record.files import check_target, write_atomically
from trpo.record.run_directory import git_commit
from trpo.sampling.description import as_json
from trpo.sampling.inputs import InputEncoder, Inputs, drawn
from trpo.trained import TrainedAgent

CHECKED = 1_000  # random observations
TOLERANCE = 1e-5  # of actions, and of logits: two that are nearer are one to rounding


Module = TypeVar("Module", bound=nn.Module)


class ExportedPolicy(nn.Module):
    """The mode of a trained policy: encoding, normaliser, network and decoding in one.

    It holds what acting needs and nothing else: of the normaliser the float32 copies of its statistics.
    Raises `UserError` for an observation that is no tensor.
    """

    def __init__(self, agent: TrainedAgent) -> None:
        super().__init__()
        if agent.agent.memory is not None:
            raise UserError(
                "an agent with memory cannot be exported yet: what it remembers would have to go in and out"
            )
        interface = agent.interface
        self.alone = isinstance(interface.observations, Leaf)
        seen = [*chosen(interface.observations, agent.config.policy.observations)]
        self.encoder = InputEncoder(interface, [*seen, MASK] if interface.masked else seen)
        rescaled = {name: part for name, part in rescalers(agent.agent.normalizer).items() if name in seen}
        self.names, self.parts = tuple(rescaled), nn.ModuleList(rescaled.values())
        self.policy = without_moments(copy.deepcopy(agent.agent.policy))
        self.decoder = interface.decoder
        self.requires_grad_(False).eval()

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the environment's actions (B, …) for named raw observations (B, …)."""
        leaves = self.encoder(inputs)
        leaves |= {name: part(rows_of(leaves[name])) for name, part in zip(self.names, self.parts, strict=True)}
        parameters = self.policy(leaves[ALONE] if self.alone else leaves)
        return self.decoder(self.policy.distribution.mode(parameters))  # type: ignore[no-any-return]


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
    Raises `UserError`, and writes nothing, if the file exists and not `force`, for another suffix, if a package is
    missing, and if the agent and its file are not the same.
    """
    file = Path(path)
    check_target(file, force=force)
    kind = exports.format_of(file.suffix)
    module = ExportedPolicy(agent)
    inputs = module.encoder.inputs(drawn(agent.interface, 2, seed=0))
    try:
        data = kind.written(module, inputs, metadata(agent))
    except Exception as error:
        raise UserError(f"{file}: the policy cannot be put into {file.suffix}: {first_line(error)}") from error
    run = kind.read(data)
    found = None if run is None else difference(agent, module.encoder, run)
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


def difference(agent: TrainedAgent, encoder: InputEncoder, run: exports.Run) -> float:
    """Return the largest difference between the actions of an agent and of its file over random observations.

    Discrete actions are compared where the agent tells the best from the second. Raises `UserError` if they differ by
    more than rounding, or in type or shape.
    """
    raw = drawn(agent.interface, CHECKED, seed=1)
    expected, found = agent.act(raw), run(encoder.inputs(raw))
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise UserError(f"the file gives {found.dtype} {found.shape}, the agent {expected.dtype} {expected.shape}")
    largest = float(apart(expected, found)[told_apart(agent, raw)].max(initial=0.0))
    if not largest <= rounding(expected):
        raise UserError(f"the file and its agent differ by {largest:.2g}, which is more than rounding: nothing written")
    return largest


def apart(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return |expected − found|, 0 where they are the same infinity or both are no number."""
    one, other = expected.astype(np.float64), found.astype(np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.abs(np.subtract(one, other, where=~same, out=np.zeros_like(one)))


def rounding(actions: np.ndarray) -> float:
    """Return by how much actions may differ that are computed in another order: discrete ones not at all."""
    if not np.issubdtype(actions.dtype, np.floating):
        return 0.0
    largest = float(np.nanmax(np.abs(actions), initial=1.0))
    return largest * max(TOLERANCE, float(np.finfo(actions.dtype).eps))


@torch.no_grad()
def told_apart(agent: TrainedAgent, raw: object) -> np.ndarray:
    """Return for which of a batch of raw observations the best action is further from the second than rounding."""
    policy = agent.agent.policy
    parameters = policy(agent.agent.normalize(agent.interface.encode(raw)))
    return (gap(policy.distribution, parameters) > TOLERANCE).numpy()


def gap(distribution: Distribution, parameters: Tensor) -> Tensor:
    """Return by how much the best logit leads the second, in the dimension where it does least (N,); else infinity."""
    if isinstance(distribution, Bernoulli):
        return parameters.abs().min(dim=-1).values
    if not isinstance(distribution, Categorical):
        return torch.full((len(parameters),), torch.inf)
    choices = [
        nn.functional.pad(logits, (0, 1), value=-torch.inf) for logits in parameters.split(distribution.sizes, -1)
    ]
    best = torch.stack([logits.topk(2, dim=-1).values for logits in choices])  # (A, N, 2)
    return (best[..., 0] - best[..., 1]).min(dim=0).values
