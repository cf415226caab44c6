"""Train on two hosts, as far as one machine can be two: two network namespaces, each with an address of its own.

    python scripts/two_hosts.py | tee scripts/results/two_hosts.txt       (root and iproute2)

The namespaces are joined by a pair of virtual network cards and see nothing else. In each, one torchrun starts one
rank; they know each other by address alone. Exit code 0 if all is as it should be, 1 if not, 2 if it cannot be tried.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import SCRIPTS, newest, rows, same_run

ADDRESSES = ("10.77.13.1", "10.77.13.2")
PORT = "29471"
TRAINING = (
    *("task=halfcheetah", "env.num_envs=4", "run.steps_per_iteration=512", "run.total_steps=5_120"),
    *("run.checkpoint_every=2_048", "run.evaluation_episodes=2", "record.progress=false", "record.profile_every=0"),
)


def main() -> int:
    """Print what was tried and seen."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        print("two_hosts.py needs root and iproute2 (ip) to make two network namespaces", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        try:
            with two_hosts() as hosts:
                checks = list(compare(hosts, base))
        except PermissionError as error:
            print(error, file=sys.stderr)
            return 2
    for text, held in checks:
        print(f"{'ok ' if held else 'NOT'}  {text}")
    return int(not all(held for _, held in checks))


def compare(hosts: tuple[str, str], base: Path) -> Iterator[tuple[str, bool]]:
    """Train on two hosts and on one; yield what should hold and whether it does."""
    apart, together = base / "apart", base / "together"
    before = traffic(hosts[0])
    ended = on_both(hosts, base, "-m", "trpo", *TRAINING, f"hydra.run.dir={apart}")
    sent = [after - old for after, old in zip(traffic(hosts[0]), before, strict=True)]
    yield f"both hosts ended with 0: {[code for code, _, _ in ended]}", all(code == 0 for code, _, _ in ended)
    expected = {"config.yaml", "overrides.yaml", "metrics.jsonl", "summary.json", "train.log", "checkpoints"}
    yield "the leader's run directory is complete", expected <= {path.name for path in apart.iterdir()}
    yield "the other host wrote nothing", not any((base / hosts[1]).iterdir())
    yield "the other host said nothing", ended[1][1] == ""
    one_host(base, f"hydra.run.dir={together}")
    iterations = rows(apart)
    same = [row["fingerprint"] for row in iterations] == [row["fingerprint"] for row in rows(together)]
    yield f"θ after each of {len(iterations)} iterations is that of two ranks on one host", same
    yield f"so is the whole run: {same_run(apart, together)}", same_run(apart, together) == "bit-identical"
    yield f"the checkpoint {newest(apart).name} holds both ranks", newest(apart).exists()
    packets, size = (number / len(iterations) for number in sent)
    print(f"from the leader's card, per iteration: {packets:.0f} packets, {size / 1e3:.0f} kB (start and end included)")
    times = json.loads(on_both(hosts, base, str(SCRIPTS / "rank_scaling.py"), "--messages")[0][1])
    print("medians between the hosts, ms: " + ", ".join(f"{name} {1e3 * value:.3f}" for name, value in times.items()))
    print(f"iteration of 512 samples, ms: two hosts {milliseconds(apart):.0f}, one host {milliseconds(together):.0f}")


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Make two namespaces joined by a cable, for the block. Raises `PermissionError` where that is not allowed."""
    names = (f"trpo{os.getpid()}a", f"trpo{os.getpid()}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def ip(*arguments: str) -> str:
    """Return what `ip` prints."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise PermissionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def traffic(host: str) -> tuple[int, int]:
    """Return the packets and bytes that a host's card has sent."""
    (card,) = json.loads(ip("-n", host, "-s", "-j", "link", "show", "cable"))
    return card["stats64"]["tx"]["packets"], card["stats64"]["tx"]["bytes"]


def on_both(hosts: tuple[str, str], base: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Return exit code, output and errors of one torchrun on each host, each in a folder of its own."""
    started = []
    for number, host in enumerate(hosts):
        (base / host).mkdir(exist_ok=True)
        command = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"]
        command += ["--master-addr", ADDRESSES[0], "--master-port", PORT, *arguments]
        started.append(start(command, base / host, prefix=["ip", "netns", "exec", host], card="cable"))
    ended = []
    for process in started:
        output, errors = process.communicate(timeout=300)
        ended.append((process.returncode, output, errors))
        if process.returncode:
            print(errors, file=sys.stderr)
    return ended


def one_host(base: Path, directory: str) -> None:
    """Train the same on two ranks of this host."""
    command = ["--nproc-per-node", "2", "--standalone", "-m", "trpo", *TRAINING, directory]
    _, errors = (process := start(command, base)).communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(errors)


def start(command: list[str], folder: Path, prefix: list[str] | None = None, card: str = "lo") -> subprocess.Popen[str]:
    """Start a torchrun; `card` is the network card that its ranks speak through."""
    paths = [str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    variables: dict[str, Any] = {
        "GLOO_SOCKET_IFNAME": card,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.Popen(
        [*(prefix or []), sys.executable, "-m", "torch.distributed.run", *command],
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def milliseconds(directory: Path) -> float:
    """Return the median time of an iteration of a run."""
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    times = sorted(json.loads(line)["time/total"] for line in lines)
    return float(1e3 * times[len(times) // 2])


if __name__ == "__main__":
    sys.exit(main())
