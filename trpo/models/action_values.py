"""Action values: what an action in a state is worth, by several networks side by side."""

import math
from itertools import product

import torch
from torch import Tensor, nn

from trpo.config import Config, UserError
from trpo.models.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution
from trpo.models.encoders import as_asked, chosen, make_encoder
from trpo.models.observations import Kind, Leaf, Observations, Spec
from trpo.models.value_heads import FEWEST_BINS, SUPPORT, BinnedHead, NumberHead
from trpo.numerics.ensemble import Layer, forward, layers_of, parameter_count
from trpo.system import seeds

MOST_JOINT_ACTIONS = 256
ROWS_AT_ONCE = 2_048  # what lies between the layers then stays in the cache of a processor


class ActionValues(nn.Module):
    """K networks of one shape, computed together, their parameters one vector; layers are normalised before each SiLU.

    Layer norm keeps networks that go on being fitted from growing where there are no data (Ball et al. 2023,
    arXiv:2302.02948, section 4.2).

    Args:
        inputs: I, of observations and, where they are continuous, actions.
        outputs: M, one for each joint action, or 1 where the action is an input.
        hidden_sizes: widths of the hidden layers.
        networks: K.
        generator: draws the first weights, uniform in ±1/√fan-in.
        bins: of the distribution whose mean a value is; 0 for none, and an output that is the value.
        encoder: from observations to rows of numbers, with nothing to learn; without one they are that already.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden_sizes: tuple[int, ...],
        networks: int,
        generator: torch.Generator,
        bins: int = 0,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head: BinnedHead | NumberHead = BinnedHead(bins) if bins else NumberHead()
        self.networks = networks
        self.sizes = (inputs, *hidden_sizes, outputs * self.head.outputs)
        # Without a gradient of autograd's: the fit writes its own, and a policy step must not go into it.
        self.theta = nn.Parameter(torch.zeros(parameter_count(networks, self.sizes)), requires_grad=False)
        for weight, bias, gain, _ in self.layers():
            bound = 1 / math.sqrt(weight.shape[1])
            weight.uniform_(-bound, bound, generator=generator)
            bias.uniform_(-bound, bound, generator=generator)
            if gain is not None:
                gain.fill_(1.0)

    def layers(self) -> list[Layer]:
        """Return views of the parameters."""
        return layers_of(self.theta, self.networks, self.sizes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the values of every network (K, N, M) for inputs (N, I)."""
        layers = self.layers()
        return torch.cat([self.head(forward(layers, rows)) for rows in inputs.split(ROWS_AT_ONCE)], dim=1)

    def features(self, observations: Observations) -> Tensor:
        """Return what of the inputs is observation (N, …)."""
        return observations if self.encoder is None else self.encoder(observations)

    def mean(self, inputs: Tensor) -> Tensor:
        """Return the mean of the networks' values (N, M)."""
        values: Tensor = self(inputs)
        return values.mean(0)

    def cautious(self, inputs: Tensor, pessimism: float) -> Tensor:
        """Return the mean of the networks' values less `pessimism` of their standard deviations (N, M).

        A maximum over noise is too high. Of two networks the smallest is what a pessimism of 1 gives (Fujimoto, van
        Hoof and Meger 2018, arXiv:1802.09477, equation 10); it is low wherever they disagree, away from the data.
        """
        values: Tensor = self(inputs)
        return values.mean(0) - pessimism * values.std(0, correction=0)


def joint_log_probs(distribution: Distribution, parameters: Tensor, joint: Tensor) -> Tensor:
    """Return log π (N, M) of every joint action (M, A) of a discrete distribution with parameters (N, D)."""
    if isinstance(distribution, Categorical):
        logits = zip(parameters.split(distribution.sizes, dim=-1), joint.long().unbind(1), strict=True)
        return torch.stack([torch.log_softmax(part, dim=-1)[:, chosen] for part, chosen in logits]).sum(0)
    return nn.functional.logsigmoid(parameters.unsqueeze(1) * (2 * joint - 1)).sum(-1)


def action_values_for(config: Config, observations: Spec, distribution: Distribution) -> ActionValues | None:
    """Return fresh networks if the surrogate asks for them."""
    return None if config.trust_region.surrogate == "score" else make_action_values(config, observations, distribution)


def make_action_values(config: Config, observations: Spec, distribution: Distribution) -> ActionValues:
    """Return fresh networks for these actions and the parts of an observation that critics see.

    Raises `UserError` for too many joint actions, for too few bins, and for pictures, as none is a convolution.
    """
    check_bins(config)
    joint, alone = joint_actions(distribution), isinstance(observations, Leaf)
    seen = chosen(as_asked(observations, config), config.critic.observations)
    flat = {name: leaf._replace(kind=flattened(name, leaf)) for name, leaf in seen.items()}
    generator = seeds.generator(config.seed, seeds.Role.NETWORKS, 1)
    encoder = make_encoder(next(iter(flat.values())) if alone else flat, (), generator=generator)
    return ActionValues(
        sum(leaf.size for leaf in flat.values()) + (distribution.action_size if joint is None else 0),
        1 if joint is None else len(joint),
        hidden_sizes=config.action_values.hidden_sizes,
        networks=config.action_values.networks,
        generator=generator,
        bins=config.action_values.bins,
        encoder=encoder,
    )


def check_bins(config: Config) -> None:
    """Raise `UserError` where bins are too few, or rewards not scaled to them."""
    bins = config.action_values.bins
    if 0 < bins < FEWEST_BINS:
        raise UserError(f"action_values.bins={bins}: 0 for none, or {FEWEST_BINS} and more")
    if bins and not config.normalize.rewards:
        raise UserError(
            f"action_values.bins={bins} needs normalize.rewards=true: bins lie from {SUPPORT[0]:g} to {SUPPORT[1]:g} "
            "in scaled reward"
        )


def flattened(name: str, leaf: Leaf) -> Kind:
    """Return the kind of a leaf that is only put beside others. Raises `UserError` for a picture."""
    if leaf.kind is Kind.IMAGE:
        raise UserError(
            f"trust_region.surrogate=pathwise: action values see no pictures, as {name} is; they see all else "
            "(critic.observations=[…] names what), or policy.vectors=[…] flattens it"
        )
    return Kind.ONE_HOT if leaf.kind is Kind.ONE_HOT else Kind.VECTOR


def joint_actions(distribution: Distribution) -> Tensor | None:
    """Return every joint action (M, A) of a discrete distribution, or None for a continuous one.

    Raises `UserError` if they are more than `MOST_JOINT_ACTIONS`.
    """
    if isinstance(distribution, DiagonalGaussian):
        return None
    if isinstance(distribution, Categorical):
        sizes = distribution.sizes
    else:
        assert isinstance(distribution, Bernoulli)
        sizes = (2,) * distribution.action_size
    if math.prod(sizes) > MOST_JOINT_ACTIONS:
        raise UserError(
            f"trust_region.surrogate=pathwise: {math.prod(sizes):,} joint actions are too many, as action values have "
            f"an output for each: at most {MOST_JOINT_ACTIONS}"
        )
    return torch.tensor(list(product(*map(range, sizes))), dtype=torch.float32)
