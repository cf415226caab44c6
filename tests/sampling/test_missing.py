"""A person whose environment cannot be made is told what to install or to type."""

import gymnasium
import pytest

from trpo.config import EnvConfig, UserError
from trpo.sampling.making import make_env
from trpo.sampling.missing import PACKAGES, why

# An id and what the one line must say.
MISSING = {
    "ALE/Pong-v5": ["ALE/", "pip install 'ale-py'", "env.id=ale_py:ALE/Pong-v5"],
    "MiniGrid-Empty-5x5-v0": ["pip install 'minigrid'", "env.id=minigrid:MiniGrid-Empty-5x5-v0"],
    "dm_control/walker-walk-v0": ["pip install 'shimmy[dm-control]'", "env.id=shimmy:dm_control/walker-walk-v0"],
    "FetchReach-v4": ["pip install 'gymnasium-robotics'", "env.id=gymnasium_robotics:FetchReach-v4"],
    "Nope/Thing-v0": ["Nope/", "env.id=PACKAGE:Nope/Thing-v0"],
    "Carpole-v1": ["Did you mean: `CartPole`", "env.id=MODULE:NAME"],
    "no_such_module:Thing-v0": ["No module named 'no_such_module'"],
    "CartPole-v77": ["CartPole", "v1"],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("id", MISSING)
def test_the_one_line_says_what_to_install_or_type(id):
    with pytest.raises(UserError) as caught:
        make_env(EnvConfig(id=id))
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"env.id={id} cannot be made: ")
    assert all(words in line for words in MISSING[id]), line


def test_a_missing_box2d_is_an_extra_of_this_package():
    error = gymnasium.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`')
    assert why("LunarLander-v3", error) == "Box2D is not installed: pip install 'trpo[box2d]'"
    assert why("Other-v0", gymnasium.error.DependencyNotInstalled("no fish")) == "no fish"


def test_no_start_of_an_id_hides_a_longer_one():
    starts = list(PACKAGES)
    assert not [a for a in starts for b in starts if a != b and b.startswith(a)]
