"""What a run that goes on for days must not do: grow."""

import json
import subprocess
import sys

import pytest
from tiny_runs import environment_variables, rows

# A run of its own process that notes its memory (kB) and open files before some iterations.
DRIVER = """
import json, os, sys
from trpo.commands.train import train
from trpo.trainer import Trainer

iterate, seen = Trainer.iterate, {}

def noted(trainer):
    if trainer.iteration in (200, 1_000, 1_999):
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        seen[trainer.iteration] = int(status["VmRSS"].split()[0]), len(os.listdir("/proc/self/fd"))
    return iterate(trainer)

Trainer.iterate = noted
code = train(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump(seen, file)
sys.exit(code)
"""
TINY = [
    "task=cartpole",
    "env.num_envs=2",
    "run.steps_per_iteration=16",
    "run.total_steps=32_016",  # 2,000 iterations after the warm-up
    "run.checkpoint_every=1_600",
    "run.evaluate_every=8_000",
    "run.evaluation_episodes=1",
    "record.profile_every=20",  # ten by iteration 200: the first ones warm the drawing up
    "policy.hidden_sizes=[8]",
    "critic.hidden_sizes=[8]",
    "critic.epochs=1",
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sync", "async"])
def test_two_thousand_iterations_grow_neither_memory_nor_open_files(backend, tmp_path):
    run, noted = tmp_path / "run", tmp_path / "noted.json"
    command = [sys.executable, "-c", DRIVER, noted, *TINY, f"env.backend={backend}", f"hydra.run.dir={run}"]
    ended = subprocess.run(
        list(map(str, command)), env=environment_variables(), capture_output=True, text=True, timeout=900
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(rows(run)) == 2_000
    assert len(list((run / "profiles").iterdir())) > 10
    seen = json.loads(noted.read_text())
    (early, files), (_, later_files), (late, last_files) = (seen[key] for key in ("200", "1000", "1999"))
    assert late <= 1.05 * early, f"{early} kB at iteration 200, {late} kB at iteration 1,999"
    assert max(later_files, last_files) <= files + 1  # one may be open just then
