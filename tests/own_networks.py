"""Networks of somebody's own: some that can be trained, and one for each way in which one cannot."""

import torch
from torch import nn

from trpo.models.networks import Policy, masked


class Plain(Policy):
    """Torch's own layers and first weights, one hidden layer of ELUs; σ of Gaussian actions is 0.5."""

    def __init__(self, observation_size, distribution, *, generator, width=8):
        super().__init__()
        self.distribution = distribution
        self.gaussian = distribution.parameter_size == 2 * distribution.action_size
        outputs = distribution.action_size if self.gaussian else distribution.parameter_size
        self.layers = nn.Sequential(nn.Linear(observation_size, width), nn.ELU(), nn.Linear(width, outputs))

    def forward(self, observations):
        y = self.layers(observations)
        return torch.cat([y, torch.full_like(y, -0.7)], dim=-1) if self.gaussian else y


class Value(nn.Module):
    def __init__(self, observation_size, *, generator, width=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(observation_size, width), nn.ELU(), nn.Linear(width, 1))

    def forward(self, observations):
        return self.layers(observations).squeeze(-1)


class Column(Value):
    """Forgets to squeeze."""

    def forward(self, observations):
        return self.layers(observations)


class Wide(Plain):
    """Gives a parameter too many."""

    def forward(self, observations):
        y = super().forward(observations)
        return torch.cat([y, y[:, :1]], dim=-1)


class Normalising(Plain):
    """Looks at the other rows."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.layers.insert(1, nn.BatchNorm1d(8))


class Dropping(Plain):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.layers.insert(1, nn.Dropout(0.5))


class Once(torch.autograd.Function):
    """A square whose backward pass is not differentiable."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


class Flat(Plain):
    """Has a gradient and no curvature."""

    def forward(self, observations):
        return Once.apply(super().forward(observations))


class Half(torch.autograd.Function):
    """The identity, with half of its gradient."""

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient / 2


class Halved(Plain):
    def forward(self, observations):
        return Half.apply(super().forward(observations))


class Doubled(Plain):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.double()

    def forward(self, observations):
        return super().forward(observations.double()).float()


class Infinite(Plain):
    def forward(self, observations):
        return super().forward(observations) / 0.0


class Forgetful(Plain):
    """Keeps no distribution."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.distribution = None


class OfParts(Policy):
    """Sees the grid of `probes:Marked-v0`; `heeds` its mask or does not."""

    def __init__(self, sizes, distribution, *, generator, heeds=True):
        super().__init__()
        self.distribution, self.heeds = distribution, heeds
        self.linear = nn.Linear(torch.Size(sizes["grid"]).numel(), distribution.parameter_size)

    def forward(self, observations):
        logits = self.linear(observations["grid"].flatten(1).float())
        return masked(logits, observations["action_mask"]) if self.heeds else logits


class OfBytes(OfParts):
    """Takes the bytes of the grid for numbers, which no layer does."""

    def forward(self, observations):
        return masked(self.linear(observations["grid"].flatten(1)), observations["action_mask"])
