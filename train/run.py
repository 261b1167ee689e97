"""A training run of a recipe: its set is read, its steps are taken, the model is written where the recipe says."""

from dataclasses import replace
from pathlib import Path

import torch

from prefdata.draws import hex_id
from prefdata.models.loading import context
from prefdata.recipe.results import Results
from prefdata.recipe.settings.whole import Settings
from train import checkpoint
from train.balance import Balance, balanced
from train.card import About
from train.data import held_out, read_examples, read_set, references_of, rows_of, steps_of_all_parts, with_alpha
from train.left_out import LeftOut
from train.loop import Prepared, facts_of, identity_of, steps
from train.objectives.registry import objective_of
from train.policy import order_of, policy, reference
from train.processes import World, join
from train.resolve import of_set, resolve
from train.result import save
from train.settings import UNPAIRED


def train(
    recipe: Settings,
    name: str,
    results: Results | None = None,
    left: LeftOut | None = None,
    request: str | None = None,
) -> Path:
    """Train one run of a recipe; returns the folder of the model. Resumes by itself, exactly. `left`: what was left out before;
    `request`: what identifies a run of a file of its own (train.from_file.request), kept in its receipt.

    SIGTERM ends it after the step at hand with a checkpoint (SystemExit 143): the same command goes on. Under torchrun every
    process calls it.
    """
    world, results = join(), results or Results(recipe, {})
    torch.set_num_threads(recipe.threads)
    prepared = prepare(results, name, world, left or LeftOut())
    trained = steps(replace(prepared, facts={**prepared.facts, "request": request}), world)
    folder = Path(results.model_path(f"run:{name}"))
    if trained is not None:
        save(folder, name, trained, About.of(of_set(recipe, prepared.settings.set)))
    return folder


def prepare(results: Results, name: str, world: World, left: LeftOut) -> Prepared:
    """Read the run's set, load or make its model, and say what identifies both."""
    recipe = results.settings
    settings = resolve(recipe, name).model_copy(update={"processes": world.size})  # torchrun may have been called by hand
    objective = objective_of(name.partition("/")[0], settings.set == UNPAIRED)
    seed = recipe.seed if settings.seed is None else settings.seed
    frame, data_hash = read_set(results, settings)
    settings = with_alpha(results, settings, recipe)
    model, encoder, start = policy(results, settings, seed, frame, world)
    limit, whole = context(model.config), steps_of_all_parts(results, settings)
    here = LeftOut(rows_of(frame, settings))
    data = read_examples(frame, encoder, recipe, settings, objective, limit, here.reasons)
    labels = Balance.of(data, settings.loss) if settings.set == UNPAIRED else None
    settings = balanced(settings, labels) if labels else settings
    if world.first:
        here.say()
        if labels:
            labels.say("train")
    held = held_out(results, encoder, recipe, settings, objective, limit) if settings.evaluation.every else []
    order = order_of(data, settings, objective, seed)
    rows = data_hash if whole is None else hex_id(data_hash, whole)
    left_out = LeftOut(max(left.rows, here.rows), left.reasons + here.reasons)
    before = settings.continue_from and Path(results.model_path(f"run:{settings.continue_from}")) / checkpoint.OPTIMIZER
    return Prepared(
        name=name,
        objective=objective,
        settings=settings,
        seed=seed,
        model=model,
        encoder=encoder,
        data=data,
        held=held,
        order=order,
        reference=reference(results, settings, objective, world),
        limit=limit,
        identity=identity_of(name, settings, seed, rows, start, references_of(recipe, settings), held),
        whole=whole,
        scratch=results.root / "chunks" / "train" / name,
        before=before or None,
        facts=facts_of(settings, seed, data_hash, start, left_out, labels),
    )
