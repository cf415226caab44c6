"""Where the next trial is: Optuna's tree-structured Parzen estimator, over numbers of few digits."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from trpo.search.space import Choices, Dimension


class RoundingSampler(TPESampler):
    """TPE that proposes numbers of few digits, so that what the study records is what ran."""

    def __init__(self, space: Sequence[Dimension], seed: int) -> None:
        super().__init__(multivariate=True, seed=seed)
        self.dimensions = {dimension.name: dimension for dimension in space}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the proposal for all keys at once, or nothing while trials are still random."""
        proposal = super().sample_relative(study, trial, search_space)
        return {name: self.near(name, value) for name, value in proposal.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the proposal for one key."""
        return self.near(param_name, super().sample_independent(study, trial, param_name, param_distribution))

    def near(self, name: str, value: Any) -> Any:
        """Return a value of a key as it is going to be typed."""
        dimension = self.dimensions[name]
        return value if isinstance(dimension, Choices) else dimension.near(value)


def seed_of_trial(seed: int, number: int) -> int:
    """Return the sampler's seed for a trial: whichever worker takes it, and however often the search was stopped."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def distributions_of(space: Sequence[Dimension]) -> dict[str, BaseDistribution]:
    """Return the keys and what may be tried, in Optuna's words."""
    return {dimension.name: distribution_of(dimension) for dimension in space}


def distribution_of(dimension: Dimension) -> BaseDistribution:
    """Return what may be tried of one key, in Optuna's words."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution(dimension.texts)
    if dimension.whole:
        return IntDistribution(
            int(dimension.low), int(dimension.high), log=dimension.log, step=int(dimension.step or 1)
        )
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
