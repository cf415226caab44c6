"""Whether two runs are the same to the bit: all that they wrote, but for their clocks."""

import torch
from tiny_runs import checkpoints, rows, summary

from trpo.record import checkpoint


def decided(directory):
    """The rows of a run but for its clocks."""
    free = lambda key: key.startswith("time/") or key == "wall_time"  # noqa: E731
    return [{key: value for key, value in row.items() if not free(key)} for row in rows(directory)]


def saved(file):
    """All that a checkpoint holds but for its clock, and for how long the run should be."""
    return {key: value for key, value in checkpoint.load(file).items() if key not in ("seconds", "config")}


def same(one, other):
    """Whether two nested states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_same_run(one, other):
    assert decided(one) == decided(other)
    assert same(saved(checkpoints(one)[-1]), saved(checkpoints(other)[-1]))
    assert same(saved(one / "checkpoints" / "best.pt"), saved(other / "checkpoints" / "best.pt"))
    trained = [directory / "checkpoints" / checkpoint.BEST_TRAINING for directory in (one, other)]
    assert trained[0].exists() == trained[1].exists()
    assert not trained[0].exists() or same(*map(saved, trained))
    assert summary(one)["exact"] is summary(other)["exact"] is True
    for key in ("exit_reason", "iterations", "env_steps", "final_evaluation", "best_evaluation", "best_training"):
        assert summary(one)[key] == summary(other)[key]
