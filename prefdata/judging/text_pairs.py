"""A recipe's judge on pairs of texts of any origin: both orders, kept in a store as any verdict, or two scores compared."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefdata.draws import hex_id, item_key
from prefdata.errors import ConfigError, did_you_mean
from prefdata.judging.askings import Asking, Order, ask, asking_of
from prefdata.judging.judge import Judge
from prefdata.judging.pointwise import Pointwise
from prefdata.judging.procedures.verdicts import Outcome, settle
from prefdata.judging.registry import KINDS
from prefdata.models.scorer import Item
from prefdata.progress import Progress
from prefdata.recipe.results import Models
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.tables.finished import ChunkStore, Value

ORDERS: tuple[Order, ...] = ("ab", "ba")
CHUNK = 256


@dataclass(frozen=True)
class TextPair:
    """A prompt (a row with prompt_id, messages, answer) and two answers."""

    prompt: Mapping[str, Any]
    a: str
    b: str


def text_pair(prompt: str, a: str, b: str) -> TextPair:
    """Of a lone user message."""
    row = {"prompt_id": hex_id("text", prompt), "messages": [{"role": "user", "content": prompt}]}
    return TextPair({**row, "answer": None, "tools": None, "template_kwargs": None}, a, b)


def judge_named(settings: Settings, name: str) -> JudgeSettings:
    """A judge of the recipe, as a command's option names it. Raises ConfigError."""
    known = {j.name: j for j in settings.judge}
    if name not in known:
        raise ConfigError(f"the recipe has no judge named {name!r}{did_you_mean(name, known)}", "--judge")
    return known[name]


def judged(models: Models, settings: JudgeSettings, pairs: Sequence[TextPair], store: ChunkStore) -> list[dict[str, Outcome]]:
    """Of each pair the outcome of both orders, `ab` (a is shown first) and `ba`; one that is equal texts is a tie unasked.
    A pointwise judge says the same in both orders. Verdicts are kept in the store."""
    judge = KINDS[settings.kind].make(models, settings)
    if isinstance(judge, Pointwise):
        return _scored(judge, pairs, store)
    return _compared(judge, settings, pairs, store)


def _compared(judge: Judge, settings: JudgeSettings, pairs: Sequence[TextPair], store: ChunkStore) -> list[dict[str, Outcome]]:
    found: dict[str, Outcome] = {}

    def askings(pair: TextPair) -> list[Asking]:
        texts = {hex_id("answer", t): t for t in (pair.a, pair.b)}
        return [asking_of(judge, pair.prompt, (hex_id("answer", pair.a), hex_id("answer", pair.b)), o, texts) for o in ORDERS]

    def learn(asking: Asking, value: Value) -> None:
        found[asking.key] = value["outcome"]
        progress.advance()

    different = [p for p in pairs if p.a != p.b]
    every = (a for p in different for a in askings(p))
    with ExitStack() as stack, Progress(f"judge {settings.name}", 2 * len(different)) as progress:
        engine = cache(lambda: stack.enter_context(judge.engine(store.total("cost"))))
        ask(every, judge, engine, store, learn)
    tie: dict[str, Outcome] = {"ab": "tie", "ba": "tie"}
    return [tie if p.a == p.b else {a.order: found[a.key] for a in askings(p)} for p in pairs]


def _scored(judge: Pointwise, pairs: Sequence[TextPair], store: ChunkStore) -> list[dict[str, Outcome]]:
    def key(pair: TextPair, text: str) -> str:
        return item_key("text", judge.revision, judge.what, pair.prompt["prompt_id"], pair.prompt["answer"] or "", text)

    items = {
        key(p, t): Item(dict(p.prompt), {"candidate_id": hex_id("answer", t), "response": t, "finish": "stop"})
        for p in pairs
        for t in (p.a, p.b)
    }
    keys = list(items)
    for start in range(0, len(keys), CHUNK):
        if missing := store.missing(keys[start : start + CHUNK]):
            scores = judge.scores([items[k] for k in missing])
            store.put({k: {"score": s, "reason": r} for k, (s, r) in zip(missing, scores, strict=True)})
    values = store.get(keys)

    def outcome(pair: TextPair) -> Outcome:
        a, b = (values[key(pair, t)]["score"] for t in (pair.a, pair.b))
        return "missing" if a is None or b is None else "tie" if a == b else "a" if a > b else "b"

    return [{"ab": outcome(p), "ba": outcome(p)} for p in pairs]


def verdict(orders: Mapping[str, Outcome]) -> Outcome:
    """What a judge says of a pair: orders that disagree are a tie, as for every ranking."""
    said = settle(orders)
    return "tie" if said == "inconsistent" else said
