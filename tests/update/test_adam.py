"""Our Adam and AdamW against torch's own, and what a training process imports."""

import subprocess
import sys

import pytest
import torch
from oracles import normal
from torch import nn

from trpo.update.adam import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]
SETTINGS = [{"fused": True}, {"eps": 1e-5, "foreach": False}, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}]


def trained(kind, settings, steps=5, state=None):
    """A parameter after some steps on a quadratic, and its optimiser."""
    parameter = nn.Parameter(normal(3, 4, seed=0, dtype=torch.float32))
    optimizer = kind([parameter], **settings)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        optimizer.zero_grad()
        (parameter - 1).square().sum().backward()
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_steps_and_state_are_torchs_to_the_bit_and_either_goes_on_with_the_others(ours, theirs, settings):
    (first, a), (second, b) = trained(ours, settings), trained(theirs, settings)
    assert torch.equal(first, second)
    for mine, others in zip(a.state_dict()["state"].values(), b.state_dict()["state"].values(), strict=True):
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[name], others[name]) for name in mine)
    assert a.state_dict()["param_groups"] == b.state_dict()["param_groups"]
    crossed = [
        trained(kind, settings, state=state)[0] for kind, state in ((ours, b.state_dict()), (theirs, a.state_dict()))
    ]
    assert torch.equal(*crossed)
    assert not torch.equal(crossed[0], first)


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_a_step_is_no_part_of_a_graph_and_leaves_gradients_on(kind):
    """Autograd would refuse to change a parameter in place; a closure may still differentiate."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = kind([parameter])

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert torch.is_grad_enabled()
    assert parameter.requires_grad


def printed(program, *arguments):
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


USED = """
import sys
import torch
from trpo.update.adam import Adam, AdamW
for kind in (Adam, AdamW):
    for fused in (True, False):
        parameter = torch.ones(2, requires_grad=True)
        optimizer = kind([parameter], fused=fused)
        optimizer.zero_grad()
        parameter.sum().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""


def test_nothing_that_is_called_imports_the_compiler():
    assert printed(USED) == "False"


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", ["score", "pathwise"])
def test_training_imports_no_compiler(surrogate, tmp_path):
    """It would be more than a second of every run."""
    arguments = [
        *("task=pendulum", f"surrogate={surrogate}", f"hydra.run.dir={tmp_path / 'run'}", "run.evaluation_episodes=1"),
        *("run.total_steps=400", "run.steps_per_iteration=100", "action_values.warm_up=1", "record.profile_every=2"),
    ]
    program = "import sys; from trpo.commands.train import train; print(train(), 'torch._dynamo' in sys.modules)"
    assert printed(program, *arguments) == "0 False"
