"""`fit`: a trained model from a list of dicts and a model of transformers, without a recipe, a file or a table."""

import copy
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from prefdata.draws import hex_id
from prefdata.errors import ConfigError, DataError, did_you_mean
from prefdata.kinds import Message
from prefdata.models.forward import logprob
from prefdata.models.tokens import Encoder
from prefdata.tables.ids import candidate_id, prompt_id
from train.card import About
from train.examples import Order, examples, usable
from train.loop import Prepared, identity_of, steps
from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.registry import OBJECTIVES, Objective
from train.processes import join
from train.result import Trained, save
from train.settings import TrainingSettings, with_defaults

Row = Mapping[str, Any]
START = "start"
"""The reference where none is given: the model as it comes."""
SCORED_TOKENS = 16_384


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

    model: a causal LM of transformers.
    encoder: its fast tokenizer (prompts by its chat template where it has one), or a prefdata Encoder.
    rows: dicts with `prompt` (a text, or messages), `chosen` (a text, or messages that end with the answer) and `rejected`
        (likewise, or a list of several). `score` may hold a list, the chosen answer's first, for objectives that need one.
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
    row, settings = _objective(objective), settings or TrainingSettings.model_validate(keys)
    if keys and settings.model_fields_set != set(keys):
        raise ConfigError("give either settings=... or single keys, not both", "fit")
    settings = _filled(settings, row)
    encoder = _encoder(encoder, settings)
    limit = _limit(model)
    compared = {} if row.references == "none" else dict(references or {START: model})
    if row.references in ("virtual", "each") and len(compared) < 2:
        raise ConfigError(f"{objective} combines two references or more", "fit: references", "give them by name")
    listed = [_set_row(r, f"rows[{i}]") for i, r in enumerate(rows)]
    _score(listed, encoder, compared)
    origins = () if row.negatives == "none" else NEGATIVES[row.negatives].origins or tuple(settings.negatives.origins)
    data = examples(listed, encoder, origins, list(compared), LOSSES[row.loss].needs)
    data = usable(data, origins, limit, "fit: rows")
    seed = settings.seed or 0
    name, order = f"{objective}/fit", Order(tuple(e.prompt_id for e in data), settings.batch_prompts, seed)
    data_hash = hex_id(json.dumps(listed, sort_keys=True))
    start = _identity(model) if folder is not None else ""
    with tempfile.TemporaryDirectory() as nowhere:
        kept = Path(folder).expanduser() if folder is not None else None
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
            reference=copy.deepcopy(model) if LOSSES[row.loss].needs == "mismatched" else None,
            limit=limit,
            identity=identity_of(name, settings, seed, data_hash, start, list(compared), []),
            scratch=kept.with_name(f"{kept.name}.work") if kept is not None else Path(nowhere),
            facts={"settings": settings.model_dump(mode="json"), "start": start, "seed": seed, "data": data_hash},
        )
        trained = steps(run, join())
        assert trained is not None  # one process: it is the first
        if kept is not None:
            save(kept, name, trained, About(tuple(compared)))
    return trained


def _objective(name: str) -> Objective:
    if name not in OBJECTIVES:
        raise ConfigError(f"unknown objective{did_you_mean(name, OBJECTIVES)}", "objective")
    return OBJECTIVES[name]


def _filled(settings: TrainingSettings, row: Objective) -> TrainingSettings:
    """The settings with the objective's own defaults. Raises ConfigError for keys that a recipe's or a file's run has only."""
    idle = settings.model_fields_set & {"set", "split", "model", "revision", "init", "lora", "continue_from", "evaluation"}
    if idle:
        raise ConfigError(f"{sorted(idle)[0]} is not a key of fit, which is given the model and the rows", "fit")
    length = {} if settings.steps or settings.epochs else {"epochs": 1}
    return with_defaults(settings.model_copy(update=length), row)


def _encoder(given: Any, settings: TrainingSettings) -> Encoder:
    if isinstance(given, Encoder):
        return given
    template = settings.template or ("chat" if getattr(given, "chat_template", None) else "plain")
    made = Encoder(given, template, settings.end or "eos", "tokenizer")
    made.require_sound()
    return made


def _limit(model: Any) -> int:
    from prefdata.models.loading import context

    return context(model.config)


def _set_row(row: Row, where: str) -> dict[str, Any]:
    """A row as the table `sets` has it: the chosen candidate first."""
    if missing := [k for k in ("prompt", "chosen", "rejected") if row.get(k) is None]:
        raise DataError(f"missing {', '.join(missing)}", where, "give prompt, chosen and rejected")
    messages = _messages(row["prompt"], f"{where}.prompt")
    rejected = row["rejected"]
    several = isinstance(rejected, list) and rejected and not isinstance(rejected[0], Mapping)
    answers = [_answer(row["chosen"], messages, f"{where}.chosen")]
    answers += [_answer(r, messages, f"{where}.rejected") for r in (rejected if several else [rejected])]
    scores = row.get("score") or [None] * len(answers)
    if len(scores) != len(answers):
        raise DataError(
            f"{len(scores)} scores of {len(answers)} answers", f"{where}.score", "give one an answer, the chosen first"
        )
    id = prompt_id(messages, row.get("tools"), row.get("template_kwargs"))
    return {
        "prompt_id": id,
        "prompt": messages,
        "tools": row.get("tools"),
        "template_kwargs": row.get("template_kwargs"),
        "candidates": [
            {
                "candidate_id": candidate_id(id, text, "source", "given", None, number),
                "role": "rejected" if number else "chosen",
                "response": text,
                "origin": "source",
                "finish": "stop",
                "score": score,
                "win_prob": None,
                "logps": [],
            }
            for number, (text, score) in enumerate(zip(answers, scores, strict=True))
        ],
    }


def _messages(prompt: Any, where: str) -> list[Message]:
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, list) and prompt and all(_is_message(m) for m in prompt):
        return [dict(m) for m in prompt]
    raise DataError("a text, or a list of {role, content} expected", where, "correct the row")


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


def _answer(value: Any, prompt: Sequence[Message], where: str) -> str:
    """An answer's text; of messages that of the last one, whose others must be the prompt's."""
    if isinstance(value, str):
        return value
    messages = _messages(value, where)
    if messages[-1]["role"] != "assistant" or (len(messages) > 1 and messages[:-1] != list(prompt)):
        raise DataError(
            "messages must be the prompt's followed by one of the assistant, or only that one", where, "correct the row"
        )
    return messages[-1]["content"]


@torch.no_grad()
def _score(rows: Sequence[dict[str, Any]], encoder: Encoder, references: Mapping[str, Any]) -> None:
    """Give every candidate its log-prob under every reference."""
    prompts = encoder.prompts([(r["prompt"], r["tools"], r["template_kwargs"]) for r in rows])
    for name, model in references.items():
        model.eval()
        for places in logprob.batches([len(p) for p in prompts], SCORED_TOKENS):
            groups = [rows[i]["candidates"] for i in places]
            ids = [encoder.completions([c["response"] for c in g], [c["finish"] for c in g]) for g in groups]
            sums = logprob.grouped_logps(model, [prompts[i] for i in places], ids, SCORED_TOKENS)
            for group, completions, of_group in zip(groups, ids, sums, strict=True):
                for candidate, tokens, total in zip(group, completions, of_group.tolist(), strict=True):
                    candidate["logps"].append({"reference": name, "logp": total, "num_tokens": len(tokens)})


def _identity(model: Any) -> str:
    """A hash of the weights."""
    digest = hashlib.blake2b(digest_size=8)
    for name, weight in model.named_parameters():
        digest.update(name.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
