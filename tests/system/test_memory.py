"""Memory that tensors free is kept for the next ones."""

import subprocess
import sys

import pytest

from trpo.system.memory import keep_freed_memory

# Ten policy steps on 2,048 samples, whose intermediate results have half a megabyte each, and the pages faulted in.
PROGRAM = """
import resource, sys, torch
from trpo import Batch, GaussianPolicy, TrustRegionConfig, trust_region_step
from trpo.system.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(1)
sizes = {"hidden_sizes": (64, 64), "activation": "tanh", "initial_log_std": -1.0, "min_log_std": -2.3}
policy = GaussianPolicy(17, 6, **sizes, generator=torch.Generator().manual_seed(0))
observations, actions, advantages = torch.randn(2048, 17), torch.randn(2048, 6), torch.randn(2048)
def step():
    with torch.no_grad():
        old = policy(observations)
    trust_region_step(policy, Batch(observations, actions, old, advantages, advantages), TrustRegionConfig())
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    answer = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc")
def test_pages_are_not_faulted_in_again_and_again():
    kept, given_back = ([faults(how) for _ in range(2)] for how in ("kept", "given back"))
    assert 3 * min(kept) < max(given_back)  # a busy system takes pages away by itself, or leaves them where they are
