"""Rows of the table `drops`: every reason there is, and the one constructor for records and the one for frames.

A reason may carry a name after a colon (`too_long:<reference>`, `filtered:<figure>`); the registry knows what stands before it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

Scope = Literal["row", "prompt", "candidate"]
Found = Literal["rows", "later", "recipe"]


@dataclass(frozen=True)
class Reason:
    """Why something is left out: in words, and what to change where too much of it is not wanted.

    `found`: "rows" is bad input that `sources` sees in the rows, "later" is bad input that only a tokenizer or a model can
    find; `max_reject_rate` is about these two. "recipe" is a decision of the recipe.
    """

    meaning: str
    remedy: str
    found: Found = "recipe"

    @property
    def bad(self) -> bool:
        return self.found != "recipe"


def _rows(meaning: str, remedy: str = "correct the rows") -> Reason:
    return Reason(meaning, remedy, "rows")


REASONS: dict[str, Reason] = {
    # rows that are wrong
    "bad_dialogue": _rows("turns that do not alternate, or that do not end where an answer is due"),
    "bad_text": _rows("text that is not Unicode (a lone surrogate)"),
    "contradictory": _rows("pairs or scores that say the opposite of one another"),
    "control_characters": _rows("NUL or another C0 control character", "clean it, or set sources.control_characters: keep"),
    "doubtful_score": _rows("a rating that the source's authors hold for a misreading"),
    "empty_answer": Reason("an answer of nothing or white space", "look at what wrote it", "rows"),
    "empty_prompt": _rows("a prompt of nothing or white space"),
    "no_candidate": _rows("a prompt none of whose answers can be used"),
    "no_final_answer": _rows("a question without the final answer that a verifier needs"),
    "no_score": _rows("an answer without the rating that orders it", "map another rating under fields.score"),
    "role_leakage": _rows(
        "an answer that goes on to write the next human turn", "cut the answers at the marker, or look at what wrote them"
    ),
    "too_many_chars": _rows("a text longer than sources.max_chars", "raise sources.max_chars"),
    "turns_differ": _rows("chosen and rejected that answer different prompts"),
    # what only a tokenizer or a model finds
    "lossy_tokenizer": Reason(
        "an answer that the model's tokenizer cannot give back", "use a model whose tokenizer knows the text", "later"
    ),
    "not_finite": Reason("a log-prob that is NaN or infinite", "score with score.dtype: float32, or see the model", "later"),
    "refused_by_template": Reason(
        "a conversation that the model's chat template cannot render",
        "see the detail of the drop; correct the template",
        "later",
    ),
    "noise_failed": Reason("a token swap that gave no valid text", "raise noise.tries, or set noise.copies: 0", "later"),
    # decisions of the recipe
    "chosen_dropped": Reason("the chosen answer was left out by another stage", "see what drops candidates: prune, score"),
    "contaminated": Reason("a prompt that an evaluation set holds", "see decontaminate"),
    "duplicate": Reason("a prompt that repeats another", "see dedup, or set dedup: null"),
    "duplicate_prompt": Reason(
        "a second row of one prompt in a source of one row a prompt", "give such rows in a format of pairs, which are joined"
    ),
    "excluded": Reason("a row of a subset that the source leaves out", "see exclude of the source"),
    "failed_answer": Reason("an answer that the engine could not give", "see the log of generate"),
    "filtered": Reason("a row outside a limit", "see sets.filters"),
    "identical": Reason("answers that are one and the same text", "raise the temperature, or add answers"),
    "incomparable": Reason("an answer that no pair of its prompt compares with the best", "add pairs, or rank by a judge"),
    "need_2": Reason("fewer than two answers are left", "add answers, or see what drops them"),
    "no_good_answer": Reason("a prompt without a usable good answer", "add a good answer"),
    "no_preference": Reason("answers that are all ranked alike", "rank them, or use another judge"),
    "not_sampled": Reason("left out of the mixture by its source's weight", "raise weight of the source"),
    "other_source": Reason("a prompt that an earlier source has", "reorder sources.sources"),
    "pruned_rank": Reason("a rank that the recipe leaves out", "see prune.drop_ranks"),
    "too_long": Reason("prompt and answer do not fit the model", "raise max_tokens, or use a model with a longer context"),
    "unlabelled": Reason(
        "no answer with a label is left", "label the source's answers (format: trl_unpaired), or see what drops them"
    ),
    "unranked": Reason("no answer was ranked", "see the judge, or rank the source's answers"),
}


def reason_of(text: str) -> Reason:
    """The registry's entry of a reason, with or without a name after a colon. Raises KeyError."""
    return REASONS[text.partition(":")[0]]


def drop(
    scope: Scope,
    stage: str,
    reason: str,
    of: Mapping[str, Any],
    candidate_id: str | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    """One row of drops; `of` tells prompt_id, source and source_row as far as they are known. Raises KeyError."""
    reason_of(reason)
    whose = {name: of.get(name) for name in ("prompt_id", "source", "source_row")}
    return {**whose, "scope": scope, "candidate_id": candidate_id, "stage": stage, "reason": reason, "detail": detail}


def drops_of(rows: pl.DataFrame, stage: str, reason: str | None = None, detail: pl.Expr | None = None) -> pl.DataFrame:
    """Rows of drops, one a row of `rows`: of candidates where it has a candidate_id, else of prompts.

    Where `reason` is None, `rows` has a column of that name. Raises KeyError for a reason that is not registered.
    """
    scope = "candidate" if "candidate_id" in rows.columns else "prompt"
    optional = [_column_or_null(rows, name) for name in ("candidate_id", "source", "source_row")]
    made = rows.select(
        pl.lit(scope).alias("scope"),
        "prompt_id",
        *optional,
        pl.lit(stage).alias("stage"),
        pl.col("reason") if reason is None else pl.lit(reason).alias("reason"),
        (pl.lit(None, dtype=pl.String) if detail is None else detail).alias("detail"),
    )
    for text in made["reason"].unique():
        reason_of(text)
    return made


def _column_or_null(rows: pl.DataFrame, name: str) -> pl.Expr:
    return pl.col(name) if name in rows.columns else pl.lit(None, dtype=pl.String).alias(name)
