"""What training runs cost in tokens and FLOPs, for `prefdata cost`; nothing is loaded and nothing is run.

A prompt is read once for all of its completions. By parameter and token: 2 FLOPs forward, 2 backward through the activations
and 2 for the weights' gradients (adapters have next to none), 2 more where activations are computed again.
"""

from collections.abc import Mapping, Sequence

from prefdata.kinds import SplitName
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.work import Extent, Phase, Work, candidates, prompts, source_answers
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.registry import Objective, objective_of
from train.resolve import of_set, validate
from train.settings import SFT, UNPAIRED, TrainingSettings

FORWARD, THROUGH, WEIGHTS, AGAIN = 2.0, 2.0, 2.0, 2.0


def work(settings: Settings, extent: Extent) -> tuple[list[Work], dict[str, str]]:
    """Each run's work, and the model that it starts from: a reference, "run:..." or "" for a fresh one. Raises ConfigError."""
    runs = validate(settings)
    starts = {name: run.model or "" for name, run in runs.items()}
    return [_of_run(settings, name, run, extent) for name, run in runs.items()], starts


def _of_run(settings: Settings, name: str, run: TrainingSettings, extent: Extent) -> Work:
    recipe = of_set(settings, run.set)
    row, pool = objective_of(name.partition("/")[0], run.set == UNPAIRED), pool_of(recipe, name, run, extent)
    seen = examples(settings, run, extent)
    most = NEGATIVES[row.negatives].draws(run.negatives.count)
    drawn = pool if most is None else min(float(most), pool)
    read, lengths, model = seen * extent.lengths.shared(1 + drawn), extent.lengths, f"run:{name}"

    def phase(rate: str, tokens: float, flops: float, of: str = model) -> Phase:
        return Phase(rate, tokens, of, flops, run.precision)

    backward = THROUGH + (0 if run.lora else WEIGHTS) + (AGAIN if run.checkpoint_activations else 0)
    phases = [phase("adapt" if run.lora else "train", read, FORWARD + backward)]
    if NEGATIVES[row.negatives].needs_policy and pool > run.negatives.count:
        phases.append(phase("weigh", seen * pool * lengths.completion, FORWARD))
    need = LOSSES[row.loss].needs
    if need in ("mean_reward", "mismatched"):
        phases.append(phase("weigh", read, FORWARD))
    if need == "mismatched":
        phases.append(phase("weigh", read, FORWARD, recipe.score.references[0].model))
    return Work("train", name, seen, "prompts seen", tuple(phases))


def pool_of(recipe: Settings, name: str, run: TrainingSettings, extent: Extent) -> float:
    """Candidates that a prompt's negatives are drawn from; the chosen one is among those of sources and models."""
    row: Objective = objective_of(name.partition("/")[0], run.set == UNPAIRED)
    if row.negatives == "none" or run.set == SFT:
        return 0.0
    origins = NEGATIVES[row.negatives].origins or tuple(run.negatives.origins)
    found: Mapping[str, float] = candidates(recipe, extent, recipe.sets.method)
    chosen = next((origin for origin in ("generated", "source") if found[origin]), None)
    pool = sum(found[origin] for origin in origins) - (chosen in origins)
    return max(pool, 0.0)


def examples(settings: Settings, run: TrainingSettings, extent: Extent) -> float:
    """Prompts (of the set unpaired: answers) that a run goes through, epochs and repeats counted."""
    share = 1 / run.part.of if run.part else 1.0  # steps and epochs of a part are those of all parts together
    if run.steps is not None:
        return share * run.steps * run.batch_prompts
    splits: Sequence[SplitName] = ["train"]  # of a part: a segment's set has this one only
    if run.part is None:
        splits = settings.sets.sft_splits if run.set == SFT else settings.sets.splits
    read = [s for s in splits if run.split in (None, s)]
    each = source_answers(settings, extent) if run.set == UNPAIRED else 1.0
    return share * (run.epochs or 1) * each * prompts(settings, extent, read)
