"""`fit`: a trained model from a list of dicts and a model of transformers, without a recipe, a file or a table."""

import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, did_you_mean
from prefdata.models.loading import context
from prefdata.models.tokens import Encoder, require_rows
from prefdata.tables.locks import lock
from train.balance import Balance, balanced
from train.card import About
from train.examples import examples, labelled_examples, usable
from train.given import Row, agreeing, labelled_row, scored, set_row
from train.left_out import LeftOut
from train.loop import Prepared, facts_of, identity_of, steps
from train.mistakes import given, mistakes
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.registry import OBJECTIVES, Objective, objective_of
from train.policy import order_of
from train.receipt import require_own
from train.result import Trained, save
from train.settings import PREFERENCE, UNPAIRED, TrainingSettings, with_defaults

START = "start"
"""The reference where none is given: the model as it comes."""


def fit(
    model: Any,
    encoder: Any,
    rows: Sequence[Row],
    objective: str = "dpo",
    settings: TrainingSettings | None = None,
    folder: str | Path | None = None,
    *,
    references: Mapping[str, Any] | None = None,
    **keys: Any,
) -> Trained:
    """Train `model` on `rows` by an objective of `prefdata objectives`; it is changed in place and returned.

    model: a causal LM of transformers, weights in float32.
    encoder: its fast tokenizer (prompts by its chat template where it has one), or a prefdata Encoder.
    rows: one dict a prompt, with `prompt` (a text, or messages), `chosen` (a text, or messages that end with the answer) and
        `rejected` (likewise, or a list of several). `score` may hold a list, the chosen answer's first, for objectives that
        need one. Or, for kto, one dict an answer, with `prompt`, `completion` and `label` (True: desirable); a prompt may have
        several.
    settings, or its keys beside each other: `prefdata train --keys` explains them (train.settings.TrainingSettings).
    folder: where model, card, metrics and curves go; the same call then goes on where it was stopped. None: nothing is kept.
    references: by name, models with the same tokenizer; default: the model as it comes. Log-probs are sums of nats, in fp64.

    Returns the trained model (`.model`), metrics a step (`.rows`) and what identifies the run (`.facts`). Raises ConfigError
    and DataError, which say what to change.

    >>> from prefdata import fit
    >>> from transformers import AutoModelForCausalLM, AutoTokenizer
    >>> model = AutoModelForCausalLM.from_pretrained("my-sft-model")
    >>> tokenizer = AutoTokenizer.from_pretrained("my-sft-model")
    >>> rows = [
    ...     {"prompt": "2+2=", "chosen": "4", "rejected": ["5", "22", "3"]},
    ...     {"prompt": "3+3=", "chosen": "6", "rejected": ["9", "33"]},
    ...     {"prompt": "4+1=", "chosen": "5", "rejected": ["41", "3", "4"]},
    ... ]
    >>> trained = fit(model, tokenizer, rows, "mcpo", epochs=4, batch_prompts=3, optimizer={"learning_rate": 1e-3})
    >>> len(trained.rows)
    4
    >>> trained.rows[-1]["loss"] < trained.rows[0]["loss"]
    True
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("fit runs in one process", "fit", "train from a file: torchrun --no-python ... prefdata train FILE")
    _require_known(objective)
    labelled = any("completion" in r for r in rows)
    row = objective_of(objective, labelled)
    asked = _given(settings, keys)
    settings = _filled(asked, row, UNPAIRED if labelled else PREFERENCE)
    model = _trainable(model)
    encoder, settings = _encoder(encoder, settings)
    require_rows(encoder, model)
    compared = {} if row.references == "none" else dict(references or {START: model})
    if references and row.references == "none":
        raise ConfigError(f"{objective} compares with no reference", "fit: references", "leave them out")
    problems = mistakes(settings, objective, list(compared), given(asked))
    if settings.references.weights.startswith("validation"):
        problems.append(f"references.weights: {settings.references.weights} needs held-out rows, which fit has not: give alpha")
    if problems:
        raise ConfigError([f"fit: {p}" for p in problems])
    limit = min(context(m.config) for m in (model, *compared.values()))
    left = LeftOut(len(rows))
    listed = scored(_listed(rows, labelled, left), encoder, compared, limit, left)
    origins = NEGATIVES[row.negatives].pool(settings.negatives.origins)
    if labelled:
        data = labelled_examples(listed, encoder, list(compared), left.reasons)
    else:
        data = examples(listed, encoder, origins, list(compared), LOSSES[row.loss].needs, left.reasons)
    data = usable(data, origins, limit, "fit: rows", left.reasons)
    left.say("fit")
    labels = Balance.of(data, settings.loss) if labelled else None
    if labels:
        labels.say("fit")
        settings = balanced(settings, labels)
    seed, name = settings.seed or 0, f"{objective}/fit"
    order = order_of(data, settings, row, seed)
    kept = Path(folder).expanduser() if folder is not None else None
    if kept is None:  # nothing is left to go on from
        settings = settings.model_copy(update={"checkpoint_s": math.inf})
    else:
        require_own(kept)
    data_hash, start = hex_id(json.dumps(listed, sort_keys=True)), _identity(model, encoder) if kept is not None else ""
    with tempfile.TemporaryDirectory() as nowhere:
        run = Prepared(
            name=name,
            objective=row,
            settings=settings,
            seed=seed,
            model=model,
            encoder=encoder,
            data=data,
            held=[],
            order=order,
            reference=_reference(compared, model) if LOSSES[row.loss].needs == "mismatched" else None,
            limit=limit,
            identity=identity_of(name, settings, seed, data_hash, start, list(compared), []),
            scratch=kept.with_name(f"{kept.name}.work") if kept is not None else Path(nowhere),
            facts=facts_of(settings, seed, data_hash, start, left, labels),
        )
        with lock(run.scratch / "lock") if kept is not None else nullcontext():
            trained = steps(run)
            assert trained is not None  # one process: it is the first
            if kept is not None:
                save(kept, name, trained, About(tuple(compared)))
    return trained


def _given(settings: TrainingSettings | None, keys: dict[str, Any]) -> TrainingSettings:
    """The settings, or what the keys say. Raises ConfigError."""
    if settings is not None and keys:
        raise ConfigError("give either settings=... or single keys, not both", "fit")
    if settings is not None:
        return settings
    try:
        return TrainingSettings.model_validate(keys)
    except ValidationError as error:
        from prefdata.recipe.read import explain

        raise ConfigError(explain(error, TrainingSettings, "fit", "prefdata train --keys")) from error


def _trainable(model: Any) -> Any:
    """The model in evaluation mode (no dropout: both forwards of a step must see the same model). Raises ConfigError for
    weights that are not held in fp32: small steps would round away; `precision` is of the products."""
    held = {p.dtype for p in model.parameters() if p.requires_grad}
    if not held <= {torch.float32, torch.float64}:
        raise ConfigError(f"weights in {held.pop()} cannot be trained", "fit: model", "load it with dtype=torch.float32")
    text = model.config.get_text_config()
    if getattr(text, "attn_logit_softcapping", None) and getattr(text, "_attn_implementation", "") != "eager":
        raise ConfigError(
            "fused attention leaves this model's soft cap out", "fit: model", 'load it with attn_implementation="eager"'
        )
    return model.eval()


def _reference(compared: Mapping[str, Any], model: Any) -> Any:
    """The primary reference as a model that stays as it is."""
    primary = next(iter(compared.values()))
    return copy.deepcopy(primary) if primary is model else primary


def _listed(rows: Sequence[Row], labelled: bool, left: LeftOut) -> list[dict[str, Any]]:
    """The rows as the table `sets` has them, labelled answers each as a row of its own. Raises DataError."""
    if labelled:
        return agreeing([labelled_row(r, f"rows[{i}]") for i, r in enumerate(rows)], left)
    listed = [set_row(r, f"rows[{i}]") for i, r in enumerate(rows)]
    _require_one_row_a_prompt(listed)
    return listed


def _require_one_row_a_prompt(rows: Sequence[Row]) -> None:
    """Draws and statistics are keyed by prompt. Raises DataError naming both rows."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows):
        first = seen.setdefault(row["prompt_id"], number)
        if first != number:
            raise DataError(f"the prompt of rows[{first}] again", f"rows[{number}]", "give all rejected answers in one row")


def _require_known(objective: str) -> None:
    if objective not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(objective, OBJECTIVES)}", "objective")


def _filled(settings: TrainingSettings, row: Objective, set_: str) -> TrainingSettings:
    """The settings with the objective's own defaults. Raises ConfigError for keys that a recipe's or a file's run has only."""
    not_ours = {"set", "split", "model", "revision", "init", "lora", "continue_from", "evaluation", "processes"}
    if idle := settings.model_fields_set & not_ours:
        raise ConfigError(f"{sorted(idle)[0]} is not a key of fit, which is given the model and the rows", "fit")
    length = {} if settings.steps or settings.epochs else {"epochs": 1}
    return with_defaults(settings.model_copy(update={**length, "set": set_}), row)


def _encoder(given: Any, settings: TrainingSettings) -> tuple[Encoder, TrainingSettings]:
    """The encoder, and the settings with what it is."""
    if isinstance(given, Encoder):
        if settings.template is not None or settings.end is not None:
            raise ConfigError("the Encoder has its template and end", "fit: template, end", "leave them out")
        made = given
    else:
        if not getattr(given, "is_fast", False):
            raise ConfigError("only fast tokenizers (tokenizer.json) are supported", "fit: encoder", "convert the tokenizer")
        template = settings.template or ("chat" if getattr(given, "chat_template", None) else "plain")
        made = Encoder(given, template, settings.end or "eos", "tokenizer")
        made.require_sound()
    return made, settings.model_copy(update={"template": made.template, "end": made.end})


def _identity(model: Any, encoder: Encoder) -> str:
    """A hash of the weights and the tokenizer."""
    digest = hashlib.blake2b(encoder.tokenizer.backend_tokenizer.to_str().encode(), digest_size=8)
    for name, weight in model.named_parameters():
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
