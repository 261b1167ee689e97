"""A set as batches: examples in token ids, a data order that is a pure function of (seed, epoch), and
micro-batches balanced by tokens."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

from prefdata.draws import hash64, hex_id
from prefdata.errors import ConfigError, DataError
from prefdata.kinds import Origin
from prefdata.models.chat import Refused
from prefdata.models.tokens import Encoder, columns_of

ORIGINS: tuple[str, ...] = get_args(Origin)


@dataclass(frozen=True)
class Example:
    """One prompt in ids. Place 0 is the chosen; the others are the pool of rejected ones. logps[k][n]: reference k; labels[n]:
    score or win probability, for losses that need one; `desirable`: the label of an example that is one answer alone."""

    prompt_id: str
    prompt: list[int]
    completions: list[list[int]]
    candidate_ids: list[str]
    origins: list[str]
    logps: list[list[float]]
    labels: list[float]
    desirable: bool | None = None

    @property
    def id(self) -> str:
        """What no other example has: its prompt's id; of an answer alone, whose prompt may have more of them, its own."""
        return self.prompt_id if self.desirable is None else self.candidate_ids[0]

    def tokens(self, most: int | None = None) -> int:
        """Tokens of the prompt, the chosen and the `most` longest others (None: all), the prompt shared."""
        others = sorted(map(len, self.completions[1:]), reverse=True)
        return len(self.prompt) + len(self.completions[0]) + sum(others[:most])


def examples(
    rows: Sequence[Mapping[str, Any]],
    encoder: Encoder,
    origins: Sequence[str],
    references: Sequence[str],
    need: str | None = None,
    left: Counter[str] | None = None,
) -> list[Example]:
    """The rows of a set (dicts of the table `sets`): ties with the chosen are left out, the pool is limited to `origins`.

    Rows whose pool is empty are kept (plain SFT needs none); what the tokenizer's template refuses is left out and counted in
    `left`. Raises DataError where log-probs of a reference lack, and ConfigError where the set lacks what the loss needs
    (train.objectives.losses.Loss.needs).
    """
    made: list[Example] = []
    prompts = encoder.prompts_or_refusals([columns_of(r) for r in rows])
    for row, prompt in zip(rows, prompts, strict=True):
        kept = [c for c in row["candidates"] if c["role"] == "chosen" or (c["role"] == "rejected" and c["origin"] in origins)]
        answers, _ = encoder.answers(
            [columns_of(row)] * len(kept),
            [c["response"] for c in kept],
            [c["finish"] for c in kept],
            [c.get("extras") for c in kept],
        )
        completions = [a for a in answers if not isinstance(a, Refused)]
        if isinstance(prompt, Refused) or len(completions) < len(answers):
            if left is not None:
                left["refused_by_template"] += 1
            continue
        if need == "same_tokenizer" and references:
            for candidate, ids in zip(kept, completions, strict=True):
                _require_tokens(candidate, references[0], len(ids), row["prompt_id"])
        made.append(
            Example(
                row["prompt_id"],
                prompt,
                completions,
                [c["candidate_id"] for c in kept],
                [c["origin"] for c in kept],
                [[_logp(c, name, row["prompt_id"]) for c in kept] for name in references],
                [_label(c, need, row["prompt_id"]) for c in kept] if need in ("score", "win_prob") and len(kept) > 1 else [],
            )
        )
    return made


def labelled_examples(
    rows: Sequence[Mapping[str, Any]], encoder: Encoder, references: Sequence[str], left: Counter[str] | None = None
) -> list[Example]:
    """The rows of a set `unpaired`: an example for each answer. Raises and leaves out as `examples`."""
    alone = [{**row, "candidates": [c]} for row in rows for c in row["candidates"]]
    desirable = {c["candidate_id"]: c["role"] == "chosen" for row in alone for c in row["candidates"]}
    made = examples(alone, encoder, ORIGINS, references, left=left)
    return [replace(e, desirable=desirable[e.candidate_ids[0]]) for e in made]


def _logp(candidate: dict[str, Any], name: str, prompt: str) -> float:
    found = [x["logp"] for x in candidate["logps"] if x["reference"] == name]
    if not found:
        raise DataError(
            f"no log-prob under the reference {name}",
            f"candidate {candidate['candidate_id']} of prompt {prompt}",
            "run the score stage for it and make the set again",
        )
    value = float(found[0])
    if not value <= 1e-6:  # NaN too
        raise DataError(f"log-prob {value} under {name} is no log-prob", f"candidate {candidate['candidate_id']}")
    return value


def _label(candidate: dict[str, Any], need: str, prompt: str) -> float:
    value = candidate[need]
    if value is None or value != value:
        raise ConfigError(
            f"this objective needs the {need} of every candidate, this set has none",
            f"candidate {candidate['candidate_id']} of prompt {prompt}",
            "rank by a method that gives one (the source's scores, a pointwise judge), or train another objective",
        )
    return float(value)


def _require_tokens(candidate: dict[str, Any], name: str, own: int, prompt: str) -> None:
    found = next((x["num_tokens"] for x in candidate["logps"] if x["reference"] == name), own)
    if found != own:
        raise ConfigError(
            f"this objective averages log-ratios over tokens, but {name} counts {found} tokens and the policy {own}",
            f"candidate {candidate['candidate_id']} of prompt {prompt}",
            "make a model with the policy's tokenizer the first of score.references, or train another objective",
        )


def usable(
    data: Sequence[Example], origins: Sequence[str], limit: int, where: str, left: Counter[str] | None = None
) -> list[Example]:
    """The examples that have a rejected candidate (where the objective draws from `origins`) and fit the model; longer ones are
    left out and counted in `left`, never cut. A recipe whose score stage knows the policy has none by then. Raises
    DataError."""
    kept = [e for e in data if len(e.completions) > 1] if origins else list(data)
    if not kept:
        raise DataError(f"no row has a rejected candidate of origin {list(origins)}", where)
    fitting = [e for e in kept if len(e.prompt) + max(map(len, e.completions)) <= limit]
    if not fitting:
        raise DataError(f"every row is longer than the model's {limit} tokens", where)
    if left is not None:
        left += Counter(too_long=len(kept) - len(fitting), need_2=len(data) - len(kept))  # which leaves out zeros
    return fitting


@dataclass(frozen=True)
class Order:
    """Which examples make the batch of which step: the epoch's order is a sort by a keyed hash."""

    ids: tuple[str, ...]
    batch: int
    seed: int
    least: int = 1
    """Rows that a loss needs in a batch: fewer than so many at the end of an epoch join the batch before."""

    @property
    def steps_per_epoch(self) -> int:
        steps, left = divmod(len(self.ids), self.batch)
        return max(steps + (left >= self.least), 1)

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    @property
    def identity(self) -> str:
        """Of the same prompts in the same batches by the same seed: such an order can go on in another run."""
        return hex_id("order", self.batch, self.seed, *self.ids)

    def members(self, step: int, before: int = 0) -> list[int]:
        """Indices of the examples of a step; the last batch of an epoch may have fewer, or up to `least` - 1 more. `before`:
        epochs that came before."""
        order, place = self._shuffled(before + self.epoch(step)), step % self.steps_per_epoch
        start = place * self.batch
        return order[start:] if place + 1 == self.steps_per_epoch else order[start : start + self.batch]

    def _shuffled(self, epoch: int) -> list[int]:
        return _shuffle(self.ids, self.seed, epoch)


@lru_cache(maxsize=2)
def _shuffle(ids: tuple[str, ...], seed: int, epoch: int) -> list[int]:
    return sorted(range(len(ids)), key=lambda i: (hash64(seed, "order", ids[i], epoch), ids[i]))


def micro_batches(batch: Sequence[Example], micro_tokens: int, most: int | None = None) -> Iterator[list[Example]]:
    """Cut a batch into forwards of at most `micro_tokens` tokens (one example at least), prompts counted once, and of the
    rejected the `most` that a draw can train on; examples of like length together, for models that need padded rows."""
    held: list[Example] = []
    for example in sorted(batch, key=lambda e: (len(e.prompt), max(map(len, e.completions)), e.id)):
        if held and sum(e.tokens(most) for e in held) + example.tokens(most) > micro_tokens:
            yield held
            held = []
        held.append(example)
    if held:
        yield held
