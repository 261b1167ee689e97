"""What is wrong with the settings of a run, whatever it is part of: a recipe, a file, or `fit`."""

from collections.abc import Sequence

from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.registry import ON_LABELS, objective_of
from train.settings import UNPAIRED, TrainingSettings


def mistakes(run: TrainingSettings, objective: str, references: Sequence[str]) -> list[str]:
    """One line a mistake. `references`: the names of those that it compares with."""
    row, problems = objective_of(objective, run.set == UNPAIRED), list[str]()
    if run.set == UNPAIRED and objective not in ON_LABELS:
        problems.append(
            f"{objective} needs a chosen answer of each prompt, or a pair: set unpaired has labelled answers alone, which "
            f"{', '.join(ON_LABELS)} trains on"
        )
    if run.references.weights != "per_example" and row.references not in ("virtual", "each"):
        problems.append(f"references.weights weighs several references, {objective} compares with {row.references}")
    if row.references in ("virtual", "each") and len(references) < 2:
        problems.append(f"{objective} combines two references or more, score.references has {len(references)}")
    negatives = run.negatives
    if negatives.count > 1 and NEGATIVES[row.negatives].draws(negatives.count) != negatives.count:
        problems.append(f"negatives.count has no effect: {objective} does not draw that many")
    if row.negatives != "kernel" and (negatives.steps > 1 or negatives.proposals is not None or negatives.include_chosen):
        problems.append(f"negatives.steps, proposals and include_chosen are the kernel's, {objective} has none")
    if (negatives.steps > 1 or negatives.proposals is not None) and negatives.count > 1 and not negatives.replacement:
        problems.append(
            f"the {negatives.count} kernel chains may draw the same candidate: "
            "set negatives.replacement: true, which counts repeats"
        )
    need = LOSSES[row.loss].needs
    if need == "smoothing" and not run.loss.label_smoothing:
        problems.append(f"{objective} is infinite at loss.label_smoothing 0: give a small one, 0.001 by default")
    if need == "mismatched" and run.batch_prompts < 2:
        problems.append(f"{objective} compares with answers of other prompts of the batch: batch_prompts of 2 at least")
    if run.references.alpha is not None and len(run.references.alpha) != len(references):
        problems.append(f"references.alpha has {len(run.references.alpha)} weights for {len(references)} references")
    if run.references.weight_order == "repo" and len(references) != 2:
        problems.append(f"references.weight_order: repo is defined for two references, not {len(references)}")
    return problems
