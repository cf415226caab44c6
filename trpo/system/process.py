"""What torch is told once about the process that it computes in."""

import os

import torch

from trpo.system.memory import keep_freed_memory


def set_up(*, threads: int, deterministic: bool) -> None:
    """Set torch's threads, how freed memory is treated, and whether only deterministic operations are allowed."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    if deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports for over a second
        torch.use_deterministic_algorithms(deterministic)
