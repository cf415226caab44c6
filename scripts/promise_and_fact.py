"""What do policy steps promise, and what does the next batch say that they kept? Real runs, tasks × seeds.

    python scripts/promise_and_fact.py --runs runs/promise              # the table and the figure of docs/promise.md
    python scripts/promise_and_fact.py --runs runs/promise --estimates  # how much the judge depends on λ and on V
    python scripts/promise_and_fact.py --runs runs/promise --surrogates score --tasks ant  # the table of a few, printed

Writes scripts/results/promise.md and promise.png; with --estimates, promise_estimates.md. Runs that are there already
are not repeated. Two at a time, each on one core: on two a quarter of an hour for `score`, an hour for `pathwise`.
"""

import argparse
import copy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
from benchmark_memory import finished
from matplotlib.figure import Figure

from trpo.batch import make_batch
from trpo.config import Config, EnvConfig, RunConfig, TrustRegionConfig
from trpo.numerics.ratio import ratio_of_sums
from trpo.record.promises import KEPT, SPREAD, PerRootNat, per_root_nat
from trpo.record.runs import Rows, Run, read_run
from trpo.system.laps import Laps
from trpo.trainer import Trainer
from trpo.update.promise import Judgement, judge

RESULTS = Path(__file__).parent / "results"
TASKS = ("halfcheetah", "hopper", "walker2d", "ant", "humanoid")
SEEDS = (0, 1, 2)
STEPS = 250_000
COMMON = ("record.progress=false", "env.backend=envpool", "env.pin=false")
SETTINGS = {
    "score": (  # the first quarter of a million steps, as δ falls over a whole run
        *(f"run.total_steps={STEPS}", "trust_region.anneal=0.225"),
        *("run.evaluation_episodes=0", "record.profile_every=10"),
    ),
    "pathwise": (  # whole runs
        *("surrogate=pathwise", "run.total_steps=300000", "run.evaluate_every=0", "record.profile_every=0"),
    ),
}


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are, or will be")
    parser.add_argument("--surrogates", nargs="+", choices=SETTINGS, default=[*SETTINGS], help="(default: both)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--estimates", action="store_true", help="judge by other advantages as well")
    arguments = parser.parse_args()
    if arguments.estimates:
        write("promise_estimates.md", estimates(("HalfCheetah-v5", "Hopper-v5", "Ant-v5", "Humanoid-v5")))
        return
    jobs = list(product(arguments.surrogates, arguments.tasks, SEEDS))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: train(arguments.runs, *job), jobs))
    found = {
        (surrogate, task): [read_run(directory(arguments.runs, surrogate, task, seed)) for seed in SEEDS]
        for surrogate, task in product(arguments.surrogates, arguments.tasks)
    }
    if {*found} != {*product(SETTINGS, TASKS)}:
        print(table(found))  # the page that is kept is of all of them
        return
    write("promise.md", table(found))
    draw(found).savefig(RESULTS / "promise.png", dpi=110)


def directory(runs: Path, surrogate: str, task: str, seed: int) -> Path:
    """Return where a run is."""
    return runs / surrogate / task / str(seed)


def train(runs: Path, surrogate: str, task: str, seed: int) -> None:
    """Train one agent, or what is left of it to train."""
    target = directory(runs, surrogate, task, seed)
    if finished(target):
        return
    command = [
        sys.executable,
        "-m",
        "trpo",
        f"task={task}",
        f"seed={seed}",
        *COMMON,
        *SETTINGS[surrogate],
        f"hydra.run.dir={target}",
        "run.resume=auto",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def judged_in(runs: list[Run]) -> Rows:
    """Return the iterations of all seeds that judge a step, up to the one in which `STEPS` is reached."""
    return [
        row
        for run in runs
        for row, before in zip(run.rows, [None, *run.rows], strict=False)
        if KEPT in row and (before is None or before["env_steps"] < STEPS)
    ]


def gains_of(runs: list[Run]) -> PerRootNat:
    """Return the gains per √nat of all seeds together."""
    gains = per_root_nat(judged_in(runs))
    assert gains is not None
    return gains


def per_thousand_steps(runs: list[Run]) -> str:
    """Return what was kept in a thousand environment steps, in standard deviations of the advantage, as a cell."""
    rows = judged_in(runs)
    samples = runs[0].config["run.steps_per_iteration"]
    gains = ratio_of_sums([row[KEPT] for row in rows], [row[SPREAD] * samples / 1_000 for row in rows])
    assert gains is not None
    return f"{gains[0]:.4f} ± {gains[1]:.4f}"


def table(found: dict[tuple[str, str], list[Run]]) -> str:
    """Return promised and kept per √nat, and the two halves of a batch, as a Markdown table."""
    lines = [
        f"The first {STEPS:,} steps, {len(SEEDS)} seeds together; gains in standard deviations of the advantage,",
        "per √nat of KL and, last, per 1,000 environment steps, ± one standard error. *By halves*: at every tenth",
        "iteration, a step chosen on half of the batch, judged by the other half, at a relative damping of 0.03; the",
        "cosine is that of the halves' gradients.\n",
        "| environment | surrogate | judged | promised | kept | share kept | by halves: promised, kept | cosine "
        "| kept per 1,000 steps |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (surrogate, _), runs in found.items():
        gains = gains_of(runs)
        share = f"{gains.kept / gains.promised:.1%}" if gains.told_apart else "not told apart from zero"
        judged = len(judged_in(runs))
        lines.append(
            f"| {runs[0].config['env.id']} | {surrogate} | {judged} "
            f"| {gains.promised:.2f} | {gains.kept:.4f} ± {gains.error:.4f} | {share} "
            f"| {by_halves(runs)} | {per_thousand_steps(runs)} |"
        )
    return "\n".join(lines)


def by_halves(runs: list[Run]) -> str:
    """Return two cells: what halves promise each other and keep, and the cosine of their gradients."""
    halves = [halves for run in runs for profile in run.profiles if (halves := profile["halves"])]
    if not halves:  # action values have seen both
        return "– | –"
    at = halves[0]["relative_dampings"].index(0.03)
    promised, kept = (np.array([half[name][at] for half in halves]) for name in ("promised", "kept"))
    error = kept.std(ddof=1) / len(kept) ** 0.5
    return (
        f"{promised.mean():.2f}, {kept.mean():.4f} ± {error:.4f} | {np.mean([half['cosine'] for half in halves]):.2f}"
    )


def draw(found: dict[tuple[str, str], list[Run]]) -> Figure:
    """Return a bar for what each environment's steps promise, and in it what they keep."""
    figure = Figure(figsize=(9, 1.4 + 0.62 * len(found)), layout="constrained")
    panel = figure.subplots()
    several = len({surrogate for surrogate, _ in found}) > 1
    names = []
    for height, ((surrogate, _), runs) in enumerate(found.items()):
        gains = gains_of(runs)
        names.append(f"{runs[0].config['env.id']}{f', {surrogate}' if several else ''}")
        panel.barh(height, gains.promised, color="tab:orange", alpha=0.35, label="promised" if height == 0 else None)
        panel.barh(height, gains.kept, color="tab:blue", label="kept" if height == 0 else None)
        panel.errorbar(gains.kept, height, xerr=2 * gains.error, color="black", capsize=3, linewidth=1)
        share = f"{gains.kept / gains.promised:.1%} kept" if gains.told_apart else "kept: not told apart from zero"
        panel.text(gains.promised * 1.01, height, f" {share}", va="center", fontsize="small")
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlim(0, 1.3 * max(gains_of(runs).promised for runs in found.values()))
    panel.set(xlabel="gain of the surrogate per √nat of KL, standard deviations of the advantage")
    panel.set_title("What a policy step promises, and what the next batch finds of it")
    panel.legend(loc="lower right", fontsize="small")
    panel.grid(alpha=0.3, axis="x")
    return figure


def estimates(environments: tuple[str, ...]) -> str:
    """Return what is kept by three estimates of the judging batch's advantages, as a Markdown table."""
    lines = [
        "The same steps judged three times: with the advantages that the next step uses (λ 0.95), with λ = 1, and with",
        "the value function from before it saw the batch that chose the step. "
        f"{STEPS:,} steps, {len(SEEDS)} seeds; kept per √nat ± one standard error.\n",
        "| environment | as logged | λ = 1 | V from before |",
        "| --- | ---: | ---: | ---: |",
    ]
    for environment in environments:
        judged = [judge_thrice(environment, seed) for seed in SEEDS]
        columns = [[one for run in judged for one in run[name]] for name in ("logged", "whole", "before")]
        lines.append(f"| {environment} | " + " | ".join(kept_by(column, columns[0]) for column in columns) + " |")
    return "\n".join(lines)


def kept_by(judgements: list[Judgement], logged: list[Judgement]) -> str:
    """Return what was kept per √nat in the unit of what is logged, and by how much less that is, step by step."""
    spent = [one.spent for one in logged]
    gains = ratio_of_sums([one.improvement_kept for one in judgements], spent)
    pairs = zip(logged, judgements, strict=True)
    less = ratio_of_sums([one.improvement_kept - other.improvement_kept for one, other in pairs], spent)
    assert gains is not None
    assert less is not None
    difference = "" if judgements is logged else f" (less by {less[0]:.4f} ± {less[1]:.4f})"
    return f"{gains[0]:.4f} ± {gains[1]:.4f}{difference}"


def judge_thrice(environment: str, seed: int) -> dict[str, list[Judgement]]:
    """Return the judgements of one run's steps by each of the three estimates."""
    config = Config(
        seed=seed,
        env=EnvConfig(id=environment, backend="envpool", pin=False),
        run=RunConfig(total_steps=STEPS),
        trust_region=TrustRegionConfig(anneal=0.225),
    )
    trainer, judged = Trainer(config), {"logged": [], "whole": [], "before": []}  # type: ignore[var-annotated]
    trainer.warm_up()
    before = copy.deepcopy(trainer.agent.critic)  # has not seen the batch that chose the last step
    while not trainer.finished:
        rollout = trainer.collect()
        if (promise := trainer.judge.promise) is not None:
            for name, lam, critic in (
                ("logged", config.advantage.lam, None),
                ("whole", 1.0, None),
                ("before", config.advantage.lam, before),
            ):
                agent = copy.copy(trainer.agent)
                agent._modules = {**trainer.agent._modules, "critic": critic or trainer.agent.critic}
                batch = make_batch(agent, rollout, gamma=config.advantage.gamma, lam=lam, normalize=True)
                found = judge(agent.policy, batch, promise, reward_std=agent.reward_std)
                assert found is not None
                judged[name].append(found)
        before = copy.deepcopy(trainer.agent.critic)
        trainer.learn(rollout, Laps())
    trainer.close()
    return judged


def write(name: str, text: str) -> None:
    """Write one page of results."""
    (RESULTS / name).write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
