"""Environments whose values and best actions are known, and some that misbehave.

Importing this module registers them, so `env.id=probes:Constant-v0` works on the command line too. `ScriptedAgent`
drives the one that counts.
"""

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from trpo.models.agent import Agent

NOTHING = np.zeros(1, dtype=np.float32)

# What an action of Counting does besides steering; every other action only steers.
TERMINATE, TRUNCATE, END_BOTH = 1.0, -1.0, 0.75

# The columns of Counting's observation.
WHO, EPISODE, STEP, CLOCK, POSITION, OVER = range(6)


class OneStep(gymnasium.Env):
    """One state s = ±1, one action, one reward, the end."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = float(self.np_random.choice([-1.0, 1.0]))
        return np.full(1, self.state, dtype=np.float32), {}

    def step(self, action):
        return NOTHING, self.reward(action), True, False, {}

    def reward(self, action):
        raise NotImplementedError


class Constant(OneStep):
    """V = 1 whatever one does."""

    def reward(self, action):
        return 1.0


class Paid(OneStep):
    """V = pay whatever one does."""

    def __init__(self, pay=0.5):
        self.pay = pay

    def reward(self, action):
        return self.pay


class Observed(OneStep):
    """V(s) = s whatever one does."""

    def reward(self, action):
        return self.state


class Drawn(Observed):
    """V(s) = s for an s drawn anew from [−1, 1] in every episode: returns tell which start it was."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = float(np.float32(self.np_random.uniform(-1.0, 1.0)))
        return np.full(1, self.state, dtype=np.float32), {}


class Chosen(OneStep):
    """Action 1 is best in every state and gives 1, action 0 gives −1."""

    def reward(self, action):
        return 1.0 if action == 1 else -1.0


class Matched(OneStep):
    """Action 1 is best at s = 1, action 0 at s = −1; right gives 1, wrong −1."""

    def reward(self, action):
        return 1.0 if action == (self.state > 0) else -1.0


class Aimed(OneStep):
    """The best action is s itself, of an interval [−2, 2]: ±0.5 in the policy's units."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reward(self, action):
        return -float((action[0] - self.state) ** 2)


class Curved(OneStep):
    """−½ k a², k = 16 at s = 1 and 1 at s = −1, of actions without bounds: what noise costs depends on the state."""

    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def reward(self, action):
        return -0.5 * (16.0 if self.state > 0 else 1.0) * float(action[0] ** 2)


class Delayed(gymnasium.Env):
    """Two steps and a reward of 1 after the second: V(0) = γ, V(1) = 1."""

    observation_space = spaces.Discrete(2)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return self.state, {}

    def step(self, action):
        last = self.state == 1
        self.state = 1
        return self.state, float(last), last, False, {}


class Endless(gymnasium.Env):
    """A reward of 1 for ever, seen as a clock 0, 1, …, period − 1, 0, …; cut every time the clock is at 0 again.

    V = 1 / (1 − γ) if that is a truncation, V(k) = (1 − γ^(period − k)) / (1 − γ) if the episode terminates.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, period=3, ending="truncated"):
        self.observation_space = spaces.Discrete(period)
        self.period, self.ending = period, ending

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.clock = 0
        return self.clock, {}

    def step(self, action):
        self.clock = (self.clock + 1) % self.period
        over = self.clock == 0
        return self.clock, 1.0, over and self.ending == "terminated", over and self.ending == "truncated", {}


class Counting(gymnasium.Env):
    """Says in every observation whose it is: (who, episode, step, clock, position, over).

    `who` comes from the latest seed, `clock` counts steps over all episodes, `position` sums the episode's actions,
    `over` is 1 in an observation that ended an episode. The reward is clock + position. The actions decide when an
    episode ends, and how.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (6,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self):
        self.who, self.episode, self.clock = 0, -1, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.who = seed % 2**16
        self.episode += 1
        self.steps, self.position, self.over = 0, 0.0, False
        return self.observation(), {}

    def step(self, action):
        assert not self.over, "stepped after the end of an episode"
        a = float(action[0])
        self.steps, self.clock, self.position = self.steps + 1, self.clock + 1, self.position + a
        terminated, truncated = a in (TERMINATE, END_BOTH), a in (TRUNCATE, END_BOTH)
        self.over = terminated or truncated
        return self.observation(), self.clock + self.position, terminated, truncated, {}

    def observation(self):
        row = (self.who, self.episode, self.steps, self.clock, self.position, self.over)
        return np.array(row, dtype=np.float32)


class Broken(gymnasium.Env):
    """Gives a NaN (or what `value` says) as `signal` with the `after`-th action 1; actions 0 never break it."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, signal="reward", after=1, value=float("nan")):
        self.signal, self.after, self.value = signal, after, value

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pushed = 0
        return self.signals()[0], {}

    def step(self, action):
        self.pushed += int(action)
        return *self.signals(), False, False, {}

    def signals(self):
        observation, reward = np.zeros(3, dtype=np.float32), 0.0
        if self.pushed >= self.after and self.signal == "observation":
            observation[2] = self.value
        if self.pushed >= self.after and self.signal == "reward":
            reward = self.value
        return observation, reward


class Spaces(gymnasium.Env):
    """Any observation and action space, noise for observations and rewards, episodes of 5; refuses a foreign action."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.steps += 1
        return self.observation_space.sample(), self.np_random.normal(), False, self.steps == 5, {}


class Scaled(gymnasium.RewardWrapper):
    """Rewards times `factor`."""

    def __init__(self, env, factor=2.0):
        super().__init__(env)
        self.factor = factor

    def reward(self, reward):
        return self.factor * reward


class Raised(gymnasium.RewardWrapper):
    """Rewards plus `amount`."""

    def __init__(self, env, amount=1.0):
        super().__init__(env)
        self.amount = amount

    def reward(self, reward):
        return reward + self.amount


def next_step(probe):
    """Return a vector entry point for a probe: the same dynamics under Gymnasium's next-step autoreset."""
    return lambda num_envs, **kwargs: SyncVectorEnv(
        [lambda: probe(**kwargs)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP
    )


def same_step_counting(num_envs):
    """Return Counting with resets in the very step of an end, which hides the final observation."""
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)


for probe in (
    Constant,
    Paid,
    Observed,
    Drawn,
    Chosen,
    Matched,
    Aimed,
    Curved,
    Delayed,
    Endless,
    Counting,
    Broken,
    Spaces,
):
    gymnasium.register(f"{probe.__name__}-v0", entry_point=probe, vector_entry_point=next_step(probe))
gymnasium.register("SameStepCounting-v0", entry_point=Counting, vector_entry_point=same_step_counting)


class ScriptedAgent(Agent):
    """Plays column i of a script (L, B) on environment i, one row per step that the environment really took."""

    def __init__(self, agent, script):
        super().__init__(agent.policy, agent.critic, agent.normalizer, agent.reward_scale)
        self.script = script

    def actor(self):
        def act(observations, noise):
            clock = observations[:, CLOCK].long()
            return self.script[clock, torch.arange(len(clock))].unsqueeze(-1)

        return act


class Marked(gymnasium.Env):
    """A mark in one of five columns of a grid, whose number is the right action; three of five actions are valid.

    The valid columns are painted into the observation, so that a row shows which mask belongs to it. An action that is
    not valid is an error. It terminates where the mark was hit twice, and is truncated after four steps.

    Args:
        says: where the mask is: in the `info`, in the `observation`, or given by the `method`.
    """

    def __init__(self, says="info"):
        self.says = says
        parts = {"grid": spaces.Box(0, 1, (3, 5, 2), np.uint8), "clock": spaces.Box(0.0, 1.0, (1,), np.float32)}
        if says == "observation":
            parts["action_mask"] = spaces.MultiBinary(5)
        self.observation_space, self.action_space = spaces.Dict(parts), spaces.Discrete(5)
        if says == "method":
            self.action_masks = lambda: self.mask.astype(bool)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.hits = 0, 0
        return self._next()

    def step(self, action):
        if not self.mask[action]:
            raise ValueError(f"action {action} is not valid: {self.mask}")
        hit = action == self.mark
        self.steps, self.hits = self.steps + 1, self.hits + hit
        observation, info = self._next()
        return observation, float(hit), self.hits >= 2, self.steps >= 4, info

    def _next(self):
        self.mark = int(self.np_random.integers(5))
        self.mask = np.zeros(5, dtype=np.int8)
        others = [column for column in range(5) if column != self.mark]
        self.mask[[self.mark, *self.np_random.choice(others, 2, replace=False)]] = 1
        grid = np.zeros((3, 5, 2), dtype=np.uint8)
        grid[:, self.mark, 0], grid[:, :, 1] = 1, self.mask
        observation = {"grid": grid, "clock": np.full(1, self.steps / 4, dtype=np.float32)}
        if self.says == "observation":
            observation["action_mask"] = self.mask.copy()
        return observation, ({"action_mask": self.mask.copy()} if self.says == "info" else {})


class Recalling(gymnasium.Env):
    """Shows one of three numbers, then nothing for `wait` steps: the last action must be that number.

    Args:
        wait: how long it must be remembered.
        form: how numbers and actions are: a `vector`, a `picture` in a column of which they are, or with a `mask` which
            forbids every action but waiting (0) until the last step, and then waiting.
    """

    def __init__(self, wait=2, form="vector"):
        self.wait, self.form = wait, form
        self.action_space = spaces.Discrete(4 if form == "mask" else 3)
        self.observation_space = (
            spaces.Box(0, 255, (36, 36, 1), np.uint8) if form == "picture" else spaces.Box(-1.0, 1.0, (3,), np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.cue = 0, int(self.np_random.integers(3))
        return self._seen(), self._info()

    def step(self, action):
        self.steps += 1
        over = self.steps > self.wait
        right = action - (self.form == "mask") == self.cue
        return self._seen(), float(over and right), over, False, self._info()

    def _seen(self):
        shown = np.arange(3) == self.cue if self.steps == 0 else np.zeros(3)
        if self.form == "picture":
            return np.repeat(np.repeat(shown[None], 12, 1), 36, 0).astype(np.uint8)[..., None] * 255
        return shown.astype(np.float32)

    def _info(self):
        if self.form != "mask":
            return {}
        return {"action_mask": np.array([self.steps < self.wait, *[self.steps >= self.wait] * 3], dtype=np.int8)}


class Pictured(gymnasium.Env):
    """A bright spot in a picture: the reward is how near the action comes to where it is, three steps long.

    Args:
        top: the largest byte; below 255 it is a grid by rule.
    """

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, top=255):
        self.top = top
        picture, speed = spaces.Box(0, top, (40, 40, 3), np.uint8), spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict({"picture": picture, "speed": speed})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._next(), {}

    def step(self, action):
        reward = -abs(float(action[0]) - self.place)
        self.steps += 1
        return self._next(), reward, False, self.steps >= 3, {}

    def _next(self):
        column = int(self.np_random.integers(36))
        self.place = column / 17.5 - 1
        picture = np.zeros((40, 40, 3), dtype=np.uint8)
        picture[10:30, column : column + 4] = self.top
        return {"picture": picture, "speed": self.np_random.uniform(-1, 1, 2).astype(np.float32)}


gymnasium.register("Marked-v0", Marked)
gymnasium.register("Recalling-v0", Recalling)
gymnasium.register("Pictured-v0", Pictured)
