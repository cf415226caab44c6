"""Several processes that train one agent: what each must tell the others, and nothing else.

Every rank steps its own share of the environments; whatever is a mean over samples becomes one over the samples of
all ranks, weighted by their counts, so that P ranks with N/P samples each compute what one process computes with N.
`torchrun` starts the ranks and says who is who. Without it there is one rank, and nothing here sends anything.

This is the only module that knows `torch.distributed`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from trpo.numerics.moments import Moments, moments, pack, union

FEW = 8  # ranks: an all-gather takes half as long as an all-reduce among two, and grows with their number


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the ranks that `torchrun` started, if it did, until the end of the block."""
    if os.environ.get("WORLD_SIZE", "1") == "1" or "LOCAL_RANK" not in os.environ:  # schedulers set the first as well
        yield
        return
    keep_to_own_cores()
    # Parts of torch import it when they are first used, and it keeps the process group that it finds for ever: the
    # group's threads would then outlive the block, and now and then abort the process while Python shuts down.
    import torch._dynamo

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with answered():
        store, rank, size = next(rendezvous("env://"))
        # After a restart torchrun's store still has the addresses of the ranks that died.
        store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def keep_to_own_cores() -> None:
    """Divide the cores among the ranks of this host, before any of their threads starts.

    Left to itself the system puts a thread that a message wakes onto a core where another rank computes, and lets
    it wait there for milliseconds.
    """
    number, ranks = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if own := cores[len(cores) * number // ranks : len(cores) * (number + 1) // ranks]:
            os.sched_setaffinity(0, own)


def count() -> int:
    """Return how many ranks there are."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def number() -> int:
    """Return which of them this is; 0 leads."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def leads() -> bool:
    """Return whether this rank is the one that writes."""
    return number() == 0


def number_here() -> int:
    """Return which of this host's ranks this is."""
    return 0 if count() == 1 else int(os.environ["LOCAL_RANK"])


def share(items: int) -> range:
    """Return this rank's part of 0 … items − 1: contiguous, and as even as can be."""
    return range(items * number() // count(), items * (number() + 1) // count())


@contextmanager
def answered() -> Iterator[None]:
    """Say in one line that a message failed: what broke it is known to the rank that ended, not to this one."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError("another rank ended or cannot be reached: its messages or torchrun say why") from error


def total(part: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks, the same bits on each: one message."""
    if count() == 1:
        return part
    if count() <= FEW:
        return gathered(part).sum(0)
    result = part.clone()
    with answered():
        finish(torch.distributed.all_reduce(result, async_op=True))
    return result


def gathered(part: Tensor) -> Tensor:
    """Return a tensor of every rank (R, …), in their order: one message."""
    if count() == 1:
        return part.unsqueeze(0)
    everyones = part.new_empty(count(), *part.shape)
    with answered():
        flat = part.reshape(-1).contiguous()
        finish(torch.distributed.all_gather_into_tensor(everyones.view(-1), flat, async_op=True))
    return everyones


def finish(work: Any) -> None:
    """Wait for a message without going to sleep.

    A rank that sleeps is woken late, by milliseconds where gloo's threads share its core: in an iteration of two ranks
    with 36 messages they took 20 to 60 ms in all asleep, 16 to 17 ms like this.
    """
    while not work.is_completed():
        os.sched_yield()
    work.wait()


def mean(values: Tensor, samples: int) -> Tensor:
    """Return means over the samples of all ranks from each rank's means (K,) over its own: one message."""
    if count() == 1:
        return values
    weighted = total(torch.cat([values * samples, values.new_tensor([samples])]))
    return weighted[:-1] / weighted[-1]


def moments_of(rows: Tensor) -> Moments:
    """Return the moments of the rows (n, K) of all ranks: one message."""
    return union(gathered(pack(moments(rows))))


def largest(value: int) -> int:
    """Return the largest of all ranks' values: one message."""
    return value if count() == 1 else int(gathered(torch.tensor(value)).max())


def check_same(fingerprint: str) -> None:
    """Raise `RuntimeError` if the ranks do not have the same fingerprint of their parameters: one message."""
    everyone = gathered(torch.tensor(list(bytes.fromhex(fingerprint)), dtype=torch.uint8))
    if different := (everyone != everyone[0]).any(1).nonzero().flatten().tolist():
        raise RuntimeError(
            f"the parameters of ranks {different} are no longer those of rank 0: their machines do not compute alike, "
            "or one of them fails; different versions of torch or CPUs do that"
        )


def everyones(item: Any) -> list[Any]:
    """Return a picklable object of every rank, in their order."""
    if count() == 1:
        return [item]
    items: list[Any] = [None] * count()
    with answered():
        torch.distributed.all_gather_object(items, item)
    return items


def of_leader(item: Any) -> Any:
    """Return the leader's picklable object; what other ranks pass is ignored."""
    if count() == 1:
        return item
    items = [item]
    with answered():
        torch.distributed.broadcast_object_list(items, src=0)
    return items[0]
