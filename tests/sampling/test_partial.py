import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from tiny_runs import compose, refusal

from trpo.commands.train import train
from trpo.config import UserError
from trpo.sampling.making import make_env
from trpo.sampling.partial import Components


def test_only_the_named_numbers_are_seen_in_their_order():
    whole, part = gymnasium.make("CartPole-v1"), Components(gymnasium.make("CartPole-v1"), (2, 0))
    (seen, _), (shown, _) = whole.reset(seed=3), part.reset(seed=3)
    np.testing.assert_array_equal(shown, seen[[2, 0]])
    seen, shown = whole.step(1)[0], part.step(1)[0]
    np.testing.assert_array_equal(shown, seen[[2, 0]])
    assert part.observation_space.contains(shown)
    assert part.observation_space == spaces.Box(
        whole.observation_space.low[[2, 0]], whole.observation_space.high[[2, 0]]
    )


@pytest.mark.parametrize(("task", "shown"), [("cartpole", 2), ("pendulum", 2), ("mountaincar_continuous", 1)])
def test_a_task_without_velocities_shows_positions_alone(task, shown):
    env = make_env(compose(f"task={task}_positions").env)
    assert env.observation_space.shape == (shown,)


@pytest.mark.parametrize(("kept", "words"), [((4,), "0 to 3"), ((-1,), "0 to 3"), ((), "at least one")])
def test_a_component_that_is_not_there_is_refused(kept, words):
    with pytest.raises(UserError, match=words):
        Components(gymnasium.make("CartPole-v1"), kept)


def test_what_is_no_vector_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrapper = "env.wrappers=[{wrapper: 'trpo.sampling.partial:Components', kept: [0]}]"
    assert "of a vector" in refusal(train, "env.id=FrozenLake-v1", wrapper)
