"""How far each sampler's gradient is from the sum over the whole pool, and how much it varies: measured, not estimated.

Per prompt the gradients of every candidate's log-prob, G_i, span all of these: with one drawn negative m the loss
-log(e^{r_0} / (e^{r_0} + e^{r_m})) has the gradient beta s(r_m - r_0) (G_m - G_0), and the loss over the whole pool (RNCE with
all candidates, arXiv 2502.04567) has beta sum_m p_m (G_m - G_0), p the softmax of r over the chosen and all. Expectation and
variance over a sampler's draw are then exact sums over the pool, without any draw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from prefdata.models.forward.logprob import grouped_logps
from prefdata.models.loading import load_model
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.results import Results
from train.examples import Example
from train.kernel_scores import tolerance
from train.left_out import LeftOut
from train.processes import SINGLE
from train.run import prepare
from train.settings import TrainingSettings

Vector = npt.NDArray[np.float64]
Chances = Callable[[Vector, Vector, float], Vector]
"""(r [L] of the negatives, their log-probs under the policy [L], how close two r are equal) -> the chance of each to be drawn
[L]."""


def uniform(r: Vector, policy: Vector, tolerance: float) -> Vector:
    """RNCE and DPO."""
    return np.full(len(r), 1 / len(r))


def kernel(r: Vector, policy: Vector, tolerance: float) -> Vector:
    """MC-PO's kernel, weight ratio."""
    return softmax(r)


def largest(r: Vector, policy: Vector, tolerance: float) -> Vector:
    """The ablation max, weight ratio; of equal ones each alike."""
    best = (r >= r.max() - tolerance).astype(np.float64)
    return np.asarray(best / best.sum())


def smallest(r: Vector, policy: Vector, tolerance: float) -> Vector:
    """The ablation min."""
    return largest(-r, policy, tolerance)


def by_policy(beta: float) -> Chances:
    """MC-PO's kernel, weight policy: softmax(beta log pi)."""
    return lambda r, policy, tolerance: softmax(beta * policy)


def softmax(scores: Vector) -> Vector:
    weights: Vector = np.exp(scores - scores.max())
    return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class Compared:
    """A sampler against the whole pool's sum, over prompts. `bias`: squared distance of its expected gradient of a prompt,
    `variance`: of one draw's, both by the squared norm of the whole sum's; `cosine`: of the expected gradients of all prompts
    together."""

    sampler: str
    bias: float
    variance: float
    cosine: float


def compare(
    model: Any, examples: Sequence[Example], settings: TrainingSettings, samplers: dict[str, Chances]
) -> list[Compared]:
    """Every sampler on the examples; `model`: where the policy stands; `settings`: of a run of MC-PO."""
    beta = settings.loss.beta
    sums: dict[str, list[float]] = {name: [0.0, 0.0] for name in samplers}
    norms = 0.0
    totals: dict[str, Any] = dict.fromkeys(["whole", *samplers], 0.0)
    for example in examples:
        logps, gradients = candidate_gradients(model, example)
        r = beta * (logps - np.array(example.logps[0]))
        steps_LD = gradients[1:] - gradients[:1]
        whole = beta * _all_shares(r) @ steps_LD
        norms += float(whole @ whole)
        totals["whole"] = totals["whole"] + whole
        for name, chances in samplers.items():
            each_LD = (beta * _sigmoid(r[1:] - r[0]))[:, None] * steps_LD
            chance = chances(r[1:], logps[1:], tolerance(example, 1, settings))
            expected = chance @ each_LD
            sums[name][0] += float(((expected - whole) ** 2).sum())
            sums[name][1] += float(chance @ ((each_LD - expected) ** 2).sum(1))
            totals[name] = totals[name] + expected
    return [
        Compared(name, bias / norms, variance / norms, _cosine(totals[name], totals["whole"]))
        for name, (bias, variance) in sums.items()
    ]


def candidate_gradients(model: Any, example: Example) -> tuple[Vector, Vector]:
    """Log-probs [1 + L] of the chosen and the negatives, and the gradient of each by all parameters [1 + L, D]."""
    (sums,) = grouped_logps(model, [example.prompt], [example.completions])
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(value, parameters, retain_graph=True) for value in sums]
    flat = [torch.cat([g.flatten() for g in row]).double().numpy() for row in rows]
    return sums.detach().numpy(), np.stack(flat)


def _all_shares(r: Vector) -> Vector:
    """softmax over the chosen and all negatives, less the chosen's: [L]."""
    return softmax(r)[1:]


def _sigmoid(x: Vector) -> Vector:
    return np.asarray(1 / (1 + np.exp(-x)))


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def of_run(recipe: dict[str, Any], run: str, prompts: int) -> list[dict[str, Any]]:
    """At the start of a run of MC-PO and at its end, on its first prompts by id: rows of where, sampler, bias, variance,
    cosine."""
    results = Results(validate_recipe(recipe, recipe["name"]), {})
    prepared = prepare(results, run, SINGLE, LeftOut())
    examples = sorted(prepared.data, key=lambda e: e.id)[:prompts]
    beta = prepared.settings.loss.beta
    samplers = {"random": uniform, "kernel": kernel, "kernel, weight policy": by_policy(beta), "max": largest, "min": smallest}
    # on the CPU: a backward per candidate of one graph is refused by compiled attention
    points = {"start": prepared.model.cpu(), "end of MC-PO": load_model(results.model_path(f"run:{run}")).cpu()}
    return [
        {"where": where, **vars(found)}
        for where, model in points.items()
        for found in compare(model, examples, prepared.settings, samplers)
    ]
