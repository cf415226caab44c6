"""Imports go strictly downward, and every library lives in one room."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import trpo

PACKAGE = Path(trpo.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 250  # lines

# From the bottom up: unit → (what of trpo it may import, which third-party packages it may import).
# A unit is a module at the top of trpo/ or a room, whose modules may import each other as well.
ALLOWED = {
    "config": ((), ()),
    "keys": (("config",), ()),
    "signals": ((), ()),
    "seeds": ((), ("numpy", "torch")),
    "numerics": ((), ("numpy", "torch")),
    "models": (("config", "numerics", "seeds"), ("numpy", "torch")),
    "ranks": (("numerics",), ("torch",)),
    "batch": (("models", "numerics", "ranks"), ("torch",)),
    "objective": (("batch", "models", "numerics", "ranks"), ("torch",)),
    "step_info": (("config", "numerics", "objective"), ("torch",)),
    "trust_region": (("batch", "config", "models", "numerics", "objective", "step_info"), ("torch",)),
    "profile": (("batch", "config", "models", "numerics", "objective", "ranks", "step_info"), ("torch",)),
    "critic": (("config", "models", "ranks"), ("torch",)),
    "device": (("config", "ranks"), ("torch",)),
    "laps": ((), ()),
    "sampling": (("batch", "config", "models", "seeds"), ("envpool", "gymnasium", "mujoco", "numpy", "torch")),
    "record": (("config",), ("jinja2", "matplotlib", "numpy", "scipy", "tensorboard", "torch", "tqdm", "yaml")),
    "train": (
        (
            *("batch", "config", "critic", "device", "laps", "models", "numerics", "ranks", "sampling", "seeds"),
            *("step_info", "trust_region"),
        ),
        ("torch",),
    ),
    "writer": (("keys", "numerics", "profile", "record", "train"), ()),
    "run": (
        ("config", "numerics", "profile", "ranks", "record", "signals", "step_info", "train", "writer"),
        (),
    ),
    "resume": (("config", "keys", "record"), ()),
    "compose": (("config", "keys"), ("hydra", "omegaconf")),
    "launch": (
        ("compose", "config", "device", "ranks", "record", "resume", "run", "sampling", "train"),
        ("hydra", "omegaconf"),
    ),
    "cli": (("compose", "config", "keys", "launch", "models", "record", "sampling", "train"), ("numpy",)),
    "__main__": (("cli",), ()),
    "__init__": (("batch", "config", "critic", "models", "numerics", "step_info", "trust_region"), ()),
}


def module_name(path):
    """`trpo/models/agent.py` is `models.agent`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def unit_of(module):
    return module.split(".")[0]


def imports_of(path):
    """Absolute dotted names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(path):
    """The modules of trpo that a file imports, without the `trpo.` and without the names taken from them."""
    names = {module_name(module) for module in MODULES}
    for imported in imports_of(path):
        if unit_of(imported) == "trpo":
            parts = imported.split(".")[1:]
            yield next(name for end in (len(parts), len(parts) - 1) if (name := ".".join(parts[:end])) in names)


def third_party(path):
    tops = {unit_of(imported) for imported in imports_of(path)}
    return tops - set(sys.stdlib_module_names) - {"trpo"}


def test_the_table_goes_strictly_downward():
    units = list(ALLOWED)
    for unit, (own, _) in ALLOWED.items():
        assert all(units.index(other) < units.index(unit) for other in own), unit


def test_every_module_is_in_the_table_and_the_table_names_no_other():
    assert {unit_of(module_name(path)) for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_of_trpo_only_what_its_place_allows(path):
    unit = unit_of(module_name(path))
    assert {unit_of(imported) for imported in own_imports(path)} <= {unit, *ALLOWED[unit][0]}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_the_libraries_of_its_room(path):
    assert third_party(path) <= {*ALLOWED[unit_of(module_name(path))][1]}


def test_no_modules_import_each_other_in_a_circle():
    graph = {module_name(path): set(own_imports(path)) for path in MODULES}
    assert "models.agent" in graph["train"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*/__init__.py")), ids=module_name)
def test_the_init_of_a_room_is_a_docstring_and_nothing_else(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_file_is_longer_than_can_be_read_at_once(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_every_public_name_is_there():
    assert all(hasattr(trpo, name) for name in trpo.__all__)
    assert trpo.__all__ == sorted(trpo.__all__)


def test_importing_trpo_imports_no_gymnasium_no_hydra_and_no_tensorboard():
    heavy = {"envpool", "gymnasium", "hydra", "omegaconf", "tensorboard", "matplotlib", "mujoco"}
    program = f"import sys, trpo; print(trpo.__file__, *({heavy} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert answer.stdout.split() == [trpo.__file__]
