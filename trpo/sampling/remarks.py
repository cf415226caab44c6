"""What somebody should know of an environment that is not Gymnasium's own, before training on it."""

import contextlib
import warnings
from collections.abc import Iterator

import gymnasium
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from trpo.config import EnvConfig, first_line
from trpo.models.observations import MASK
from trpo.sampling.making import make_env


def remarks(config: EnvConfig) -> Iterator[str]:
    """Yield, in a line each, the first complaint of Gymnasium's checker and that nothing limits an episode.

    Gymnasium's own environments are not checked, nor EnvPool's, nor those with masks: the checker would take actions
    that are not valid.
    """
    with contextlib.closing(make_env(config)) as env:
        if checked_here(env) and (complaint := first_complaint(env.unwrapped)):
            yield f"Gymnasium's checker of environments says of {config.id}: {complaint}"
        if not limited(env):
            yield f"{config.id} states no time limit: if its episodes may never end, set env.max_episode_steps"


def checked_here(env: gymnasium.Env) -> bool:
    """Return whether it is an environment of somebody else's that takes any action."""
    whole = env.observation_space
    masked = isinstance(whole, gymnasium.spaces.Dict) and MASK in whole.spaces
    return not masked and not type(env.unwrapped).__module__.startswith(("gymnasium.", "trpo."))


def first_complaint(env: gymnasium.Env) -> str:
    """Return what Gymnasium's checker finds first, an error rather than a warning, or nothing."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            check_env(env, skip_render_check=True)
        except Exception as error:
            return first_line(error)
    return plain(str(said[0].message)) if said else ""


def plain(text: str) -> str:
    """Return a warning of Gymnasium's without its colours and its prefix, in one line."""
    words = text.replace("\x1b[33m", "").replace("\x1b[0m", "").removeprefix("WARN: ")
    return words.strip().splitlines()[0]


def limited(env: gymnasium.Env) -> bool:
    """Return whether something is known to end every episode."""
    if env.spec is not None and env.spec.max_episode_steps:
        return True
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False
