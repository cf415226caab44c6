"""One contestant in a process of its own: trains, or steps environments, and prints steps and seconds as one JSON line.

    python scripts/speed/rate.py trpo task=halfcheetah env.backend=async run.threads=2
    python scripts/speed/rate.py trpo --ranks 2 --cores 0,1 task=halfcheetah
    python scripts/speed/rate.py sb3 --envs 8 --threads 2
    python scripts/speed/rate.py tianshou --envs 16 --backend envpool
    python scripts/speed/rate.py bare --backend envpool --envs 8 --threads 2

Start-up and the first iterations do not count. A run of this project is one of the command line's, with everything
that it writes on the way; only evaluations are left out, and nobody else evaluates either.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import gymnasium
import numpy as np
import torch

from speed.training import shipped

ENV_ID = "HalfCheetah-v5"
SKIPPED = 2  # first iterations of a run of this project
PACKAGES = {"sb3": "speed.sb3", "tianshou": "speed.tianshou_peer"}


def main() -> None:
    """Measure and print."""
    warnings.filterwarnings("ignore")  # the peers' about themselves
    options, overrides = make_parser().parse_known_args()
    if options.contestant != "trpo" and overrides:
        raise SystemExit(f"{options.contestant} takes no overrides: {' '.join(overrides)}")
    if options.cores:
        os.sched_setaffinity(0, [int(core) for core in options.cores.split(",")])
    torch.set_num_threads(options.threads)
    print(json.dumps(measure(options, overrides)))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; what it does not know are overrides of this project."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("contestant", choices=("trpo", "bare", *PACKAGES))
    parser.add_argument("--iterations", type=int, default=10, help="that count (default: 10)")
    parser.add_argument("--envs", type=int, default=8, help="of a peer, or bare")
    parser.add_argument("--threads", type=int, default=1, help="of torch for a peer, of EnvPool when bare")
    parser.add_argument("--backend", default="", help="tianshou: processes, envpool; bare: gymnasium, envpool")
    parser.add_argument("--steps", type=int, default=20_000, help="of bare environments (default: 20000)")
    parser.add_argument("--device", default="cpu", help="of a peer")
    parser.add_argument("--ranks", type=int, default=0, help="of torchrun; 0: no torchrun")
    parser.add_argument("--cores", default="", help="to run on, as in 0,1; default: all")
    return parser


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """Return what one contestant did."""
    if options.contestant == "trpo":
        return train(overrides, options.iterations, options.ranks)
    if options.contestant == "bare":
        steps, seconds = step_bare(options.backend, options.envs, options.threads, options.steps)
        return {"steps": steps, "seconds": seconds}
    try:
        module = importlib.import_module(PACKAGES[options.contestant])
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed: pip install 'trpo[peers]'") from error
    own = {"envpool": options.backend == "envpool"} if options.contestant == "tianshou" else {}
    steps, seconds = module.train(ENV_ID, options.device, options.envs, options.iterations, **own)
    return {"steps": steps, "seconds": seconds}


def train(overrides: list[str], iterations: int, ranks: int) -> dict[str, Any]:
    """Run the command line of this project and return what its metrics say."""
    size = shipped(*[each for each in overrides if not each.startswith("env.backend")]).run.steps_per_iteration
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks else []
    with tempfile.TemporaryDirectory() as folder:
        own = ["run.evaluation_episodes=0", f"hydra.run.dir={folder}/run"]
        length = f"run.total_steps={(1 + SKIPPED + iterations) * size}"  # the first rollout only warms up
        command = [sys.executable, "-m", *launcher, "trpo", *overrides, length, *own]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode:
            raise SystemExit(ended.stderr.replace(f"{folder}/", ""))
        return rate_of_run(Path(folder, "run", "metrics.jsonl"), SKIPPED)


def rate_of_run(metrics: Path, skipped: int) -> dict[str, Any]:
    """Return the steps and seconds between the last of the skipped iterations and the last one.

    By the clock on the wall, so that what happens between iterations counts. `parts` are shares of those seconds.
    """
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    first, counted = rows[skipped - 1], rows[skipped:]
    seconds = counted[-1]["wall_time"] - first["wall_time"]
    parts = {name: sum(row[f"time/{name}"] for row in counted) / seconds for name in ("collect", "policy", "critic")}
    return {"steps": counted[-1]["env_steps"] - first["env_steps"], "seconds": seconds, "parts": parts}


def step_bare(backend: str, envs: int, threads: int, steps: int) -> tuple[int, float]:
    """Return steps and seconds of environments under random actions drawn before; a tenth more steps come first."""
    environments = make_bare(backend, envs, threads)
    actions = np.random.default_rng(0).uniform(-1, 1, (100, *environments.action_space.shape)).astype(np.float32)
    if actions.ndim == 2:  # EnvPool's space is that of one environment
        actions = np.repeat(actions[:, None], envs, axis=1)
    environments.reset()
    warm, calls = steps // envs // 10, steps // envs
    for index in range(warm):
        environments.step(actions[index % 100])
    started = time.perf_counter()
    for index in range(calls):
        environments.step(actions[index % 100])
    return calls * envs, time.perf_counter() - started


def make_bare(backend: str, envs: int, threads: int) -> Any:
    """Return the environments as their library makes them."""
    if backend == "gymnasium":
        return gymnasium.make_vec(ENV_ID, num_envs=envs, vectorization_mode="sync")
    try:
        envpool = importlib.import_module("envpool")
    except ModuleNotFoundError as error:
        raise SystemExit("envpool is not installed: pip install 'trpo[envpool]'") from error
    return envpool.make(ENV_ID, env_type="gymnasium", num_envs=envs, num_threads=threads, seed=0)


if __name__ == "__main__":
    main()
