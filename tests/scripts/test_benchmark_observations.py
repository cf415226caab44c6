"""The scores of tasks with parts and masks: what counts as a success, and what the table says of it."""

import json

import benchmark_observations as benchmark
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from trpo.config import EnvConfig


class Counted(gymnasium.Env):
    """As many steps as its seed says, a point for each action of 1; a success where the seed is even."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.even = 1 + seed % 3, seed % 2 == 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.left -= 1
        over = self.left == 0
        return np.zeros(1, dtype=np.float32), float(action), over, False, {"is_success": self.even} if over else {}


gymnasium.register("Counted-v0", Counted)


def test_episodes_are_whole_and_successes_those_that_the_last_info_says():
    mean, success = benchmark.episodes(EnvConfig(id="Counted-v0"), lambda seen: np.ones(len(seen), dtype=int))
    assert mean == pytest.approx(np.mean([1 + seed % 3 for seed in range(10_000, 10_100)]))
    assert success == pytest.approx(0.5)
    assert benchmark.episodes(EnvConfig(id="Counted-v0"), lambda seen: np.zeros(len(seen), dtype=int))[0] == 0


def test_the_table_has_a_row_for_each_task_and_agent_with_means_over_seeds(tmp_path):
    for seed, mode in enumerate((1.0, 2.0)):
        folder = tmp_path / "trpo" / "taxi" / f"seed{seed}"
        folder.mkdir(parents=True)
        (folder / "score.json").write_text(json.dumps({"mode": mode, "sampled": 3.0, "success": None, "seconds": 7.0}))
    (tmp_path / "PPO" / "snake" / "seed0").mkdir(parents=True)  # under way
    *_, row = benchmark.write_table(tmp_path).splitlines()
    assert row == "| taxi | trpo | 2 | 1.500 | 3.000 | – | 7 | 1.000, 2.000 |"
