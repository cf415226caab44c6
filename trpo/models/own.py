"""Networks of one's own, by name: made, and checked before anything is trained.

A class is called with the sizes of an observation (a number for a vector, a shape for a picture or a grid, a mapping of
shapes where there are several parts), a policy's with the distribution whose parameters it is to give, and with a
generator for its weights; what it draws without that comes from a seed as well.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trpo.config import UserError, first_line
from trpo.models.distributions import Categorical, Distribution
from trpo.models.networks import Policy
from trpo.models.normalizer import RESCALED
from trpo.models.observations import ALONE, MASK, Kind, Leaf, Observations, Spec, leaves_of, like, named, tree
from trpo.numerics.fisher import gauss_newton_product
from trpo.numerics.params import flatten, forward_at
from trpo.system.imports import named_object

ROWS = 5  # of the observations that a network is tried on
SMALL = 1e-2  # a step whose square does not show, and whose difference is above the rounding of float32
BYTES = {Kind.IMAGE: 256, Kind.GRID: 2}  # how many different ones a network is tried on
Sizes = int | tuple[int, ...] | dict[str, tuple[int, ...]]


def make_own_policy(
    name: str, spec: Spec, distribution: Distribution, arguments: Mapping[str, Any], generator: torch.Generator
) -> Policy:
    """Return the policy of a class by name. Raises `UserError` if it cannot be optimised by a trust-region step."""
    with faults_of("policy.network", name):
        found = named_class(name, Policy)
        policy: Policy = seeded(generator, lambda: found(sizes(spec), distribution, generator=generator, **arguments))
        if getattr(policy, "distribution", None) != distribution:
            raise UserError("its attribute `distribution` is not the distribution that it was given")
        seen = trial(spec)
        check_rows(policy, seen, (ROWS, distribution.parameter_size))
        check_curvature(policy, seen)
        if isinstance(distribution, Categorical) and MASK in leaves_of(seen):
            check_masks(policy, seen, distribution)
        return policy


def make_own_critic(name: str, spec: Spec, arguments: Mapping[str, Any], generator: torch.Generator) -> Any:
    """Return the value function of a class by name. Raises `UserError` if it gives no value for each row."""
    with faults_of("critic.network", name):
        found = named_class(name, nn.Module)
        critic = seeded(generator, lambda: found(sizes(spec), generator=generator, **arguments))
        check_rows(critic, trial(spec), (ROWS,))
        return critic


@contextmanager
def faults_of(key: str, name: str) -> Iterator[None]:
    """Turn whatever goes wrong with a network of one's own into a `UserError` that names the key and the class."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = f"there is no module {error.name}, neither installed nor in the working directory"
        raise UserError(f"{key}={name}: {missing}") from error
    except Exception as error:
        raise UserError(f"{key}={name}: {first_line(error)}") from error


def named_class(name: str, base: type[nn.Module]) -> Callable[..., Any]:
    """Return the class that a name names. Raises `UserError` unless it is a subclass of `base`."""
    found = named_object(name, "the name of a class has the form module:Class")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"it is no subclass of {base.__module__.split('.')[0]}.{base.__name__}")
    return found


def sizes(spec: Spec) -> Sizes:
    """Return what a network is told of its observations: masks have a shape too."""
    if isinstance(spec, Leaf):
        shape = row_shape(spec)
        return shape[0] if len(shape) == 1 else shape
    return {name: row_shape(leaf) for name, leaf in spec.items()}


def row_shape(leaf: Leaf) -> tuple[int, ...]:
    """Return the shape of a row as a network is given it: whatever is rescaled comes as numbers side by side."""
    return (leaf.size,) if leaf.kind in RESCALED else leaf.kept


def seeded(generator: torch.Generator, make: Callable[[], Any]) -> Any:
    """Return what is made while torch's own generator starts from a number of `generator`."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def trial(spec: Spec) -> Observations:
    """Return some rows of observations to try a network on: numbers near 1, bytes where they are kept as such.

    Grids of bytes are of 0 and 1: a network may look their numbers up in a table, whose length nobody says.
    """
    generator = torch.Generator().manual_seed(0)
    leaves: dict[str, Tensor] = {}
    for name, leaf in named(spec).items():
        shape = (ROWS, *row_shape(leaf))
        if leaf.kind is Kind.MASK:
            leaves[name] = torch.ones(shape, dtype=torch.bool)
        elif leaf.kind in BYTES and leaf.bytes == 1:
            leaves[name] = torch.randint(BYTES[leaf.kind], shape, generator=generator, dtype=torch.uint8)
        else:
            leaves[name] = torch.randn(shape, generator=generator)
    return leaves[ALONE] if isinstance(spec, Leaf) else tree(leaves, (ROWS,))


@torch.no_grad()
def check_rows(network: nn.Module, seen: Observations, shape: tuple[int, ...]) -> None:
    """Raise `UserError` unless a network gives this shape, always the same, and for each row what that row gives."""
    whole = network(seen)
    if tuple(whole.shape) != shape:
        raise UserError(f"it gives {tuple(whole.shape)} for {ROWS} observations, and not {shape}")
    if not torch.isfinite(whole).all():
        raise UserError("it gives numbers that are not finite")
    if not torch.equal(network(seen), whole):
        raise UserError("it gives other numbers the second time: it may not draw or count, as dropout does")
    if not torch.allclose(network(seen[:2]), whole[:2], rtol=1e-4, atol=1e-5):
        raise UserError("what it gives for a row depends on the other rows, as batch normalisation makes it")


def check_curvature(policy: Policy, seen: Observations) -> None:
    """Raise `UserError` unless a policy can be differentiated twice, and rightly: vᵀJᵀJv is |Jv|² by differences."""
    theta = flatten(policy).requires_grad_()
    if theta.dtype != torch.float32:
        raise UserError(f"its parameters are {theta.dtype}, and must be float32")
    v = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0))
    v /= v.norm()
    try:
        parameters = forward_at(policy, theta, seen)
        curvature = float(ROWS * v @ gauss_newton_product(parameters, theta, lambda jv: jv)(v))
    except RuntimeError as error:
        raise UserError(f"it cannot be differentiated twice: {first_line(error)}") from error
    with torch.no_grad():
        ahead, behind = (forward_at(policy, theta + shift * v, seen) for shift in (SMALL, -SMALL))
    expected = float(((ahead - behind) / (2 * SMALL)).square().sum())
    if not math.isclose(curvature, expected, rel_tol=0.1, abs_tol=1e-4):
        raise UserError(f"its derivatives are wrong: |Jv|² is {curvature:.3g}, and by differences {expected:.3g}")


@torch.no_grad()
def check_masks(policy: Policy, seen: Observations, distribution: Categorical) -> None:
    """Raise `UserError` unless an action that is not valid has no probability."""
    first = torch.cat([torch.arange(n) == 0 for n in distribution.sizes]).expand(ROWS, -1)  # alone is valid
    logits = policy(like(seen, {**leaves_of(seen), MASK: first}))
    for part in logits.split(distribution.sizes, dim=-1):
        if not torch.allclose(part.softmax(-1)[:, 0], torch.ones(ROWS)):
            raise UserError(
                "it gives actions that are not valid a probability: return "
                "trpo.models.networks.masked(logits, observations['action_mask'])"
            )
