"""What each rank computes for `test_ranks.py`: `python rank_work.py RANK '{"3": PORT, "2": PORT}' FOLDER`.

The same functions run in the test's own process, where there is one rank and it has all rows.
"""

import copy
import dataclasses
import json
import os
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed
from oracles import DISTRIBUTIONS, OBSERVATION_SIZE, generator, normal, random_batch, random_policy

from trpo.batch import standardize
from trpo.config import Config, CriticConfig, EnvConfig, PolicyConfig, RecordConfig, RunConfig, TrustRegionConfig
from trpo.models.networks import Critic
from trpo.models.normalizer import ObservationNormalizer, RewardScale
from trpo.numerics.params import flatten
from trpo.run import evaluated
from trpo.system import ranks
from trpo.trainer import Trainer
from trpo.update.critic import assess, fit_critic, make_optimizer
from trpo.update.objective import Objective
from trpo.update.profile import profile_step
from trpo.update.promise import Promise, judge
from trpo.update.trust_region import trust_region_step

SAMPLES = 29
CUTS = {1: (29,), 2: (11, 18), 3: (4, 20, 5)}  # how many rows each rank has
MESSAGES = ("all_reduce", "all_gather_into_tensor", "all_gather_object", "broadcast_object_list")


def mine(rows):
    """This rank's share of rows (N, …)."""
    return rows.split(CUTS[ranks.count()])[ranks.number()]


def problem(name):
    """A policy, this rank's share of its batch, and some direction. The last rank has one environment."""
    policy = random_policy(DISTRIBUTIONS[name])
    batch = random_batch(policy, samples=SAMPLES)._replace(environments=torch.arange(SAMPLES).clamp(max=24) % 4)
    return policy, batch.map(mine), normal(len(flatten(policy)), seed=9)


def objective(name, fisher, micro_batch):
    """All that an objective gives, at θ_old and at a candidate."""
    policy, batch, v = problem(name)
    batch = batch._replace(old_parameters=batch.old_parameters + 0.1)  # so that K(θ_old) and its gradient are not 0
    made = Objective(policy, batch, fisher=fisher, micro_batch=micro_batch)
    candidate = made.theta.detach() + 0.1 * v
    shares = torch.stack([made.surrogate_gain(candidate), made.kl(candidate)])
    return {
        "gradient": made.gradient(),
        "products": [made.fisher_product(v), made.fisher_product(v.square())],
        "kl_and_gradient": made.kl_and_gradient(),
        "candidate": list(made.evaluate(candidate)),
        "shares": ranks.total(shares.detach()),
    }


def step(name, fisher, micro_batch):
    """A whole policy step: θ and its figures."""
    policy, batch, _ = problem(name)
    info = trust_region_step(policy, batch, TrustRegionConfig(max_kl=0.05, fisher=fisher, micro_batch=micro_batch))
    return {"theta": flatten(policy), "outcome": info.outcome.name, "figures": info.figures()}


def profile():
    """What lies along a step."""
    policy, batch, _ = problem("gaussian")
    config = TrustRegionConfig(max_kl=0.05)
    profile = profile_step(policy, batch, trust_region_step(policy, batch, config), config)._asdict()
    return {"halves": profile.pop("halves"), "profile": profile}


def judgement(name, micro_batch):
    """What this batch says of a step that led to the policy."""
    policy, batch, v = problem(name)
    promise = Promise(flatten(policy) + 0.1 * v, improvement=0.3, kl=0.02, reward_std=1.5)
    return list(judge(policy, batch._replace(advantage_scale=2.0), promise, reward_std=0.5, micro_batch=micro_batch))


def statistics():
    """What is made of the moments of all rows."""
    normalizer, scale = ObservationNormalizer(OBSERVATION_SIZE), RewardScale()
    for seed in (1, 2):
        normalizer.update(ranks.moments_of(mine(5 + normal(SAMPLES, OBSERVATION_SIZE, seed=seed))))
        scale.moments.update(ranks.moments_of(mine(normal(SAMPLES, 1, seed=seed + 2))))
    return {"normalizer": normalizer.state_dict(), "scale": scale.state_dict()}


def critic_problem():
    critic = Critic(OBSERVATION_SIZE, hidden_sizes=(5,), activation="tanh", generator=generator(3)).double()
    return critic, mine(normal(SAMPLES, OBSERVATION_SIZE, seed=4)), mine(3 + normal(SAMPLES, seed=5))


def fit(minibatch_size):
    """A critic's figures and parameters after three epochs, and how large each rank's parts of the minibatches were."""
    critic, observations, returns = critic_problem()
    config = CriticConfig(epochs=3, minibatch_size=minibatch_size)
    optimizer = make_optimizer(critic, config)
    info = fit_critic(critic, optimizer, observations, returns, config, generator(6 + ranks.number()))
    return {"theta": flatten(critic), "figures": list(info)}


def small_cases():
    """Results that can be worked out by hand: rank r of R has r + 1 samples, all of value r."""
    number = ranks.number()
    return {
        "mean": ranks.mean(torch.tensor([float(number), 1.0]), number + 1),
        "total": ranks.total(torch.tensor([number, 1])),
        "gathered": ranks.gathered(torch.tensor([number, 10 + number])),
        "largest": [ranks.largest(number), ranks.largest(-number)],
        "everyones": ranks.everyones({"rank": number}),
        "of_leader": ranks.of_leader(("from", number)),
        "shares": [list(ranks.share(items)) for items in (0, 1, 3, 8, 20)],
        "leads": ranks.leads(),
    }


def disagreement():
    """What is said when the last rank's parameters are others."""
    ranks.check_same("00ff")
    try:
        ranks.check_same("00fe" if ranks.number() == ranks.count() - 1 else "00ff")
    except RuntimeError as error:
        return str(error)
    return None


def config(env_id="CartPole-v1", backend="sync"):
    """Five environments, which no number of ranks here divides; 40 steps; 3 epochs of 4 minibatches."""
    return Config(
        env=EnvConfig(id=env_id, num_envs=5, backend=backend),
        policy=PolicyConfig(hidden_sizes=(8,), noise_correlation=0.8 if env_id == "Pendulum-v1" else 0.0),
        critic=CriticConfig(hidden_sizes=(8,), epochs=3, minibatch_size=10),
        record=RecordConfig(progress=False),
        run=RunConfig(steps_per_iteration=40, evaluation_episodes=3),
    )


def first_rollout(env_id, backend):
    """The rollout that warms the statistics up, and what they become."""
    trainer = Trainer(config(env_id, backend))
    try:
        rollout = trainer.collector.collect(copy.deepcopy(trainer.agent))
    finally:
        trainer.close()
    return {name: value for name, value in rollout._asdict().items() if isinstance(value, torch.Tensor)}


def iterations():
    """Two iterations after the warm-up: the messages of each, θ, and an evaluation."""
    trainer = Trainer(config())
    try:
        trainer.warm_up()
        warm = trainer.agent.normalizer.moments.mean.clone()
        counted = []
        for _ in range(2):
            with counting() as sent:
                iteration = trainer.iterate()
            counted.append({**sent, "cg_iterations": iteration.step.cg_iterations})
            counted[-1]["candidates"] = iteration.step.backtracks + 1
        return {
            "warm": warm,
            "sent": counted,
            "env_steps": trainer.env_steps,
            "fingerprint": iteration.row["fingerprint"],
            "theta": flatten(trainer.agent),
            "evaluation": evaluated(trainer),
        }
    finally:
        trainer.close()


def with_memory(minibatch_size):
    """Two iterations of a policy and a critic with memory: figures, θ, and what is carried on at the end.

    Forty steps of five environments, so that one of several ranks has one or two segments.
    """
    plain = config()
    policy = dataclasses.replace(plain.policy, memory="gru", memory_size=6, memory_inputs=("action", "reward"))
    critic = dataclasses.replace(plain.critic, memory="gru", memory_size=6, minibatch_size=minibatch_size)
    trainer = Trainer(dataclasses.replace(plain, policy=policy, critic=critic))
    try:
        trainer.warm_up()
        figures = [trainer.iterate().row for _ in range(2)]
        return {"figures": figures, "theta": flatten(trainer.agent), "carried": trainer.collector.recall.state()}
    finally:
        trainer.close()


def spread():
    """The figures of a σ that is of the state, after one iteration: each rank sees other states."""
    plain = config("Pendulum-v1")
    trainer = Trainer(dataclasses.replace(plain, policy=dataclasses.replace(plain.policy, std="state")))
    try:
        row = trainer.iterate().row
        return {name: row[f"policy/{name}"] for name in ("std_mean", "std_min")}
    finally:
        trainer.close()


@contextmanager
def counting():
    """Count the messages sent meanwhile, by function."""
    sent, before = Counter(), {name: getattr(torch.distributed, name) for name in MESSAGES}

    def counted(name):
        def send(*arguments, **options):
            sent[name] += 1
            return before[name](*arguments, **options)

        return send

    for name in MESSAGES:
        setattr(torch.distributed, name, counted(name))
    try:
        yield sent
    finally:
        for name in MESSAGES:
            setattr(torch.distributed, name, before[name])


def work():
    """Everything, by name."""
    names = ("gaussian", "multi_categorical")
    forms = [(name, fisher, size) for name in names for fisher in ("gauss_newton", "hessian") for size in (0, 3)]
    _, observations, returns = critic_problem()
    return {
        "objective": {form: objective(*form) for form in forms},
        "step": {form: step(*form) for form in forms},
        **profile(),
        "judgement": {size: judgement("gaussian", size) for size in (0, 3)},
        "advantages": standardize(mine(7 + normal(SAMPLES, seed=8)))[0],
        "statistics": statistics(),
        "assess": list(assess(critic_problem()[0], observations, returns)),
        "fit": {size: fit(size) for size in (SAMPLES, 5, 1)},
        "small_cases": small_cases(),
        "disagreement": disagreement(),
        "rollout": {name: first_rollout(*name) for name in (("CartPole-v1", "sync"), ("Pendulum-v1", "sync"))},
        "iterations": iterations(),
        "memory": {size: with_memory(size) for size in (10, 40)},
        "spread": spread(),
    }


def be_rank(number, ports, folder):
    """Be one of the ranks of each number of ranks that has a port, one after the other."""
    for count, port in ports.items():
        if number < count:
            os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_PORT": str(port)}
            with ranks.joined():
                torch.save(work(), Path(folder, f"{count}_{number}"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ |= {"RANK": sys.argv[1], "LOCAL_RANK": sys.argv[1], "MASTER_ADDR": "127.0.0.1"}
    be_rank(
        int(sys.argv[1]),
        json.loads(sys.argv[2], object_hook=lambda ports: {int(k): v for k, v in ports.items()}),
        sys.argv[3],
    )
