"""`trpo-evaluate --render human`: the episodes on a screen, or one line about why not."""

import json
from unittest.mock import patch

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tiny_runs import TINY, refusal

from trpo.commands.evaluate import evaluate
from trpo.commands.train import train
from trpo.sampling import watching


class Shown(gymnasium.Env):
    """Draws itself, as environments do in this mode, at every reset and step; episodes of three steps."""

    metadata = {"render_modes": ["human"], "render_fps": 1000}  # noqa: RUF012  as Gymnasium has it
    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Discrete(2)
    drawn: list = []  # noqa: RUF012  of all of them: who, at which step

    def __init__(self, render_mode=None, broken=False):
        self.render_mode, self.broken = render_mode, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.seen()

    def step(self, action):
        self.steps += 1
        observation, info = self.seen()
        return observation, 1.0, self.steps == 3, False, info

    def seen(self):
        if self.render_mode == "human":
            if self.broken:
                raise RuntimeError("no window\nfor you")
            self.drawn.append((id(self), self.steps))
        return np.zeros(1, np.float32), {}


class Unseen(Shown):
    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012


gymnasium.register("Shown-v0", Shown)
gymnasium.register("Unseen-v0", Unseen)


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """Makes a tiny run on an environment, at `run`."""
    monkeypatch.chdir(tmp_path)
    Shown.drawn.clear()

    def make(id, *overrides):
        assert train([f"env.id={id}", *TINY, "run.evaluation_episodes=0", *overrides, "hydra.run.dir=run"]) == 0

    return make


def test_one_environment_shows_every_step_of_every_episode(run_of, capsys):
    run_of("Shown-v0")
    assert Shown.drawn == []
    capsys.readouterr()
    assert evaluate(["run", "--render", "human", "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["length_mean"] == 3
    assert len({who for who, _ in Shown.drawn}) == 1
    assert [step for _, step in Shown.drawn][-8:] == [0, 1, 2, 3] * 2


def test_an_environment_without_the_mode_is_refused_with_those_it_has(run_of):
    run_of("Unseen-v0")
    assert refusal(evaluate, "run", "--render", "human").endswith("Unseen-v0 has no such mode; it has ansi")


def test_an_environment_that_fails_to_show_itself_is_one_line(run_of):
    run_of("Shown-v0", "++env.kwargs.broken=true")
    assert refusal(evaluate, "run", "--render", "human").endswith("cannot be shown: no window")


def test_an_environment_of_envpool_alone_cannot_be_watched(run_of):
    run_of("Catch-v0", "env.backend=envpool")
    assert "EnvPool alone" in refusal(evaluate, "run", "--render", "human")


@pytest.mark.parametrize("id", ["CartPole-v1", "Reacher-v5"])
def test_without_a_screen_it_is_refused_and_the_other_way_is_named(id, run_of, monkeypatch):
    run_of(id)
    for name in watching.SCREENS:
        monkeypatch.delenv(name, raising=False)
    with patch("glfw.init", return_value=0):
        line = refusal(evaluate, "run", "--render", "human")
    assert "no screen" in line
    assert "--video" in line


def test_pygame_draws_where_it_is_told_to(run_of, monkeypatch):
    run_of("CartPole-v1")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    with patch("pygame.time.Clock"):  # at no pace
        assert evaluate(["run", "--render", "human", "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--render", "human", "--video", "videos"], "choose one"),
        (["--render", "ansi"], "human"),
    ],
)
def test_other_ways_to_ask_are_refused(flags, said, run_of):
    run_of("Shown-v0")
    assert said in refusal(evaluate, "run", *flags)
