"""Judges that score one answer at a time: a reward model, another model's likelihood, a verifier. Higher is better."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from prefdata.errors import ConfigError
from prefdata.judging import verify
from prefdata.models.chat import Refused
from prefdata.models.engines.protocol import REFUSED, batches
from prefdata.models.engines.registry import LanguageModelSettings
from prefdata.models.loading import context_of, load_classifier
from prefdata.models.scorer import Item, Scorer
from prefdata.models.settings import ReferenceSettings
from prefdata.models.tokens import Encoder, columns_of, load_encoder, require_rows
from prefdata.recipe.results import Models
from prefdata.recipe.settings.judging import JudgeSettings

BATCH_ROWS = 16
Score = tuple[float | None, str | None]
"""A score, or null and the reason."""


@dataclass(frozen=True)
class Pointwise:
    """`scores` of candidates with their prompts, in order."""

    scores: Callable[[Sequence[Item]], list[Score]]
    revision: str
    what: str
    """What the score is: hashed into the verdicts' rubric."""


def _model(settings: JudgeSettings) -> LanguageModelSettings:
    assert settings.model is not None  # the settings see to it
    return settings.model


def likelihood(models: Models, settings: JudgeSettings) -> Pointwise:
    """Nats per character under a language model: sums over its own tokens, so that answers of several tokenizers compare."""
    model = _model(settings)
    own = ReferenceSettings(name="judge", model=model.id, revision=model.revision, template=model.template, end=model.end)
    scorer = Scorer(models.model_path(model.id), own, models.settings.score.dtype, models.settings.score.batch_tokens)

    def scores(items: Sequence[Item]) -> list[Score]:
        values = zip(items, scorer.values(items), strict=True)
        return [_per_character(i.candidate["response"], v) for i, v in values]

    how = f"{model.template}, {model.end}, {models.settings.score.dtype}"
    return Pointwise(scores, model.made_with(models.revision), f"nats per character, {how}")


def _per_character(response: str, value: Mapping[str, Any]) -> Score:
    """A likelihood per character; an answer without text (blank, or a tool call alone) has none."""
    if "logp" not in value:
        return None, next(iter(value))
    return (value["logp"] / len(response), None) if response.strip() else (None, "no_text")


class Rewards:
    """A sequence classifier with one output (AutoModelForSequenceClassification), asked about prompt and answer together."""

    def __init__(self, path: str, model: LanguageModelSettings) -> None:
        self.path, self.settings = path, model

    @cached_property
    def model(self) -> Any:
        loaded = load_classifier(self.path, self.settings.revision)
        if loaded.config.num_labels != 1:
            raise ConfigError(
                f"the model has {loaded.config.num_labels} outputs; a reward model has one", self.path, "choose a reward model"
            )
        require_rows(self.encoder, loaded)
        loaded.config.pad_token_id = -1  # it looks for the last token that is no padding: the last one is
        return loaded

    @cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.path, self.settings.revision, self.settings.template, self.settings.end)

    def scores(self, items: Sequence[Item]) -> list[Score]:
        prompts = self.encoder.prompts_or_refusals([columns_of(i.prompt) for i in items])
        answers, _ = self.encoder.answers(
            [columns_of(i.prompt) for i in items],
            [i.candidate["response"] for i in items],
            [i.candidate["finish"] for i in items],
            [i.candidate.get("extras") for i in items],
        )
        pairs = enumerate(zip(prompts, answers, strict=True))
        rows = {k: p + a for k, (p, a) in pairs if not isinstance(p, Refused) and not isinstance(a, Refused)}
        limit = context_of(self.path, self.settings.revision)
        made: list[Score] = [(None, "too_long" if k in rows else REFUSED) for k in range(len(items))]
        fitting = sorted((k for k, row in rows.items() if len(row) <= limit), key=lambda k: len(rows[k]))
        for _, alike in groupby(fitting, key=lambda k: len(rows[k])):
            for batch in batches(alike, BATCH_ROWS):
                for k, value in zip(batch, self._rewards([rows[k] for k in batch]), strict=True):
                    made[k] = (value, None) if math.isfinite(value) else (None, "not a number")
        return made

    def _rewards(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """Rows of one length: some classifiers look at the first token and some at the last, so neither may be padding."""
        import torch

        with torch.no_grad():
            ids = torch.tensor(list(rows), dtype=torch.int64, device=self.model.device)
            logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        values: list[float] = logits[:, 0].double().tolist()
        return values


def reward(models: Models, settings: JudgeSettings) -> Pointwise:
    """A reward model's score."""
    model = _model(settings)
    rewards = Rewards(models.model_path(model.id), model)
    return Pointwise(rewards.scores, model.made_with(models.revision), f"reward, {model.template}, {model.end}")


def verifier(models: Models, settings: JudgeSettings) -> Pointwise:
    """1 where the answer ends in the prompt's final answer, 0 where not."""

    def scores(items: Sequence[Item]) -> list[Score]:
        found = [verify.score(i.prompt["answer"], i.candidate["response"]) for i in items]
        return [(s, None if s is not None else "nothing to verify") for s in found]

    return Pointwise(scores, "2", "verified against the final answer")


def problem(settings: JudgeSettings) -> str | None:
    """What is wrong with the settings of a judge that scores by a model."""
    if settings.model is None:
        return f"the kind {settings.kind} needs its model"
    if settings.model.engine != "transformers":
        return f"the kind {settings.kind} is run by transformers: leave {settings.model.engine} out"
    return None
