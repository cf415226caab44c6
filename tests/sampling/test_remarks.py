"""What is said of somebody's environment before training on it."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tiny_runs import TINY

from trpo.commands.train import train
from trpo.config import EnvConfig
from trpo.sampling.remarks import remarks

NO_LIMIT = "{} states no time limit: if its episodes may never end, set env.max_episode_steps"


class Sound(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), {}

    def step(self, action):
        return self.np_random.uniform(-1, 1, 1).astype(np.float32), 0.0, bool(self.np_random.random() < 0.1), False, {}


class Outside(Sound):
    """Leaves its space."""

    def step(self, action):
        return np.full(1, 7, np.float32), *super().step(action)[1:]


class Warned(Sound):
    """Gives a reward that is no float, which the checker warns of."""

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, "0", *rest


class Masked(Sound):
    """Would fail under the checker, which knows no masks."""

    action_space = spaces.Discrete(2)

    def step(self, action):
        assert action == 0
        return super().step(action)

    def action_masks(self):
        return np.array([True, False])


for kind in (Sound, Outside, Warned, Masked):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=50)
gymnasium.register("Unlimited-v0", entry_point=Sound)


@pytest.mark.parametrize("id", ["CartPole-v1", "Sound-v0", "Masked-v0", "FrozenLake-v1"])
def test_nothing_is_said_of_what_is_sound(id):
    assert list(remarks(EnvConfig(id=id))) == []


@pytest.mark.parametrize("id", ["Outside-v0", "Warned-v0"])
def test_the_first_complaint_of_the_checker_is_one_line(id):
    (line,) = remarks(EnvConfig(id=id))
    assert line.startswith(f"Gymnasium's checker of environments says of {id}: ")
    assert len(line) > len(f"Gymnasium's checker of environments says of {id}: ")
    assert "\x1b" not in line
    assert "\n" not in line


def test_an_environment_without_a_limit_is_named_and_the_key_that_sets_one():
    assert list(remarks(EnvConfig(id="Unlimited-v0"))) == [NO_LIMIT.format("Unlimited-v0")]
    assert list(remarks(EnvConfig(id="Unlimited-v0", max_episode_steps=9))) == []
    limited = [{"wrapper": "gymnasium.wrappers:TimeLimit", "max_episode_steps": 5}]
    assert list(remarks(EnvConfig(id="Unlimited-v0", wrappers=tuple(limited)))) == []


def test_a_run_says_it_once_at_its_start_and_goes_on(tmp_path, capsys):
    assert train(["env.id=Unlimited-v0", *TINY, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == NO_LIMIT.format("Unlimited-v0")
