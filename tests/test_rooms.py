"""Imports go strictly downward, and every library lives in one room."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trpo

PACKAGE = Path(trpo.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 250  # lines
MAP = PACKAGE.parent / "docs" / "rooms.md"

# From the bottom up: unit → (what of trpo it may import, which third-party packages it may import).
# A unit is a module at the top of trpo/ or a room, whose modules may import each other as well.
ALLOWED = {
    "fields": ((), ()),
    "sections": (("fields",), ()),
    "config": (("fields", "sections"), ()),
    "keys": (("config", "fields"), ()),
    "numerics": ((), ("numpy", "torch")),
    "system": (("config", "numerics"), ("numpy", "torch")),
    "models": (("config", "numerics", "system"), ("numpy", "tensordict", "torch")),
    "batch": (("models", "numerics", "system"), ("torch",)),
    "update": (("batch", "config", "models", "numerics", "system"), ("torch",)),
    "sampling": (("batch", "config", "models", "system"), ("envpool", "glfw", "gymnasium", "mujoco", "numpy", "torch")),
    "record": (
        ("config", "numerics"),
        ("jinja2", "matplotlib", "numpy", "onnxruntime", "scipy", "tensorboard", "torch", "tqdm", "wandb", "yaml"),
    ),
    "trainer": (("batch", "config", "models", "numerics", "sampling", "system", "update"), ("torch",)),
    "writer": (("keys", "numerics", "record", "trainer", "update"), ()),
    "console": (("models", "numerics", "system", "trainer"), ()),
    "run": (("config", "console", "record", "sampling", "system", "trainer", "update", "writer"), ()),
    "trained": (("config", "keys", "models", "record", "sampling", "trainer"), ("torch",)),
    "search": (("config", "record", "run", "system", "trainer"), ("numpy", "optuna")),
    "compared": (("config", "models", "record", "sampling", "trained"), ("numpy", "torch")),
    "exported": (("compared", "config", "models", "record", "sampling", "trained"), ("torch",)),
    "commands": (
        (
            *("compared", "config", "console", "exported", "fields", "keys", "models", "record", "run", "sampling"),
            *("search", "system", "trained", "trainer"),
        ),
        ("hydra", "numpy", "omegaconf"),
    ),
    "training": (("commands", "config", "keys", "record", "run", "sampling", "trained", "trainer"), ()),
    "__main__": (("commands",), ()),
    "__init__": (("batch", "config", "models", "numerics", "trained", "training", "update"), ()),
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
    assert "models.agent" in graph["trainer"]
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def units_imported():
    """Every unit and the others that its modules import."""
    graph = {unit: set() for unit in ALLOWED}
    for path in MODULES:
        unit = unit_of(module_name(path))
        graph[unit] |= {unit_of(imported) for imported in own_imports(path)} - {unit}
    return graph


def without_detours(graph):
    """The arrows of a graph, those left out whose end is reached by way of others as well."""
    below = {}
    for unit in ALLOWED:  # from the bottom up; an arrow upward is for the tests above
        below[unit] = graph[unit].union(*(below.get(other, ()) for other in graph[unit]))
    return {(unit, end) for unit in ALLOWED for end in graph[unit] if not any(end in below[way] for way in graph[unit])}


def test_the_drawing_of_the_rooms_shows_the_imports_that_occur():
    text = MAP.read_text(encoding="utf-8")
    drawing = re.search(r"^```mermaid\nflowchart TD\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]
    arrows = [re.fullmatch(r"\s*(\w+)(?:[\[(].*?[\])])? --> (\w+)(?:\[.*\])?", line) for line in drawing.splitlines()]
    assert sorted(arrow.groups() for arrow in arrows) == sorted(without_detours(units_imported()))


def test_the_page_of_the_rooms_counts_arrows_and_names_units_as_they_are():
    text = MAP.read_text(encoding="utf-8")
    assert f" {sum(len(others) for others in units_imported().values())} between" in text
    assert re.findall(r"^\| `(\w+)/?` \|", text, re.MULTILINE) == [*reversed(ALLOWED)]


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


LATE = {  # what takes long to import, and comes when it is asked for
    "trpo": {"envpool", "gymnasium", "hydra", "matplotlib", "mujoco", "omegaconf", "tensorboard", "torch._dynamo"},
    "trpo.commands.train": {"envpool", "matplotlib", "optuna", "pandas", "tensordict", "torch._dynamo"},
}


@pytest.mark.parametrize("module", LATE)
def test_what_takes_long_is_not_imported_before_it_is_needed(module):
    program = f"import sys, {module}; print(trpo.__file__, *({LATE[module]} & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert answer.stdout.split() == [trpo.__file__]
