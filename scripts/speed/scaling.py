"""Sections on cost as work grows: samples, environments, hidden widths; and the memory of a large update."""

import dataclasses
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from speed.rows import Options, Row
from speed.timing import alternate, seconds_per_call
from speed.training import HALFCHEETAH, shipped
from speed.updates import our_update, restorer
from speed.work import make_work
from trpo import TrustRegionConfig
from trpo.config import UserError
from trpo.sampling.collector import Collector
from trpo.sampling.environments import Environments
from trpo.system import seeds
from trpo.trainer import agent_for
from trpo.update.objective import Objective

UPDATE, PRODUCT = "policy update", "Fisher product"
MICRO_BATCH = 16_384  # rows of one forward pass, for batches that have more
PATIENCE = 60.0
MEMORY_SAMPLES = 1_000_000

Measure = Callable[[], float]


def samples_section(options: Options) -> list[Row]:
    """Return the milliseconds of an update and of a product as samples grow, at the shipped settings."""
    sizes = (256, 512) if options.quick else tuple(4**k for k in range(5, 11))  # 1,024 to 1,048,576
    torch.set_num_threads(1)
    measures: dict[tuple[str, int], Measure] = {}
    for samples in sizes:
        measures |= {(name, samples): run for name, run in growing(samples, (64, 64), options).items()}
    return in_turn(measures, "samples", options)


def widths_section(options: Options) -> list[Row]:
    """Return the milliseconds of an update and of a product of 2,048 samples as hidden layers grow."""
    samples, widths = (256, (16, 32)) if options.quick else (2_048, (64, 128, 256, 512, 1_024))
    torch.set_num_threads(1)
    measures: dict[tuple[str, int], Measure] = {}
    for width in widths:
        measures |= {(name, width): run for name, run in growing(samples, (width, width), options).items()}
    return in_turn(measures, "width", options)


def growing(samples: int, hidden_sizes: tuple[int, ...], options: Options) -> dict[str, Measure]:
    """Return the measurements of one size."""
    work = make_work(samples, hidden_sizes, options.device)
    config = TrustRegionConfig(micro_batch=MICRO_BATCH if samples > MICRO_BATCH else 0)
    objective = Objective(work.policy, work.batch, micro_batch=config.micro_batch)
    v = torch.randn_like(objective.theta)
    update, restore = our_update(work, config), restorer(work)
    return {
        UPDATE: lambda: 1e3 * seconds_per_call(update, options.device, prepare=restore),
        PRODUCT: lambda: 1e3 * seconds_per_call(lambda: objective.fisher_product(v), options.device),
    }


def in_turn(measures: dict[tuple[str, int], Measure], what: str, options: Options) -> list[Row]:
    """Return a row for every measurement, all sizes taking turns."""
    named = {json.dumps(key): measure for key, measure in measures.items()}
    values = alternate(named, repetitions=options.repetitions, patience=PATIENCE)
    return [Row(name, {what: size}, values[json.dumps([name, size])]) for name, size in measures]


def environments_section(options: Options) -> list[Row]:
    """Return the env steps per second of collection as environments grow, policy included, update not."""
    counts = (1, 2) if options.quick else (1, 2, 4, 8, 16, 32, 64)
    rows: list[Row] = []
    for backend in ("sync",) if options.quick else ("sync", "envpool"):
        collectors: dict[str, Measure] = {}
        try:
            for count in counts:
                collectors[str(count)] = collecting(backend, count, options)
        except UserError as error:
            rows += [Row(backend, {"environments": count}, [], str(error)) for count in counts]
            continue
        values = alternate(collectors, repetitions=options.repetitions, patience=PATIENCE)
        rows += [Row(backend, {"environments": count}, values[str(count)]) for count in counts]
    return rows


def collecting(backend: str, count: int, options: Options) -> Measure:
    """Return the measurement of one rollout: env steps per second."""
    config = shipped(HALFCHEETAH)
    env = dataclasses.replace(config.env, backend=backend, num_envs=count)
    environments = Environments(env, seed=0)
    agent = agent_for(dataclasses.replace(config, env=env), environments.interface)
    steps = math.ceil((64 if options.quick else 2_048) / count)
    generator = seeds.generator(0, seeds.Role.ACTIONS)
    collector = Collector(environments, steps=steps, generator=generator)

    def measure() -> float:
        started = time.perf_counter()
        rollout = collector.collect(agent)
        return rollout.size / (time.perf_counter() - started)

    return measure


def memory_section(options: Options) -> list[Row]:
    """Return the peak memory in MiB of a process that does one large update: all of it, and what the update added."""
    samples = 4_096 if options.quick else MEMORY_SAMPLES
    rows: list[Row] = []
    for micro_batch in (MICRO_BATCH,) if options.quick else (MICRO_BATCH, 65_536):
        command = [sys.executable, Path(__file__).parent / "peak_memory.py", str(samples), str(micro_batch)]
        ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        figures = json.loads(ended.stdout)
        case: dict[str, int | str] = {"samples": samples, "micro_batch": micro_batch}
        rows += [Row(name, case, [value]) for name, value in figures.items()]
    return rows
