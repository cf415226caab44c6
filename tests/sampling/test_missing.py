"""Known packages are imported; a person whose environment cannot be made is told what to install and what to type."""

import importlib.util
import sys
import types
import warnings
from contextlib import closing

import gymnasium
import pytest

from trpo.config import EnvConfig, UserError
from trpo.sampling import making, missing
from trpo.sampling.making import check_environment, make_env, make_vector_env

# An id that people type, what pip installs for it, and the module that registers it.
KNOWN = [
    ("ALE/Pong-v5", "'trpo[atari]'", "ale_py"),
    ("BreakoutNoFrameskip-v4", "'trpo[atari]'", "ale_py"),
    ("dm_control/walker-walk-v0", "'shimmy[dm-control]'", "shimmy"),
    ("MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
    ("BabyAI-GoToRedBall-v0", "minigrid", "minigrid"),
    ("MiniWorld-Hallway-v0", "miniworld", "miniworld"),
    ("highway-v0", "highway-env", "highway_env"),
    ("highway-fast-v0", "highway-env", "highway_env"),
    ("parking-v0", "highway-env", "highway_env"),
    ("PandaReach-v3", "panda-gym", "panda_gym"),
    ("FetchReach-v4", "gymnasium-robotics", "gymnasium_robotics"),
    ("AntMaze_UMaze-v5", "gymnasium-robotics", "gymnasium_robotics"),
    ("PointMaze_UMazeDense-v3", "gymnasium-robotics", "gymnasium_robotics"),
    ("AdroitHandDoor-v1", "gymnasium-robotics", "gymnasium_robotics"),
    ("HandManipulateBlock-v1", "gymnasium-robotics", "gymnasium_robotics"),
    ("FrankaKitchen-v1", "gymnasium-robotics", "gymnasium_robotics"),
    ("Meta-World/MT1", "metaworld", "metaworld"),
    ("HopperBulletEnv-v0", "pybullet-envs-gymnasium", "pybullet_envs_gymnasium"),
    ("PyFlyt/QuadX-Hover-v4", "PyFlyt", "PyFlyt.gym_envs"),
    ("VizdoomBasic-v1", "vizdoom", "vizdoom.gymnasium_wrapper"),
    ("FlappyBird-v0", "flappy-bird-gymnasium", "flappy_bird_gymnasium"),
    ("procgen_gym/procgen-coinrun-v0", "procgen-gym", "procgen_gym"),
]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch):
    """Whatever is: none of these packages is found, nor EnvPool in their place, and none is imported."""
    for module in (missing, making):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    for _, _, module in KNOWN:
        monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    for id in filter(missing.package_of, [*gymnasium.registry]):
        monkeypatch.delitem(gymnasium.registry, id)


def refusal(id, **options):
    with pytest.raises(UserError) as refused:
        make_env(EnvConfig(id=id, **options))
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(f"env.id={id} cannot be made: ")


@pytest.mark.parametrize(("id", "requirement", "module"), KNOWN)
def test_a_package_that_is_not_installed_is_named_with_what_to_type(id, requirement, module):
    assert refusal(id) == f"{module.split('.')[0]} is not installed: pip install {requirement}"


@pytest.mark.parametrize(("id", "requirement", "module"), KNOWN)
def test_one_that_is_installed_is_imported(id, requirement, module, monkeypatch):
    """Here it registers nothing."""
    imported = []
    monkeypatch.setattr(missing, "find_spec", {module.split(".")[0]: "found"}.get)
    monkeypatch.setattr(missing.importlib, "import_module", imported.append)
    said = refusal(id)
    assert imported == [module]
    if "/" in id:
        assert said == f"{module} registers it only with what comes with pip install {requirement}"
    else:
        assert said.endswith(f"{module} was imported, and does not register it")


REGISTERING = """
import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv

gymnasium.register("MiniGrid-Pole-v0", CartPoleEnv, vector_entry_point=CartPoleVectorEnv)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package that is installed and registers one environment."""
    (tmp_path / "minigrid.py").write_text(REGISTERING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(missing, "find_spec", importlib.util.find_spec)
    monkeypatch.delitem(sys.modules, "minigrid")
    yield
    sys.modules.pop("minigrid", None)
    gymnasium.registry.pop("MiniGrid-Pole-v0", None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("config", [{"backend": "sync"}, {"backend": "async"}, {"backend": "vector"}])
def test_an_environment_of_an_installed_package_is_made_by_its_name_alone(config):
    config = EnvConfig(id="MiniGrid-Pole-v0", num_envs=2, **config)
    with closing(make_vector_env(config, worker=make_env)) as envs:  # as a rank does, which has checked nothing before
        assert envs.single_observation_space.shape == (4,)
    assert check_environment(config).observations.shape == (4,)


@pytest.mark.usefixtures("installed")
def test_a_package_that_lacks_something_itself_is_not_silently_passed_over(tmp_path):
    (tmp_path / "minigrid.py").write_text("import no_such_renderer")
    assert refusal("MiniGrid-Pole-v0") == "it needs the module no_such_renderer, which is not installed"


def test_a_package_that_is_typed_and_not_installed_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "procgen_gym")
    said = refusal("procgen_gym:procgen_gym/procgen-coinrun-v0")
    assert said == "procgen_gym is not installed: pip install procgen-gym"
    said = refusal("no_such_module.envs:Thing-v0")
    assert said == "there is no module no_such_module, neither installed nor in the working directory"


def test_a_package_without_its_extra_is_told_apart(monkeypatch):
    monkeypatch.setitem(sys.modules, "shimmy", types.ModuleType("shimmy"))
    said = refusal("shimmy:dm_control/walker-walk-v0")
    assert said == "shimmy registers it only with what comes with pip install 'shimmy[dm-control]'"


def test_a_wrong_name_of_a_package_that_was_imported_is_a_wrong_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "minigrid", types.ModuleType("minigrid"))
    said = refusal("minigrid:MiniGrid-Nowhere-v0")
    assert "`MiniGrid-Nowhere` doesn't exist" in said
    assert said.endswith("minigrid was imported, and does not register it")


def test_a_module_of_ones_own_is_not_taken_for_the_package_whose_names_it_has():
    assert refusal("probes:MiniGrid-Nowhere-v0").endswith("probes was imported, and does not register it")


def test_an_unknown_namespace_is_named_with_how_to_import_a_package():
    said = refusal("Unheard/Of-v0")
    assert "Namespace Unheard not found" in said
    assert "env.id=package:Unheard/Of-v0" in said


def test_a_misspelt_name_gets_gymnasiums_suggestion():
    said = refusal("CartPoll-v1")
    assert "Did you mean: `CartPole`" in said
    assert "env.id=package:CartPoll-v1" in said


def test_a_version_that_never_was_gets_gymnasiums_list():
    assert "`v1`" in refusal("CartPole-v77")


def test_two_colons_are_refused_with_the_form():
    assert "package:Name-v0" in refusal("a:b:C-v0")


@pytest.mark.parametrize("id", ["LunarLander-v3", "BipedalWalker-v3"])
def test_box2d_is_an_extra_of_this_project(id, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == "Box2D" or name.startswith("gymnasium.envs.box2d"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    assert refusal(id) == "Box2D is not installed: pip install 'trpo[box2d]'"


def test_jax_is_an_extra_of_gymnasium(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    assert refusal("phys2d/CartPole-v1") == "jax is not installed: pip install 'gymnasium[jax]'"


def test_what_an_environment_of_ones_own_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import no_such_physics\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("needy:Thing-v0") == "it needs the module no_such_physics, which is not installed"


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_a_version_that_is_gone_has_a_successor():
    newest = max(name for name in gymnasium.registry if name.startswith("HalfCheetah-v"))
    assert refusal("HalfCheetah-v2").endswith(f"; its successor is {newest}")


@pytest.mark.parametrize("backend", ["sync", "async", "vector", "envpool"])
def test_every_backend_says_so_before_anything_of_its_own(backend):
    with pytest.raises(UserError, match=r"ale_py is not installed: pip install 'trpo\[atari\]'"):
        check_environment(EnvConfig(id="ALE/Pong-v5", backend=backend))


@pytest.mark.parametrize(("id", "count"), [("HalfCheetah-v2", 0), ("Hopper-v4", 1)])
def test_warnings_come_with_what_could_be_made_and_not_with_a_refusal(id, count):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        if count:
            check_environment(EnvConfig(id=id))
        else:
            with pytest.raises(UserError):
                check_environment(EnvConfig(id=id))
    assert ["out of date" in str(warning.message) for warning in said] == [True] * count
