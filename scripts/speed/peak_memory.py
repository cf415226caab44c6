"""The peak memory of one update in a process of its own.

    python scripts/speed/peak_memory.py SAMPLES MICRO_BATCH

Prints one JSON line: MiB resident at most before the update (interpreter, libraries, batch), after it, and between.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from speed.work import make_work
from trpo import TrustRegionConfig, trust_region_step


def main() -> None:
    """Measure and print."""
    samples, micro_batch = (int(argument) for argument in sys.argv[1:])
    work = make_work(samples, (64, 64), torch.device("cpu"))
    before = peak()
    trust_region_step(work.policy, work.batch, TrustRegionConfig(micro_batch=micro_batch))
    after = peak()
    print(json.dumps({"before the update": before, "whole process": after, "the update's share": after - before}))


def peak() -> float:
    """Return the most MiB that were resident so far.

    As Linux counts it for this program: `ru_maxrss` starts with what the process held that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
