"""What a person is told whose environment cannot be made: usually a package is missing, or not imported."""

import gymnasium

from trpo.config import first_line

# What an id begins with → what to install, and what to import for its environments to be registered.
PACKAGES = {
    "ALE/": ("ale-py", "ale_py"),
    "dm_control/": ("shimmy[dm-control]", "shimmy"),
    "MiniGrid-": ("minigrid", "minigrid"),
    "BabyAI-": ("minigrid", "minigrid"),
    "highway-": ("highway-env", "highway_env"),
    "Panda": ("panda-gym", "panda_gym"),
    "Fetch": ("gymnasium-robotics", "gymnasium_robotics"),
    "HandReach": ("gymnasium-robotics", "gymnasium_robotics"),
    "AdroitHand": ("gymnasium-robotics", "gymnasium_robotics"),
    "AntMaze": ("gymnasium-robotics", "gymnasium_robotics"),
    "PointMaze": ("gymnasium-robotics", "gymnasium_robotics"),
    "FrankaKitchen": ("gymnasium-robotics", "gymnasium_robotics"),
}


def why(id: str, error: Exception) -> str:
    """Return in one line why an environment cannot be made, and what to install or type."""
    said = first_line(error)
    if ":" not in id and isinstance(error, gymnasium.error.NamespaceNotFound):
        return f"nothing that is imported registers {id.split('/')[0]}/… {how_to_register(id)}"
    if ":" not in id and isinstance(error, gymnasium.error.NameNotFound):
        return f"{said} {how_to_register(id)}"
    if isinstance(error, gymnasium.error.DependencyNotInstalled) and "box2d" in said.lower():
        return "Box2D is not installed: pip install 'trpo[box2d]'"
    return said


def how_to_register(id: str) -> str:
    """Return what to do about an id that nobody has registered."""
    for start, (package, module) in PACKAGES.items():
        if id.startswith(start):
            return f"It comes with {package}: pip install '{package}', then env.id={module}:{id}"
    if "/" in id:
        return f"If a package of yours registers it, have that imported first: env.id=PACKAGE:{id}"
    return "One of your own is found as env.id=MODULE:NAME, where importing MODULE registers NAME"
