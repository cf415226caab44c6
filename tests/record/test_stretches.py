"""Which agent of a run did best in training."""

import itertools

import pytest
from tiny_runs import checkpoints, rows, same_tensors, summary, train_tiny

import trpo
from trpo.record import checkpoint
from trpo.record.stretches import ACTED, ALWAYS, EPISODES, Stretches

# Twenty episodes are several iterations, and there are several times twenty.
SOME_STRETCHES = (
    "run.total_steps=4000",
    "run.steps_per_iteration=64",
    "run.checkpoint_every=64",
    "run.keep_checkpoints=1000",
)


def acted(env_steps):
    """What acted before an iteration, told apart by its steps."""
    return {name: env_steps if name == "env_steps" else name for name in (*ACTED, *ALWAYS)}


def taken(stretches, *iterations):
    """Take iterations of so many episodes with such a mean return, each after a thousand steps more."""
    for number, (episodes, mean) in enumerate(iterations):
        row = {"rollout/episodes": episodes} | ({"rollout/episode_return": mean} if episodes else {})
        stretches.take(row, acted(1000 * number))
    return stretches


def test_a_stretch_ends_with_the_iteration_that_makes_it_long_enough_and_is_worth_its_mean_over_episodes():
    stretches = taken(Stretches(), (5, 10.0), (0, None), (4, 20.0), (2, 30.0), (10, 40.0))
    assert stretches.best == {
        "env_steps": 3000,  # 5 + 4 are less than half of twenty, 5 + 4 + 2 are not
        "return_mean": pytest.approx((5 * 10 + 4 * 20 + 2 * 30 + 10 * 40) / 21),
        "episodes": 21,
    }


def test_an_agent_whose_episodes_are_a_stretch_is_the_one_that_played_them_and_of_two_as_good_the_later():
    stretches = taken(Stretches(), (30, 1.0), (30, 3.0), (30, 3.0), (30, 2.0))
    assert stretches.best == {"env_steps": 2000, "return_mean": 3.0, "episodes": 30}


def test_what_is_less_than_a_stretch_is_nothing():
    stretches = taken(Stretches(), (EPISODES - 1, 5.0))
    assert stretches.best is None
    assert stretches.unsaved(acted(9000)) is None


def test_only_a_better_agent_is_to_be_saved_and_once():
    stretches = taken(Stretches(), (20, 5.0), (20, 4.0))
    assert stretches.unsaved(acted(9000)) == {**acted(0), "best_training": stretches.best}
    assert stretches.unsaved(acted(9000)) is None
    assert taken(stretches, (20, 4.5)).unsaved(acted(9000)) is None
    assert taken(stretches, (20, 5.5)).unsaved(acted(9000)) is not None


def test_a_stretch_goes_on_from_where_it_was_saved():
    first = taken(Stretches(), (20, 5.0), (12, 7.0))
    again = Stretches()
    again.restore(first.state())
    for stretches in (first, again):
        taken(stretches, (8, 9.0))
    assert first.best == again.best == {"env_steps": 1000, "return_mean": pytest.approx(7.8), "episodes": 20}


@pytest.mark.slow
def test_the_file_is_the_agent_from_the_middle_of_the_best_stretch_of_the_run(tmp_path):
    run = tmp_path / "run"
    assert train_tiny(run, *SOME_STRETCHES) == 0
    everything, stretches = rows(run), [[]]
    before = {row["env_steps"]: earlier["env_steps"] for earlier, row in itertools.pairwise(everything)}
    for row in everything:
        stretches[-1].append(row)
        if count(stretches[-1]) >= EPISODES:
            stretches.append([])
    assert len(stretches) > 2  # two whole ones at least
    best = max(reversed(stretches[:-1]), key=mean)
    middle = next(row for place, row in enumerate(best, 1) if 2 * count(best[:place]) >= EPISODES)
    told = summary(run)["best_training"]
    assert told == {
        "env_steps": before[middle["env_steps"]],
        "return_mean": pytest.approx(mean(best)),
        "episodes": count(best),
    }
    file = run / "checkpoints" / checkpoint.BEST_TRAINING
    state = checkpoint.load(file)
    assert state["best_training"] == told
    (numbered,) = [path for path in checkpoints(run) if checkpoint.load(path)["env_steps"] == told["env_steps"]]
    assert same_tensors(state["agent"], checkpoint.load(numbered)["agent"])
    assert trpo.load(file).env_steps == told["env_steps"]


def count(stretch):
    return sum(row["rollout/episodes"] for row in stretch)


def mean(stretch):
    return sum(row["rollout/episodes"] * row.get("rollout/episode_return", 0.0) for row in stretch) / count(stretch)
