"""Completion in a shell: what Hydra answers to what was typed, and that bash puts it there."""

import os
import shutil
import subprocess

import pytest
from tiny_runs import SCRIPTS, environment_variables, everything_below

from trpo.commands.compose import tasks
from trpo.commands.train import train
from trpo.keys import fields_by_key

# What is typed, and what is offered.
TYPED = {
    "trpo-train ta": {"task="},
    "trpo-train task=": {f"task={name}" for name in tasks()},
    "trpo-train task=cartp": {"task=cartpole", "task=cartpole_positions"},
    "trpo-train seed=3 surrogate=": {"surrogate=pathwise", "surrogate=score"},
    "trpo-train trust_region.": {f"{key}=" for key, _ in fields_by_key() if key.startswith("trust_region.")},
    "trpo-train -m hydra/launcher=j": {"hydra/launcher=joblib"},
    "trpo-train trust_region.fisher=": {"trust_region.fisher=gauss_newton"},  # the default alone, as the page says
}


@pytest.mark.parametrize("line", TYPED)
def test_what_is_typed_is_completed(line, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert train(["-sc", "query=bash"]) == 0
    assert {*capsys.readouterr().out.split()} == TYPED[line]
    assert everything_below(tmp_path) == []


SHELL = """
eval "$(trpo-train -sc install=bash)"
complete -p trpo-train
COMP_LINE="trpo-train task=acrob" COMP_POINT=21 COMP_WORDS=(trpo-train task=acrob) COMP_CWORD=1
hydra_bash_completion
echo "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_a_task(tmp_path):
    variables = environment_variables() | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"}
    answer = subprocess.run(
        ["bash", "--norc", "-c", SHELL], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
    )
    registered, completed = answer.stdout.splitlines()
    assert registered.endswith("hydra_bash_completion trpo-train")
    assert completed == "task=acrobot"
