"""Adam and AdamW of torch, without its compiler.

torch wraps the methods of its optimisers so that `torch.compile` passes over them, and the first call of any of them
imports the whole compiler: more than a second of every process, for optimisers that nobody compiles.
"""

from inspect import unwrap

import torch
from torch.optim import Optimizer


class Unwrapped(Optimizer):
    """What an optimiser does besides its steps, as it is written."""

    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    zero_grad = unwrap(Optimizer.zero_grad)


class Adam(Unwrapped, torch.optim.Adam):
    """Kingma & Ba 2015, arXiv:1412.6980, algorithm 1; bits, settings and state are torch's."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class AdamW(Unwrapped, torch.optim.AdamW):
    """Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; bits, settings and state are torch's."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
