"""Packages of environments: imported where they are installed, and else what a person is told to install."""

import importlib
import re
import shlex
from importlib.util import find_spec
from typing import NamedTuple

import gymnasium
from gymnasium.envs.registration import find_highest_version, get_env_id, parse_env_id
from gymnasium.error import NameNotFound, NamespaceNotFound

from trpo.config import first_line


class Package(NamedTuple):
    """A package of environments. Gymnasium 1.x imports none by itself."""

    ids: str  # a regular expression of how they begin
    requirement: str  # of pip
    module: str  # whose import registers them

    @property
    def top(self) -> str:
        """The name of the module as it is installed."""
        return self.module.split(".")[0]


PACKAGES = (
    Package(r"ALE/|\w+NoFrameskip-", "trpo[atari]", "ale_py"),
    Package(r"dm_control/", "shimmy[dm-control]", "shimmy"),
    Package(r"(MiniGrid|BabyAI)-", "minigrid", "minigrid"),
    Package(r"MiniWorld-", "miniworld", "miniworld"),
    Package(
        r"(highway|merge|roundabout|parking|intersection|racetrack|exit|lane-keeping|two-way|u-turn)-",
        "highway-env",
        "highway_env",
    ),
    Package(r"Panda(Reach|Push|Slide|PickAndPlace|Stack|Flip)", "panda-gym", "panda_gym"),
    Package(
        r"Fetch(Reach|Push|Slide|PickAndPlace)|(Ant|Point)Maze_|AdroitHand|Hand(Reach|Manipulate)|FrankaKitchen-",
        "gymnasium-robotics",
        "gymnasium_robotics",
    ),
    Package(r"Meta-World/", "metaworld", "metaworld"),
    Package(r"\w+BulletEnv-", "pybullet-envs-gymnasium", "pybullet_envs_gymnasium"),
    Package(r"PyFlyt/", "PyFlyt", "PyFlyt.gym_envs"),
    Package(r"Vizdoom", "vizdoom", "vizdoom.gymnasium_wrapper"),
    Package(r"FlappyBird-", "flappy-bird-gymnasium", "flappy_bird_gymnasium"),
    Package(r"procgen_gym/", "procgen-gym", "procgen_gym"),
)
# Of Gymnasium's own environments and wrappers, by module.
DEPENDENCIES = {"Box2D": "trpo[box2d]", "cv2": "trpo[atari]", "jax": "gymnasium[jax]"}


def import_package(id: str) -> None:
    """Import what registers an environment, if it is a known package that is installed, as `module:Name-v0` would."""
    package = package_of(id)
    if package is not None and id not in gymnasium.registry and find_spec(package.top):
        importlib.import_module(package.module)


def package_of(name: str) -> Package | None:
    """Return the known package that an environment comes with."""
    return next((package for package in PACKAGES if re.match(package.ids, name)), None)


def why(id: str, error: Exception) -> str:
    """Return in one line why an environment cannot be made, and what to install or type."""
    module, _, name = id.rpartition(":")
    if ":" in module:
        return "one colon stands between a package and the name of its environment, as in package:Name-v0"
    if missing := missing_module(error):
        return not_installed(missing, module)
    if not isinstance(error, NameNotFound | NamespaceNotFound):
        return first_line(error).rstrip(".") + (successor(name) if isinstance(error, ImportError) else "")
    package = package_of(name)
    if package is None or module not in ("", package.module):
        return nowhere(name, module, error)
    if not module and not find_spec(package.top):
        return not_installed(package.top, module)
    if isinstance(error, NamespaceNotFound):  # the package without its extra
        return f"{package.module} registers it only with what comes with {pip_install(package.requirement)}"
    return nowhere(name, package.module, error)


def missing_module(error: Exception) -> str | None:
    """Return the name of the module whose import failed, if that was it."""
    for cause in (error, error.__cause__):
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            return cause.name
    return None


def not_installed(missing: str, module: str) -> str:
    """Return what to do about a missing module, which may be the one that was typed in front of the id."""
    top = missing.split(".")[0]
    by_module = {package.top: package.requirement for package in PACKAGES} | DEPENDENCIES
    if top in by_module:
        return f"{top} is not installed: {pip_install(by_module[top])}"
    if f"{module}.".startswith(f"{missing}."):
        return f"there is no module {missing}, neither installed nor in the working directory"
    return f"it needs the module {missing}, which is not installed"


def nowhere(name: str, module: str, error: Exception) -> str:
    """Return what may be wrong with an id that neither Gymnasium nor `PACKAGES` know."""
    if module:
        return f"{first_line(error)} {module} was imported, and does not register it"
    said, id = first_line(error), f"env.id=package:{name}"
    return f"{said} {id} first imports the package, or the file in the working directory, that registers it"


def successor(name: str) -> str:
    """Return what to append about an old version that cannot be made any more."""
    namespace, plain, version = parse_env_id(name)
    newest = find_highest_version(namespace, plain)
    return "" if newest in (None, version) else f"; its successor is {get_env_id(namespace, plain, newest)}"


def pip_install(requirement: str) -> str:
    """Return the command that installs a requirement, as a shell reads it."""
    return f"pip install {shlex.quote(requirement)}"
