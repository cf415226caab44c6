"""Would a preconditioner make ten Fisher products worth more? Real batches, three ways to solve for the step.

    python scripts/preconditioners.py

For each task and iteration, after as many products as the configuration has: ‖g − (F + damping·I)x‖ / ‖g‖, and
gᵀx/√(xᵀFx), the first-order gain per √KL, as a share of the exact solution's. `diagonal` divides by that of F,
`kfac` by a Kronecker product for each layer (Martens and Grosse 2015, arXiv:1503.05671, sections 3 and 6.3), both
of F as it is at θ_old. Writes scripts/results/preconditioners.md; five minutes.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trpo.batch import Batch, make_batch
from trpo.config import Config, EnvConfig, RunConfig
from trpo.models.gaussian_policies import GaussianPolicy
from trpo.numerics.conjugate_gradient import dot
from trpo.trainer import Trainer
from trpo.update.objective import Objective
from trpo.update.trust_region import rayleigh_quotient

TASKS = ("HalfCheetah-v5", "Hopper-v5", "Ant-v5")
ITERATIONS = (5, 50, 150)
LONG = 400  # products of the solution that counts as exact

Apply = Callable[[Tensor], Tensor]


class Solved(NamedTuple):
    """An approximate solution x (P,) of (F + damping·I)x = g."""

    residual: float  # relative, true
    gain: float  # gᵀx/√(xᵀFx)


def main() -> None:
    """Print and write the table."""
    lines = ["| task | iteration | solve | residual | gain per √KL |", "| --- | ---: | --- | ---: | ---: |"]
    for task in TASKS:
        for line in measured(task):
            print(line, flush=True)
            lines.append(line)
    text = "Ten Fisher products, the defaults' damping (`scripts/preconditioners.py`).\n\n" + "\n".join(lines) + "\n"
    (Path(__file__).parent / "results" / "preconditioners.md").write_text(text)


def measured(task: str) -> Iterator[str]:
    """Yield the table's lines for a task."""
    config = Config(env=EnvConfig(id=task, backend="envpool", pin=False), run=RunConfig(evaluation_episodes=0))
    with closing(Trainer(config)) as trainer:
        trainer.warm_up()
        while trainer.iteration <= max(ITERATIONS):
            if trainer.iteration in ITERATIONS:
                batch = make_batch(trainer.agent, trainer.collect(), gamma=0.99, lam=0.95, normalize=True)
                found = solves(trainer.agent.policy, batch, config)
                exact = found.pop("exact").gain
                for name, one in found.items():
                    share = f"{100 * one.gain / exact:.0f} %"
                    yield f"| {task} | {trainer.iteration} | {name} | {100 * one.residual:.1f} % | {share} |"
            trainer.iterate()


def solves(policy: Any, batch: Batch, config: Config) -> dict[str, Solved]:
    """Return what each way of solving comes to."""
    objective, settings = Objective(policy, batch), config.trust_region
    g = objective.gradient()
    damping = settings.relative_damping * rayleigh_quotient(g, objective.fisher_product(g))

    def product(v: Tensor) -> Tensor:
        return objective.fisher_product(v) + damping * v

    def solved(apply: Apply, products: int) -> Solved:
        x = preconditioned(product, g, apply, products)
        damped = product(x)
        curvature = dot(x, damped) - damping * dot(x, x)
        return Solved(float((g - damped).norm() / g.norm()), dot(g, x) / curvature**0.5)

    factors = Factors(policy, batch)
    return {
        "none": solved(lambda r: r, settings.cg_iterations),
        "diagonal": solved(factors.diagonal(damping), settings.cg_iterations),
        "kfac": solved(factors.kfac(damping), settings.cg_iterations),
        "exact": solved(lambda r: r, LONG),
    }


def preconditioned(product: Apply, g: Tensor, apply: Apply, products: int) -> Tensor:
    """Return x ≈ A⁻¹g by preconditioned conjugate gradient (Nocedal & Wright 2006, algorithm 5.3)."""
    x, r = torch.zeros_like(g), g
    y = apply(r)
    p, ry = y, dot(r, y)
    for _ in range(products):
        Ap = product(p)
        alpha = ry / dot(p, Ap)
        x, r = x + alpha * p, r - alpha * Ap
        y = apply(r)
        previous, ry = ry, dot(r, y)
        p = y + ry / previous * p
        if ry == 0.0:
            break
    return x


class Factors:
    """What of F a Gaussian policy's layers give: E[aaᵀ] of their inputs, E[Σ_d M_d ss'ᵀ] of ∂y_d/∂ outputs s.

    The means' rows of M are 1/σ², that of each ρ is 2 (∂ log σ/∂ρ)², which is all of F there.
    """

    def __init__(self, policy: GaussianPolicy, batch: Batch) -> None:
        self.layers = [layer for layer in policy.network if isinstance(layer, nn.Linear)]
        inputs, outputs, h = [], [], batch.observations
        for module in policy.network:
            if isinstance(module, nn.Linear):
                inputs.append(torch.cat([h, torch.ones(len(h), 1)], 1).detach())
                h = module(h)
                outputs.append(h)
            else:
                h = module(h)
        precision = (-2 * policy.log_std().detach()).exp()
        n, size = h.shape
        sensitivities = [
            [grad * precision[d].sqrt() for grad in torch.autograd.grad(h[:, d].sum(), outputs, retain_graph=True)]
            for d in range(size)
        ]
        of_layers = [torch.stack(parts) for parts in zip(*sensitivities, strict=True)]  # (A, N, O) each
        self.inner = [a.T @ a / n for a in inputs]
        self.outer = [torch.einsum("dno,dnp->op", s, s) / n for s in of_layers]
        self.square = [torch.einsum("dno,ni->oi", s**2, a**2) / n for s, a in zip(of_layers, inputs, strict=True)]
        self.rho = 2 * torch.sigmoid(policy.rho.detach()) ** 2
        self.names = [name for name, _ in policy.named_parameters()]
        self.shapes = [parameter.shape for parameter in policy.parameters()]

    def diagonal(self, damping: float) -> Apply:
        """Return division by the diagonal of F, damped."""
        return self._each(lambda layer, block: block / (self.square[layer] + damping), damping)

    def kfac(self, damping: float) -> Apply:
        """Return division by E[aaᵀ] ⊗ E[ss'ᵀ] of each layer, each factor damped by its share of √damping."""
        inverses = []
        for inner, outer in zip(self.inner, self.outer, strict=True):
            share = (float(inner.trace()) / len(inner) / (float(outer.trace()) / len(outer))) ** 0.5
            eye_a, eye_s = torch.eye(len(inner)), torch.eye(len(outer))
            parts = inner + share * damping**0.5 * eye_a, outer + damping**0.5 / share * eye_s
            inverses.append(tuple(torch.linalg.inv(part) for part in parts))
        return self._each(lambda layer, block: inverses[layer][1] @ block @ inverses[layer][0], damping)

    def _each(self, layerwise: Callable[[int, Tensor], Tensor], damping: float) -> Apply:
        def apply(r: Tensor) -> Tensor:
            sizes = [int(shape.numel()) for shape in self.shapes]
            parts = {n: p.view(s) for n, p, s in zip(self.names, r.split(sizes), self.shapes, strict=True)}
            weights = [name for name in self.names if name.endswith("weight")]
            for layer, name in enumerate(weights):
                bias = name.replace("weight", "bias")
                block = layerwise(layer, torch.cat([parts[name], parts[bias].unsqueeze(1)], 1))
                parts[name], parts[bias] = block[:, :-1], block[:, -1]
            parts["rho"] = parts["rho"] / (self.rho + damping)
            return torch.cat([parts[name].reshape(-1) for name in self.names])

        return apply


if __name__ == "__main__":
    main()
