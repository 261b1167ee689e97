"""Numbers of a whole optimizer batch that some losses need, computed without gradient before its first micro-batch, so that
neither accumulation nor the number of processes changes them. Lists are in the batch's order, fp64."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from train.examples import Example
from train.objectives.compared import Compared


class RunningMean:
    """BCO's delta: the mean of the rewards beta u and beta v over all prompts so far, this batch's included. Its state is
    part of a checkpoint."""

    def __init__(self, total: float = 0.0, count: int = 0) -> None:
        self.total, self.count = total, count

    def add(self, rewards: Sequence[float]) -> float:
        """The mean after these prompts' rewards."""
        for reward in rewards:
            self.total += reward
        self.count += len(rewards)
        return self.total / self.count


def mean_rewards(compared: Compared, beta: float) -> Tensor:
    """(beta u + beta v) / 2 of each prompt: [B]."""
    return beta * compared.over_pairs((compared.u_KBM + compared.v_KBM) / 2)


def mismatched(batch: Sequence[Example], places: Sequence[Sequence[int]], limit: int) -> list[Example]:
    """Each example's prompt with the chosen and the drawn negatives of the next example of another prompt (after the last comes
    the first), as KTO pairs them; what is longer than `limit` tokens is left out. Of one prompt alone nothing is made."""
    made = []
    for i, example in enumerate(batch):
        others = (j % len(batch) for j in range(i + 1, i + len(batch)))
        j = next((j for j in others if batch[j].prompt_id != example.prompt_id), None)
        answers = [] if j is None else [batch[j].completions[p] for p in (0, *places[j])]
        fitting = [a for a in answers if len(example.prompt) + len(a) <= limit]
        if fitting:
            width, own = len(fitting), example.candidate_ids[:1]  # whose place it takes
            made.append(
                replace(
                    example, completions=fitting, candidate_ids=own * width, origins=["source"] * width, logps=[], labels=[]
                )
            )
    return made


def mean_log_ratio(policy: Sequence[float], reference: Sequence[float]) -> float:
    """KTO's z: the mean log-ratio of mismatched answers, 0 at least (and where none fits)."""
    if not policy:
        return 0.0
    return max(0.0, sum(p - r for p, r in zip(policy, reference, strict=True)) / len(policy))
