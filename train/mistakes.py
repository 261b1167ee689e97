"""What is wrong with the settings of a run, whatever it is part of: a recipe, a file, or `fit`."""

from collections.abc import Collection, Sequence

from train.objectives.keys import read_of
from train.objectives.losses import LOSSES
from train.objectives.registry import ON_LABELS, Objective, objective_of
from train.settings import UNPAIRED, TrainingSettings

SECTIONS = ("loss", "negatives", "references")
"""Those of which an objective reads some keys and others not."""


def given(run: TrainingSettings) -> set[str]:
    """The keys of sections that people's own settings give, before defaults are filled in: section.key."""
    sections = {name: getattr(run, name) for name in (*SECTIONS, "evaluation")}
    return {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields_set}


def mistakes(run: TrainingSettings, objective: str, references: Sequence[str], given: Collection[str]) -> list[str]:
    """One line a mistake. `references`: the names of those that it compares with; `given`: the keys that people's own settings
    give, of which none may be without effect."""
    row = objective_of(objective, run.set == UNPAIRED)
    problems = _without_effect(run, objective, row, given)
    if run.set == UNPAIRED and objective not in ON_LABELS:
        problems.append(
            f"{objective} needs a chosen answer of each prompt, or a pair: set unpaired has labelled answers alone, which "
            f"{', '.join(ON_LABELS)} trains on"
        )
    if row.references in ("virtual", "each") and len(references) < 2:
        problems.append(f"{objective} combines two references or more, score.references has {len(references)}")
    negatives = run.negatives
    chains = row.negatives == "kernel" and (negatives.steps > 1 or negatives.proposals is not None)
    if chains and negatives.count > 1 and not negatives.replacement:
        problems.append(
            f"the {negatives.count} kernel chains may draw the same candidate: "
            "set negatives.replacement: true, which counts repeats"
        )
    need = LOSSES[row.loss].needs
    if need == "smoothing" and not run.loss.label_smoothing:
        problems.append(f"{objective} is infinite at loss.label_smoothing 0: give a small one, 0.001 by default")
    if need == "mismatched" and run.batch_prompts < 2:
        problems.append(f"{objective} compares with answers of other prompts of the batch: batch_prompts of 2 at least")
    several = row.references in ("virtual", "each")
    if several and run.references.alpha is not None and len(run.references.alpha) != len(references):
        problems.append(f"references.alpha has {len(run.references.alpha)} weights for {len(references)} references")
    if several and run.references.weight_order == "repo" and len(references) != 2:
        problems.append(f"references.weight_order: repo is defined for two references, not {len(references)}")
    return problems


def _without_effect(run: TrainingSettings, objective: str, row: Objective, given: Collection[str]) -> list[str]:
    """A line for each given key that nothing reads."""
    declared = {f"{section}.{key.name}": key for section in SECTIONS for key in row.reads[section]}
    read = {f"{section}.{name}" for section in SECTIONS for name in read_of(row.reads[section], getattr(run, section))}
    listed = ", ".join(sorted(read)) or f"no key of {', '.join(SECTIONS)}"
    who = f"{objective} on labelled answers" if run.set == UNPAIRED else objective
    problems = []
    for name in sorted(given):
        if name.startswith("evaluation."):
            if run.evaluation.every is None and name != "evaluation.every":
                problems.append(f"{name} has no effect without evaluation.every")
        elif name not in read:
            where = f" but {declared[name].where}" if name in declared else ""
            problems.append(f"{name} has no effect{where}: {who} reads {listed}")
    return problems
