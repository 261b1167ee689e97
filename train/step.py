"""One micro-batch: the MC-PO step and every simpler one.

Prefix forward once with graph; where the sampler weighs candidates, the rejected ones without grad against the
detached prefix; select; the chosen and the distinct negatives with grad on the same prefix; one backward outside.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefdata.errors import EngineError
from prefdata.models.forward import logprob
from train import kernel_scores
from train.batch_statistics import RunningMean, mean_log_ratio, mean_rewards, mismatched
from train.examples import Example, micro_batches
from train.lockstep import InStep, Slot, even
from train.metrics import Metrics
from train.micro_batch import Forward, Rows, forward_of, pool_calls, shares
from train.objectives.compared import Compared
from train.objectives.losses import LOSSES, Terms
from train.objectives.negatives import NEGATIVES, Draw, Picked, Vector, effective_size
from train.objectives.references import REFERENCES
from train.objectives.registry import Objective
from train.processes import SINGLE, World
from train.settings import TrainingSettings


@dataclass(frozen=True)
class Step:
    """What stays the same over a run. `reference`: the primary one as a model, for losses that score what no table holds;
    `limit`: how many tokens a row may have."""

    objective: Objective
    settings: TrainingSettings
    seed: int
    reference: Any = None
    limit: int = 2**20

    def micro_batches(self, batch: Sequence[Example]) -> Iterator[list[Example]]:
        """The batch in forwards, by the tokens that are trained on."""
        most = NEGATIVES[self.objective.negatives].draws(self.settings.negatives.count)
        return micro_batches(batch, self.settings.micro_tokens, most)

    def slot(self, model: Any, batch: Sequence[Example]) -> Slot:
        """The calls that a micro-batch takes."""
        first = NEGATIVES[self.objective.negatives].starts_at(self.settings.negatives.include_chosen)
        return Slot(shares(model, batch), pool_calls(model, batch, first) if any(self._free(batch)) else 0)

    def values(
        self,
        model: Any,
        batch: Sequence[Example],
        epoch: int | None,
        metrics: Metrics,
        shift: float = 0.0,
        forward: Forward | InStep | None = None,
    ) -> Terms:
        """The loss's terms [B], fp64 with graph, by what the loop divides their sum by. `epoch`: None draws as the set alone
        says, the same in every run; `shift`: the optimizer batch's; `forward`: the batch's, where the caller has it."""
        compared, picked = self._compared(forward or forward_of(model, batch), batch, epoch, metrics)
        self._observe(batch, picked, compared.chosen_B, compared.rejected_BM, metrics)
        return LOSSES[self.objective.loss].function(replace(compared, shift=shift), self.settings.loss)

    def shift(
        self, model: Any, batch: Sequence[Example], epoch: int, running: RunningMean, world: World = SINGLE
    ) -> float | None:
        """The number of the whole optimizer batch that the loss needs (bco's delta, kto's z), without gradient; else None.
        Each rank computes its part."""
        need = LOSSES[self.objective.loss].needs
        if need not in ("mean_reward", "mismatched"):
            return None
        with torch.no_grad():
            if need == "mean_reward":
                rewards = _together(world, self._rewards(model, world.share(batch), epoch, world))
                return running.add([rewards[e.id] for e in batch])
            # places alone: the samplers of such objectives need no policy
            places = [p for p, _ in self._select(Rows(model, batch), batch, epoch, Metrics())]
            others = mismatched(batch, places, self.limit)
            own = world.share(others)
            policy, reference = (_together(world, self._sums(m, own, world)) for m in (model, self.reference))
            flat = [[s for e in others for s in sums[e.id]] for sums in (policy, reference)]
            return mean_log_ratio(*flat)

    def _rewards(self, model: Any, batch: Sequence[Example], epoch: int, world: World) -> dict[str, float]:
        """Of each example, however the batch is cut."""
        found: dict[str, float] = {}
        cut = list(self.micro_batches(batch))
        with even(model, world, sum(self.slot(model, micro).calls for micro in cut)):
            for micro in cut:
                compared, _ = self._compared(forward_of(model, micro), micro, epoch, Metrics())
                rewards = mean_rewards(compared, self.settings.loss.beta).tolist()
                found |= zip((e.id for e in micro), rewards, strict=True)
        return found

    def _sums(self, model: Any, batch: Sequence[Example], world: World) -> dict[str, list[float]]:
        """Log-probs of each example's completions, however the batch is cut."""
        found: dict[str, list[float]] = {}
        cut = list(micro_batches(batch, self.settings.micro_tokens))
        with even(model, world, sum(Slot(shares(model, micro)).calls for micro in cut)):
            for micro in cut:
                sums = logprob.grouped_logps(model, [e.prompt for e in micro], [e.completions for e in micro])
                found |= {e.id: s.tolist() for e, s in zip(micro, sums, strict=True)}
        return found

    def _compared(
        self, forward: Forward | InStep, batch: Sequence[Example], epoch: int | None, metrics: Metrics
    ) -> tuple[Compared, list[Picked]]:
        picked = self._select(forward, batch, epoch, metrics)
        chosen_B, rejected_BM = forward.trained([places for places, _ in picked])
        return self._compare(batch, picked, chosen_B, rejected_BM), picked

    def _free(self, batch: Sequence[Example]) -> list[bool]:
        """Of each example whether the policy weighs its candidates: where all are drawn anyway no weight is needed."""
        sampler, settings = NEGATIVES[self.objective.negatives], self.settings.negatives
        if not sampler.needs_policy:
            return [False] * len(batch)
        first = sampler.starts_at(settings.include_chosen)
        return [settings.replacement or bool(settings.proposals) or len(e.completions) - first > settings.count for e in batch]

    def _select(self, forward: Forward | InStep, batch: Sequence[Example], epoch: int | None, metrics: Metrics) -> list[Picked]:
        """Places (0 only by `include_chosen`) of the drawn negatives in each example, and their counts."""
        sampler, settings = NEGATIVES[self.objective.negatives], self.settings.negatives
        seed, visit = (None, 0) if settings.redraw != "epoch" or epoch is None else (self.seed, epoch)
        first = sampler.starts_at(settings.include_chosen)
        draw = Draw(seed, visit, settings.count, settings.replacement, settings.steps, settings.proposals)
        free = self._free(batch)
        policy = forward.weighed(first) if any(free) else None
        picked = []
        for i, example in enumerate(batch):
            ids = example.candidate_ids[first:]
            scores = np.zeros(len(ids))
            if policy is not None:
                scores = kernel_scores.scores(example, policy[i], first, self.objective.references, self.settings)
                draw = replace(draw, tolerance=kernel_scores.tolerance(example, first, self.settings))
            try:
                places, counts = sampler.select(scores, ids, draw)
            except ValueError as error:
                raise EngineError(str(error), f"prompt {example.prompt_id}", "look at its stored log-probs") from error
            places = [p + first for p in places]
            picked.append((places, counts))
            if places:
                # by the prompt alone, so that how a batch is cut changes no metric
                self._observe_draw(example, places, counts, scores if free[i] else None, metrics)
        return picked

    def _compare(self, batch: Sequence[Example], picked: list[Picked], chosen_B: Tensor, rejected_BM: Tensor) -> Compared:
        device, (rows, width) = chosen_B.device, rejected_BM.shape
        references = max(len(batch[0].logps), 1)
        reference_KBM = torch.zeros(references, rows, width, dtype=torch.float64, device=device)
        first_KBM = torch.zeros_like(reference_KBM)
        counts_BM = torch.zeros(rows, width, dtype=torch.float64, device=device)
        lengths_BM = torch.ones_like(counts_BM)
        for b, (example, (places, counts)) in enumerate(zip(batch, picked, strict=True)):
            lengths_BM[b, : len(places)] = torch.tensor([len(example.completions[p]) for p in places], dtype=torch.float64)
            counts_BM[b, : len(places)] = torch.tensor(counts, dtype=torch.float64)
            for k, logps in enumerate(example.logps):
                reference_KBM[k, b, : len(places)] = torch.tensor([logps[p] for p in places], dtype=torch.float64)
                first_KBM[k, b, : len(places)] = logps[0]
        views = REFERENCES[self.objective.references].views(first_KBM, reference_KBM, self.settings.references)
        tokens = torch.tensor([len(e.completions[0]) for e in batch], dtype=torch.float64, device=device)
        labels = _labels(batch, picked, counts_BM)
        compared = Compared(chosen_B, rejected_BM, *views, counts_BM, tokens, lengths_BM, *labels)
        return compared if batch[0].desirable is None else _labelled(compared, batch)

    def _observe_draw(
        self, example: Example, places: list[int], counts: list[int], scores: Vector | None, metrics: Metrics
    ) -> None:
        drawn, total = list(zip(places, counts, strict=True)), sum(counts)
        lengths = [len(c) for c in example.completions[1:]]
        short = sum(n for p, n in drawn if p and lengths[p - 1] == min(lengths))
        metrics.add("draw_shortest", short, total)
        for origin in ("source", "generated", "noise"):
            metrics.add(f"draw_{origin}", sum(n for p, n in drawn if p and example.origins[p] == origin), total)
        if self.settings.negatives.include_chosen:
            metrics.add("draw_chosen", sum(n for p, n in drawn if not p), total)
        if scores is not None:
            metrics.add("ess", effective_size(scores), 1)
            metrics.add("ess_share", effective_size(scores) / len(scores), 1)

    def _observe(
        self, batch: Sequence[Example], picked: list[Picked], chosen_B: Tensor, rejected_BM: Tensor, metrics: Metrics
    ) -> None:
        """Accuracy and margin (nats, beta included) under the primary reference; ties count for neither."""
        chosen_B, rejected_BM = chosen_B.detach(), rejected_BM.detach()
        if batch[0].desirable is not None:
            self._observe_labelled(batch, chosen_B, metrics)
            return
        metrics.add("chosen_logp", float(chosen_B.sum()), len(batch))
        if not batch[0].logps:
            return
        for b, (example, (places, _)) in enumerate(zip(batch, picked, strict=True)):
            first = float(chosen_B[b]) - example.logps[0][0]
            for m, place in enumerate(places):
                margin = self.settings.loss.beta * (first - float(rejected_BM[b, m]) + example.logps[0][place])
                metrics.add("margin", margin, 1)
                metrics.add("accuracy", float(margin > 0), float(margin != 0))

    def _observe_labelled(self, batch: Sequence[Example], answers_B: Tensor, metrics: Metrics) -> None:
        """Mean rewards of either label (nats, beta included) under the primary reference, log-probs of the desirable."""
        for example, logp in zip(batch, answers_B.tolist(), strict=True):
            reward, good = self.settings.loss.beta * (logp - example.logps[0][0]), bool(example.desirable)
            metrics.add("chosen_logp", logp * good, good)
            metrics.add("reward_desirable", reward * good, good)
            metrics.add("reward_undesirable", reward * (not good), not good)


def _together(world: World, found: dict[str, Any]) -> dict[str, Any]:
    """Of all ranks, by example."""
    return {example: value for part in world.gathered(found) for example, value in part.items()}


def _labels(batch: Sequence[Example], picked: Sequence[Picked], like_BM: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Scores or win probabilities of the chosen [B] and of the picked [B, M], where the examples carry them."""
    if not batch[0].labels:
        return None, None
    rejected_BM = torch.zeros_like(like_BM)
    for b, (example, (places, _)) in enumerate(zip(batch, picked, strict=True)):
        rejected_BM[b, : len(places)] = torch.tensor([example.labels[p] for p in places], dtype=torch.float64)
    return rejected_BM.new_tensor([e.labels[0] for e in batch]), rejected_BM


def _labelled(compared: Compared, batch: Sequence[Example]) -> Compared:
    """With the primary reference's log-probs and the labels of answers alone: [B] each."""
    device = compared.chosen_B.device
    reference = torch.tensor([e.logps[0][0] for e in batch], dtype=torch.float64, device=device)
    return replace(compared, reference_B=reference, desirable_B=torch.tensor([e.desirable for e in batch], device=device))
