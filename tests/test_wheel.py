"""What is installed from the wheel is the whole program, configuration files included; the sources bring the manual."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ["trpo", "configs", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE"]
TINY = ["run.total_steps=64", "run.steps_per_iteration=32", "env.num_envs=2", "run.evaluation_episodes=1"]

pytestmark = pytest.mark.slow


def call(*command, cwd, **more):
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, **more)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what is shipped of the repository."""
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return source


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """Where the wheel of the copy was installed."""
    target = tmp_path_factory.mktemp("target")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=source)
    (wheel,) = (source / "dist").glob("*.whl")
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel, cwd=source)
    return target


def python(installed, cwd, *arguments):
    return call(sys.executable, *arguments, cwd=cwd, env=os.environ | {"PYTHONPATH": str(installed)})


def test_the_installed_package_is_the_one_that_runs(installed, tmp_path):
    program = "import trpo, trpo.commands.compose; print(trpo.__file__); print(trpo.commands.compose.CONFIGS)"
    package, configs = python(installed, tmp_path, "-c", program).split()
    assert Path(package).is_relative_to(installed)
    assert Path(configs).is_relative_to(installed)


def test_the_installed_package_has_every_module_and_every_task(installed):
    for pattern, here, there in (("*.py", ROOT / "trpo", "trpo"), ("*.yaml", ROOT / "configs", "trpo/configs")):
        files = {str(path.relative_to(here)) for path in here.rglob(pattern)}
        assert files == {str(path.relative_to(installed / there)) for path in (installed / there).rglob(pattern)}
    assert (installed / "trpo" / "py.typed").exists()


def test_the_installed_package_trains_and_evaluates(installed, tmp_path):
    python(installed, tmp_path, "-m", "trpo", "task=cartpole", *TINY, "hydra.run.dir=run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["exit_reason"], summary["env_steps"], summary["git_commit"]) == ("finished", 64, None)
    evaluate = "import sys; from trpo.commands.evaluate import evaluate; sys.exit(evaluate())"
    figures = json.loads(python(installed, tmp_path, "-c", evaluate, "run", "--json", "--episodes", "2"))
    assert figures["episodes"] == 2


def test_the_installed_package_has_every_command(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    for command in ("trpo-train", "trpo-evaluate"):
        assert "episode" in call(installed / "bin" / command, "--help", cwd=tmp_path, env=environment)
    for command in ("trpo-report", "trpo-export", "trpo-card"):
        assert f"usage: {command}" in call(installed / "bin" / command, "--help", cwd=tmp_path, env=environment)


def test_the_source_distribution_has_every_page_of_the_manual(source):
    call(sys.executable, "-m", "build", "--sdist", "--no-isolation", cwd=source)
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {"/".join(Path(name).parts[1:]) for name in files.getnames()}
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")}
    assert pages
    assert {"README.md", "CHANGELOG.md", "LICENSE", *pages} <= names
