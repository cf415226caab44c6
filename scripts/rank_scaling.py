"""What several ranks say to each other, what that costs here, and what it would cost on 8, 64 and 512 ranks.

    python scripts/rank_scaling.py > scripts/results/scaling_ranks.md       (two to three minutes, on an idle machine)

Measures messages between two local ranks, an iteration of one process and one of two, and puts them into a model.
`torchrun … scripts/rank_scaling.py --messages` prints the messages alone, as JSON, wherever its ranks are.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from trpo.system import ranks

SCRIPTS = Path(__file__).parent
TRAINING = ("task=halfcheetah", "run.total_steps=40_960", "run.evaluation_episodes=0", "run.checkpoint_every=0")
QUIET = ("record.profile_every=0", "record.progress=false")
POLICY, CRITIC = 5_708, 5_377  # parameters of HalfCheetah's networks, float32
SIZES = (2, 8, 64, 512)
CONFIGURATIONS = {"default": (), "few critic steps": ("critic.minibatch_size=2048",)}


def messages(cg_iterations: float, candidates: float, critic_steps: int) -> dict[str, float]:
    """Return how many messages of each kind an iteration sends, normalisers on, `fisher_fraction` 1, damping relative.

    A small one is a gather or a sum of a few numbers: reward scale, advantages, the last step's judgement, N (policy,
    critic, step count), rollout and policy figures, statistics, critic before and after, the parameters' hash, the stop
    request.
    """
    return {"small": 13 + candidates, "policy": 2 + cg_iterations, "critic": critic_steps}


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--messages", action="store_true", help="only time messages between the ranks that torchrun made"
    )
    if parser.parse_args().messages:
        with ranks.joined():
            times = measured_messages()
            if ranks.leads():
                print(json.dumps(times))
        return
    alone, pair = (json.loads(torchrun(count, str(SCRIPTS / "rank_scaling.py"), "--messages")) for count in (1, 2))
    print(page(alone, pair, {name: measured_runs(overrides) for name, overrides in CONFIGURATIONS.items()}))


def torchrun(count: int, *arguments: str) -> str:
    """Return the output of a program on so many local ranks."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


def measured_messages() -> dict[str, float]:
    """Return seconds: of a small all-reduce, some of the policy's size, and one of 4 MB.

    Medians, and under `…_mean` means: where ranks share cores, some messages wait for the scheduler's next tick.
    """
    if not torch.distributed.is_initialized():  # a single rank: what the call itself costs
        torch.distributed.init_process_group("gloo")
    doubles, policy, large = torch.ones(4, dtype=torch.float64), torch.ones(POLICY), torch.ones(1_000_000)
    reduce = partial(torch.distributed.all_reduce, async_op=True)
    calls: dict[str, tuple[Callable[[], Any], int]] = {
        "asleep": (lambda: torch.distributed.all_reduce(policy), 1_000),
        "reduce": (lambda: ranks.finish(reduce(doubles)), 2_000),
        "policy": (lambda: ranks.finish(reduce(policy)), 2_000),
        "large": (lambda: ranks.finish(reduce(large)), 50),
        "few": (lambda: ranks.total(policy), 2_000),
    }
    times: dict[str, float] = {}
    for name, (call, repetitions) in calls.items():
        seconds = timed(call, repetitions)
        times |= {name: statistics.median(seconds), f"{name}_mean": statistics.mean(seconds)}
    return times


def timed(call: Callable[[], Any], repetitions: int) -> list[float]:
    """Return the seconds of every call, after a tenth as many for warming up."""
    seconds = []
    for _ in range(repetitions + repetitions // 10):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return seconds[repetitions // 10 :]


def measured_runs(overrides: tuple[str, ...]) -> dict[str, float]:
    """Return median seconds of an iteration of one process, by part, and of two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for count in (1, 2):
            directory = Path(folder, str(count))
            torchrun(count, "-m", "trpo", *TRAINING, *QUIET, *overrides, f"hydra.run.dir={directory}")
            lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[2:]
            rows.append([json.loads(line) for line in lines])
    one, two = rows
    middle = lambda rows, tag: statistics.median(row[tag] for row in rows)  # noqa: E731
    return {
        **{part: middle(one, f"time/{part}") for part in ("collect", "policy", "critic", "total")},
        "two": middle(two, "time/total"),
        "cg_iterations": statistics.mean(row["trust_region/cg_iterations"] for row in one),
        "candidates": 1 + statistics.mean(row["trust_region/backtracks"] for row in one),
        "critic_steps": 10 * (1 if overrides else 8),
    }


class Network:
    """How long a message takes on R ranks: a call, hops one after another, and bytes through a wire."""

    def __init__(self, alone: dict[str, float], pair: dict[str, float]) -> None:
        self.call = alone["reduce"]  # α
        self.hop = (pair["reduce"] - alone["reduce"]) / 2  # β: two ranks' ring has two hops
        self.bandwidth = 4e6 / (pair["large"] - pair["reduce"])  # bytes per second; two ranks send each byte once

    def seconds(self, count: int, payload: float, hops: float) -> float:
        """Return the seconds of one message of so many bytes."""
        return self.call + self.hop * hops + 2 * (count - 1) / count * payload / self.bandwidth

    def iteration(self, count: int, sent: dict[str, float], *, ring: bool) -> float:
        """Return the seconds that an iteration's messages take: gloo's ring, or a tree as other libraries have."""
        hops = 2 * (count - 1) if ring else 2 * math.ceil(math.log2(count))
        payload = {"small": 32, "policy": 4 * POLICY, "critic": 4 * CRITIC}
        return sum(times * self.seconds(count, payload[kind], hops) for kind, times in sent.items())


def page(alone: dict[str, float], pair: dict[str, float], runs: dict[str, dict[str, float]]) -> str:
    """Return the whole page."""
    network = Network(alone, pair)
    lines = [
        "# Several ranks: what they say, and what it costs",
        "",
        f"Made by `python scripts/rank_scaling.py`: gloo over the loopback, two local ranks on {os.cpu_count()} cores,",
        f"torch {torch.__version__}. Milliseconds.",
        "",
        "| message | one rank (the call), median | two ranks, median | two ranks, mean |",
        "| --- | --- | --- | --- |",
        *(
            f"| {text} | {1e3 * alone[name]:.3f} | {1e3 * pair[name]:.3f} | {1e3 * pair[f'{name}_mean']:.3f} |"
            for name, text in (
                ("reduce", "all-reduce of 4 doubles"),
                ("policy", f"all-reduce of {POLICY:,} floats"),
                ("asleep", "the same, waited for asleep"),
                ("few", f"the same by all-gather, as {ranks.FEW} ranks or fewer do it"),
                ("large", "all-reduce of 1,000,000 floats"),
            )
        ),
        "",
        f"So a call costs α = {1e3 * network.call:.3f} ms, a hop β = {1e3 * network.hop:.3f} ms, and the wire carries "
        f"{network.bandwidth / 1e9:.1f} GB/s (from medians).",
        "The mean is larger because some messages stall for up to 4 ms, a tick of this machine's scheduler: gloo works",
        "in threads of its own, which share a core with the rank that waits for them. An iteration here pays the mean.",
        "The model knows nothing of ranks that slow each other, as two that fill a machine do; the rest is theirs.",
        "The tables take the medians, as for hosts with a core to spare, gloo's ring of 2(R − 1) hops and a tree of",
        "2·log₂R; `2,048 samples each` means a batch and critic minibatches R times as large, so as many critic steps.",
    ]
    for name, run in runs.items():
        lines += ["", *section(name, run, network, pair["few_mean"])]
    return "\n".join(lines)


def section(name: str, run: dict[str, float], network: Network, mean: float) -> list[str]:
    """Return the part of the page about one configuration; `mean` is what a message takes between two ranks here."""
    sent = messages(run["cg_iterations"], run["candidates"], int(run["critic_steps"]))
    payload = 32 * sent["small"] + 4 * POLICY * sent["policy"] + 4 * CRITIC * sent["critic"]
    half = run["total"] / 2
    median_pair, mean_pair = half + network.iteration(2, sent, ring=True), half + sum(sent.values()) * mean
    seconds = {part: 1e3 * run[part] for part in ("collect", "policy", "critic", "total", "two")}
    lines = [
        f"## HalfCheetah, {name}" + ("" if name == "default" else f": `{' '.join(CONFIGURATIONS[name])}`"),
        "",
        f"One process: {seconds['total']:.0f} ms per iteration of 2,048 samples (collect {seconds['collect']:.0f}, "
        f"policy {seconds['policy']:.0f}, critic {seconds['critic']:.0f}).",
        f"Messages per iteration: {sum(sent.values()):.1f} ({sent['small']:.1f} small, {sent['policy']:.1f} of "
        f"{POLICY:,} floats, {sent['critic']:.0f} of {CRITIC:,}), {payload / 1e6:.2f} MB from each rank.",
        f"Two ranks: measured {seconds['two']:.0f} ms; model {1e3 * median_pair:.0f} ms with the median message, "
        f"{1e3 * mean_pair:.0f} ms with the mean.",
        "",
        "| ranks | messages, ring | messages, tree | 2,048 samples in all, ring | speed-up | 2,048 samples each, ring "
        "| efficiency | efficiency, tree |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for count in SIZES:
        ring, tree = (network.iteration(count, sent, ring=ring) for ring in (True, False))
        strong, weak = run["total"] / count + ring, run["total"] + ring
        lines.append(
            f"| {count} | {1e3 * ring:.0f} ms | {1e3 * tree:.0f} ms | {1e3 * strong:.0f} ms "
            f"| {run['total'] / strong:.2f} | {1e3 * weak:.0f} ms | {run['total'] / weak:.0%} "
            f"| {run['total'] / (run['total'] + tree):.0%} |"
        )
    return lines


if __name__ == "__main__":
    main()
