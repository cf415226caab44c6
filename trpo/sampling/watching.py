"""Environments that are watched: on a screen, or in a video."""

import os
import sys
import warnings
from pathlib import Path

import gymnasium
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from trpo.config import EnvConfig, UserError, first_line
from trpo.sampling.making import make_env

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")  # one of these is set where there is one


def make_recorded_env(config: EnvConfig, directory: Path) -> gymnasium.Env:
    """Return one environment whose every episode becomes an MP4 file. Raises `UserError` if it cannot."""
    env = make_env(config, render_mode="rgb_array")
    try:
        return gymnasium.wrappers.RecordVideo(env, str(directory), episode_trigger=lambda _: True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError("--video needs moviepy: pip install 'trpo[video]'") from error


def make_shown_env(config: EnvConfig) -> gymnasium.Env:
    """Return one environment that shows itself while it is stepped. Raises `UserError` if it cannot."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has no such mode, and that Gymnasium makes a window of its pictures
        env = make_env(config, render_mode="human")
    modes = env.unwrapped.metadata.get("render_modes") or ()
    if not {"human", "rgb_array"} & {*modes}:
        raise UserError(f"--render human: {config.id} has no such mode; it has {', '.join(modes) or 'none'}")
    if not has_screen(env.unwrapped):
        raise UserError("--render human: there is no screen here; --video DIR writes files")
    try:
        env.reset(seed=0)  # what it needs to show itself, it asks for now
    except Exception as error:
        raise UserError(f"--render human: {config.id} cannot be shown: {first_line(error)}") from error
    return env


def has_screen(env: gymnasium.Env) -> bool:
    """Return whether there is a screen for an environment; those of others may need none, so they are to try.

    Without one MuJoCo's window ends the process, and pygame's draws where nobody sees it.
    """
    if isinstance(env, MujocoEnv):
        import glfw

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # why not, in its own words
            return bool(glfw.init())
    own = type(env).__module__.startswith("gymnasium.")
    return not own or sys.platform != "linux" or any(os.environ.get(name) for name in SCREENS)
