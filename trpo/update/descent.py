"""Minibatch Adam on a critic's squared error, by two routes to the same steps.

Autograd serves any network. That of our own `Critic` is so small that its bookkeeping would cost three times as much as
its arithmetic: its gradient is written out (`numerics.perceptron`), and Adam takes its parameters as one vector.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from trpo.config import CriticConfig
from trpo.models.memory import whole_segments
from trpo.models.networks import Critic
from trpo.models.observations import Observations, leaves_of
from trpo.numerics.perceptron import Perceptron, is_listened_to, is_perceptron, joined
from trpo.system import ranks
from trpo.system.threads import single_thread
from trpo.update.adam import Adam

WORTH_A_THREAD = 2_000_000  # parameters × rows of a step, from which on a second thread makes it faster


def minibatches(samples: Observations, config: CriticConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of minibatches of samples (N, …): every epoch passes over all, in a new order from `generator`.

    With memory a minibatch is of whole segments. Several ranks take their steps together, so each yields as many as the
    others; where one has fewer samples, or segments, than steps, some of its minibatches are empty.
    """
    segments = whole_segments(samples)
    units = len(samples) if segments is None else len(segments)
    counts = ranks.gathered(torch.tensor([len(samples), units]))
    steps = min(math.ceil(int(counts[:, 0].sum()) / config.minibatch_size), int(counts[:, 1].max()))  # per epoch
    device = next(iter(leaves_of(samples).values())).device  # a tree names none of its own
    for _ in range(config.epochs):
        order = torch.randperm(units, generator=generator).to(device)
        for chosen in order.tensor_split(steps):
            yield chosen if segments is None else torch.cat([chosen[:0], *(segments[i] for i in chosen.tolist())])


def descend_by_autograd(
    critic: nn.Module,
    optimizer: torch.optim.Optimizer,
    observations: Tensor,
    returns: Tensor,
    config: CriticConfig,
    generator: torch.Generator,
) -> None:
    """Take the steps of any critic and optimiser.

    Raises `FloatingPointError` before a step on a loss that is not finite.
    """
    for chosen in minibatches(observations, config, generator):
        errors = (critic(observations[chosen]) - returns[chosen]).square()
        loss = errors.mean() if len(errors) else errors.sum()  # a rank may have no row of a small minibatch
        check_finite("loss", float(loss.detach()), returns)
        optimizer.zero_grad()
        loss.backward()
        if ranks.count() > 1:
            average_gradients(critic, len(chosen))
        optimizer.step()


def average_gradients(critic: nn.Module, samples: int) -> None:
    """Replace the gradients of this rank's mean loss, over so many samples, by those of the mean over all ranks."""
    gradients = [parameter.grad for parameter in critic.parameters() if parameter.grad is not None]
    averaged = ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]), samples)
    for gradient, part in zip(gradients, averaged.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def can_be_lean(critic: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a critic is ours, and the optimiser what `make_optimizer` makes of it."""
    if (
        type(critic) is not Critic
        or learns(critic.encoder)
        or is_listened_to(critic)
        or not is_perceptron(critic.network)
    ):
        return False
    if type(optimizer) not in (Adam, torch.optim.Adam) or len(optimizer.param_groups) != 1:
        return False
    group, parameters = optimizer.param_groups[0], list(critic.parameters())
    return (
        all(parameter.requires_grad for parameter in parameters)
        and list(map(id, group["params"])) == list(map(id, parameters))
        and bool(group["fused"])
        and not (group["amsgrad"] or group["maximize"] or group["weight_decay"])
    )


def learns(encoder: nn.Module | None) -> bool:
    """Return whether an encoder has parameters."""
    return encoder is not None and any(True for _ in encoder.parameters())


@torch.no_grad()
def descend_lean(
    critic: Critic,
    optimizer: torch.optim.Optimizer,
    observations: Tensor,
    returns: Tensor,
    config: CriticConfig,
    generator: torch.Generator,
) -> None:
    """Take the steps of our own critic with all of its parameters as one vector, and write them at the end.

    Raises `FloatingPointError` before anything is written if they diverged.
    """
    network = Perceptron(critic.network)
    adam = FlatAdam(optimizer, network)
    samples = joined(critic.features(observations), returns)
    small = len(network.theta) * config.minibatch_size < WORTH_A_THREAD
    with single_thread() if small else nullcontext():
        for chosen in minibatches(samples, config, generator):
            network.differentiate(samples, chosen)
            adam.step(ranks.mean(network.gradient, len(chosen)))
    check_finite("largest parameter or moment", float(adam.magnitude()), returns)
    adam.write()


class FlatAdam:
    """Adam on one vector of parameters (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), with an optimiser's settings.

    It goes on from the state that `torch.optim.Adam` keeps for each parameter, and `write` gives that back: checkpoints
    and the steps of `descend_by_autograd` know no other.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, network: Perceptron) -> None:
        (group,) = optimizer.param_groups
        self.network = network
        self.parameters = group["params"]
        self.states = [state_of(optimizer, parameter) for parameter in self.parameters]
        self.exp_avg, self.exp_avg_sq = (
            network.flatten([state[name] for state in self.states]) for name in ("exp_avg", "exp_avg_sq")
        )
        self.steps = self.states[0]["step"].clone()
        self.learning_rate, (self.beta1, self.beta2), self.eps = group["lr"], group["betas"], group["eps"]

    def step(self, gradient: Tensor) -> None:
        """Take one step, in place: the kernel of Adam(fused=True), which torch takes twice its time to call."""
        self.steps += 1
        torch._fused_adam_(
            *([self.network.theta], [gradient], [self.exp_avg], [self.exp_avg_sq], [], [self.steps]),
            lr=self.learning_rate,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def magnitude(self) -> Tensor:
        """Return the largest number of parameters and state: not finite if any gradient was not."""
        return torch.stack([self.network.theta, self.exp_avg, self.exp_avg_sq]).abs().max()

    def write(self) -> None:
        """Copy parameters and state to where the optimiser and the critic keep them."""
        for places, vector in (
            (self.parameters, self.network.theta),
            ([state["exp_avg"] for state in self.states], self.exp_avg),
            ([state["exp_avg_sq"] for state in self.states], self.exp_avg_sq),
        ):
            for place, part in zip(places, self.network.unflatten(vector), strict=True):
                place.copy_(part)
        for state in self.states:
            state["step"].copy_(self.steps)


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of a parameter, all zero before its first step."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=parameter.device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    return state


def check_finite(name: str, value: float, returns: Tensor) -> None:
    """Raise `FloatingPointError` if a number of a fit is not finite."""
    if not math.isfinite(value):
        raise FloatingPointError(
            f"the critic's {name} is {value}: its targets reach {float(returns.abs().max()):.3g}; "
            "check the rewards' scale, turn on normalize.rewards or lower critic.learning_rate"
        )
