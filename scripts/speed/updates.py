"""Sections on matched work: the whole policy update, the Fisher product alone, the critic fit."""

import importlib
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch

from speed.floor import multiply, products_of
from speed.rows import Case, Options, Row
from speed.timing import alternate, seconds_per_call, synchronize
from speed.work import OBSERVATION_SIZE, Work, make_work
from trpo import CriticConfig, TrustRegionConfig, fit_critic, trust_region_step
from trpo.numerics.params import assign, flatten
from trpo.update.critic import make_optimizer
from trpo.update.objective import Objective

OURS, HESSIAN, FLOOR = "trpo", "trpo, Hessian form", "floor"
SB3, TIANSHOU = "sb3-contrib", "tianshou"
PEERS = {SB3: "speed.sb3", TIANSHOU: "speed.tianshou_peer"}
INSTALL = "not installed: pip install 'trpo[peers]'"
CG_ITERATIONS = 15
# Damping as the peers have it: a share of the curvature would cost one product more.
CONFIG = TrustRegionConfig(cg_iterations=CG_ITERATIONS, cg_tolerance=0.0, damping=0.1, relative_damping=0.0)
SECONDS_PER_CASE, PATIENCE = 1.5, 8.0
TOO_LONG = (100_000, (256, 256), 1)  # a minute and a half for one update of everybody
EPOCHS = 10

Measure = Callable[[], float]  # one measurement, in milliseconds


def peer(name: str) -> ModuleType | None:
    """Return what drives a peer, or None if it is not installed."""
    try:
        return importlib.import_module(PEERS[name])
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("speed"):
            raise
        return None


def cases(options: Options) -> list[tuple[int, tuple[int, int], int]]:
    """Return (samples, hidden sizes, threads) of the updates and products that are compared."""
    if options.quick:
        return [(256, (64, 64), 1)]
    threads = (1, 2) if options.device.type == "cpu" else (1,)
    every = [(n, (width, width), t) for width in (64, 256) for n in (2_048, 25_000, 100_000) for t in threads]
    return [case for case in every if case != TOO_LONG]


def compare(make: Callable[[Work, Options], dict[str, Measure | None]], options: Options) -> list[Row]:
    """Return a row for every contestant in every case; `make` has None for a peer that is not installed."""
    rows: list[Row] = []
    for samples, hidden, threads in cases(options):
        torch.set_num_threads(threads)
        contestants = make(make_work(samples, hidden, options.device), options)
        case: Case = {"samples": samples, "hidden": "×".join(map(str, hidden)), "threads": threads}
        rows += measured(contestants, case, options)
    return rows


def measured(contestants: dict[str, Measure | None], case: Case, options: Options) -> list[Row]:
    """Return the rows of one case, the contestants taking turns."""
    there = {name: measure for name, measure in contestants.items() if measure is not None}
    seconds = 0.0 if options.quick else SECONDS_PER_CASE
    values = alternate(there, repetitions=options.repetitions, seconds=seconds, patience=PATIENCE)
    return [
        Row(name, case, values[name]) if name in there else Row(name, case, [], f"{name} is {INSTALL}")
        for name in contestants
    ]


def milliseconds(run: Callable[[], object], options: Options, prepare: Callable[[], object] = lambda: None) -> Measure:
    """Return a measurement of a call."""
    return lambda: 1e3 * seconds_per_call(run, options.device, prepare=prepare)


def update_section(options: Options) -> list[Row]:
    """Return the milliseconds of a whole policy update: gradient, 15 CG iterations, line search."""
    return compare(update_contestants, options)


def update_contestants(work: Work, options: Options) -> dict[str, Measure | None]:
    """Return everybody's update of one policy on one batch, with the policy put back before each."""
    contestants: dict[str, Measure | None] = {}
    contestants[OURS] = milliseconds(our_update(work, CONFIG), options, restorer(work))
    for name in PEERS:
        module = peer(name)
        prepare, run = module.make_update(work, options.device, CG_ITERATIONS) if module else (None, None)
        contestants[name] = milliseconds(run, options, prepare) if run and prepare else None
    return contestants


def restorer(work: Work) -> Callable[[], None]:
    """Return a function that gives the policy the parameters that it has now."""
    return partial(assign, work.policy, flatten(work.policy))


def our_update(work: Work, config: TrustRegionConfig) -> Callable[[], object]:
    """Return the step with the pass for the old parameters, which others also make inside their update."""

    def run() -> None:
        with torch.no_grad():
            old_parameters = work.policy(work.batch.observations)
        trust_region_step(work.policy, work.batch._replace(old_parameters=old_parameters), config)

    return run


def fisher_section(options: Options) -> list[Row]:
    """Return the milliseconds of one Fisher product, its graph built before, and those of its floor."""
    return compare(fisher_contestants, options)


def fisher_contestants(work: Work, options: Options) -> dict[str, Measure | None]:
    """Return everybody's product with one vector."""
    v = torch.randn_like(flatten(work.policy))
    hidden = [layer.out_features for layer in work.policy.modules() if isinstance(layer, torch.nn.Linear)]
    samples = len(work.batch.advantages)
    floor = multiply(products_of((OBSERVATION_SIZE, *hidden), samples, options.device))
    contestants: dict[str, Measure | None] = {FLOOR: milliseconds(floor, options)}
    for name, form in ((OURS, "gauss_newton"), (HESSIAN, "hessian")):
        objective = Objective(work.policy, work.batch, fisher=form)
        objective.fisher_product(v)  # the first one builds the graph
        contestants[name] = milliseconds(partial(objective.fisher_product, v), options)
    for name in PEERS:
        module = peer(name)
        product = module.make_fisher_product(work, options.device) if module else None
        contestants[name] = milliseconds(partial(product, v), options) if product else None
    return contestants


def critic_section(options: Options) -> list[Row]:
    """Return the milliseconds of a critic fit: 10 epochs of minibatches."""
    sizes = [(256, 64)] if options.quick else [(2_048, 128), (2_048, 256), (25_000, 256)]
    rows: list[Row] = []
    for samples, minibatch_size in sizes:
        for threads in (1, 2) if options.device.type == "cpu" and not options.quick else (1,):
            torch.set_num_threads(threads)
            work = make_work(samples, (64, 64), options.device)
            case: Case = {"samples": samples, "minibatch": minibatch_size, "threads": threads}
            rows += measured(critic_contestants(work, options, minibatch_size), case, options)
    return rows


def critic_contestants(work: Work, options: Options, minibatch_size: int) -> dict[str, Measure | None]:
    """Return everybody's fit; tianshou's makes whole-batch steps only and has none to compare."""
    module = peer(SB3)
    theirs = module.make_critic_fit(work, options.device, EPOCHS, minibatch_size) if module else None
    return {
        OURS: milliseconds(our_fit(work, minibatch_size), options),
        SB3: partial(difference, theirs[0], theirs[1], options) if theirs else None,
    }


def our_fit(work: Work, minibatch_size: int) -> Callable[[], object]:
    """Return the fit, the optimiser's state growing old as in a run."""
    config = CriticConfig(epochs=EPOCHS, minibatch_size=minibatch_size)
    optimizer = make_optimizer(work.critic, config)
    generator = torch.Generator().manual_seed(0)
    batch = work.batch
    return lambda: fit_critic(work.critic, optimizer, batch.observations, batch.returns, config, generator)


def difference(restore: Callable[[], object], train: Callable[[int], object], options: Options) -> float:
    """Return the milliseconds that the epochs add to a call of `train`."""
    seconds = {}
    for epochs in (EPOCHS, 0):
        restore()
        synchronize(options.device)
        started = time.perf_counter()
        train(epochs)
        synchronize(options.device)
        seconds[epochs] = time.perf_counter() - started
    return 1e3 * (seconds[EPOCHS] - seconds[0])
