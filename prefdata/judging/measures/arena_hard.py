"""Arena-Hard v2's files in and out: question.jsonl, model_answer/<model>.jsonl, model_judgment/<judge>/<model>.jsonl.

A judgment has two games: in the first the baseline is shown as A, in the second the model. A verdict is worth one battle, a
strong one (A>>B) three. Scores are shares of battles won, a tie half. Style control is upstream's regression
(show_result.py, https://lmsys.org/blog/2024-08-28-style-control/): a battle's log-odds are the model's strength plus the
differences in length and in headers, lists and bold text per token, each standardised over all battles. So the score is the
win rate at the mean difference of all models that were judged, not at none: for one model alone it controls nothing
(`prefdata win-rate` reads its length-controlled rate at equal lengths).

Standard errors are ours: upstream resamples battles, of which a prompt has two to six, as if they were independent; we resample
prompts, all battles of one together.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefdata.errors import DataError, did_you_mean
from prefdata.judging.measures import win_rate
from prefdata.judging.measures.estimates import Floats, interval, logistic, resampled
from prefdata.judging.procedures.verdicts import Outcome
from prefdata.judging.text_pairs import judge_named, judged, text_pair
from prefdata.recipe.results import Results
from prefdata.recipe.units import judge_unit
from prefdata.sources import readers
from prefdata.sources.rows import Fields
from prefdata.tables import atomic
from prefdata.tables.finished import ChunkStore

Facts = dict[str, Any]
WEIGHT = 3
"""Battles that a strong verdict is worth."""
LABELS = {"A>>B": (1.0, WEIGHT), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, WEIGHT)}
LABELS |= {"A<<B": LABELS["B>>A"], "A<B": LABELS["B>A"], "B=A": LABELS["A=B"], "B<A": LABELS["A>B"], "B<<A": LABELS["A>>B"]}
"""What A has won, and in how many battles."""
SAID: dict[Outcome, str] = {"a": "A>B", "b": "B>A", "tie": "A=B"}
STYLE = ("length", "headers", "lists", "bold")
REFITS = 200
"""Bootstrap samples of the regression, which each fit it anew."""
CODE = re.compile(r"```[^`]*```")
MARKDOWN = (
    ("header_count", tuple((f"h{n}", re.compile(rf"^#{{{n}}}\s", re.M)) for n in range(1, 7))),
    ("list_count", (("ordered", re.compile(r"^\s*\d+\.\s", re.M)), ("unordered", re.compile(r"^\s*[-*+]\s", re.M)))),
    ("bold_count", (("**", re.compile(r"\*\*[^*\n]+\*\*")), ("__", re.compile(r"__[^_\n]+__")))),
)


@dataclass(frozen=True)
class Question:
    """One of question.jsonl."""

    uid: str
    prompt: str
    category: str


@dataclass
class Battles:
    """Of one model against the baseline: [n] each. `won`: by the model, 0 to 1; `times`: battles that a game is worth."""

    uids: list[str] = field(default_factory=list)
    won: list[float] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    missing: int = 0
    """Judgments without both verdicts, which are left out whole: one game alone would count the place."""
    others: Counter[str] = field(default_factory=Counter)
    """Judgments against other baselines."""


def questions(folder: Path) -> dict[str, Question]:
    """By uid. Raises DataError (file:row:field)."""
    return {q.uid: q for q in map(_question, _rows(folder / "question.jsonl"))}


def _question(row: Fields) -> Question:
    return Question(row.get("uid", str), row.get("prompt", str), row.get("category", str))


def answers(folder: Path, model: str) -> dict[str, Facts]:
    """The model's answers by uid: {"answer", "style": [4]}. Raises DataError where the model has no file."""
    path = folder / "model_answer" / f"{model}.jsonl"
    if not path.is_file():
        known = [p.stem for p in (folder / "model_answer").glob("*.jsonl")]
        raise DataError(f"no answers of {model}{did_you_mean(model, known)}", str(path), "write them first")
    found: dict[str, Facts] = {}
    for row in _rows(path):
        messages = row.get("messages", list)
        last = messages[-1] if messages and isinstance(messages[-1], Mapping) else {}
        content = last.get("content")
        text = content.get("answer") if isinstance(content, Mapping) else content
        if not isinstance(text, str):
            raise DataError("no answer in the last message", row.at("messages"), "correct the row")
        found[row.get("uid", str)] = {"answer": text, "style": _style(row.row.get("metadata"), text)}
    return found


def _rows(path: Path) -> Iterator[Fields]:
    names = {n: n for n in ("uid", "prompt", "category", "messages", "model", "baseline", "games")}
    for where, row in readers.from_file(path, "FILE", arrays=True):
        yield Fields(row, names, where, f"give each row of {path.name} this field, as Arena-Hard does")


# ---- out ----


def answer_row(uid: str, model: str, prompt: str, text: str) -> Facts:
    """A row of model_answer, as upstream writes it, less its own ids and times."""
    said = [{"role": "user", "content": prompt}, {"role": "assistant", "content": {"answer": text}}]
    return {"uid": uid, "model": model, "messages": said, "metadata": metadata(text)}


def judgment_row(question: Question, judge: str, model: str, baseline: str, orders: Mapping[str, Outcome]) -> Facts:
    """A row of model_judgment. orders: of the pair (a = the model, b = the baseline), by who was shown first (`ab`, `ba`)."""
    games = [_game(orders["ba"], swapped=True), _game(orders["ab"], swapped=False)]
    who = {"uid": question.uid, "category": question.category, "judge": judge, "model": model, "baseline": baseline}
    return {**who, "games": games}


def _game(outcome: Outcome, swapped: bool) -> Facts:
    other: dict[Outcome, Outcome] = {"a": "b", "b": "a"}
    shown = other.get(outcome, outcome) if swapped else outcome  # who won, as the judge's prompt called them
    return {"score": SAID.get(shown)}


def metadata(text: str) -> Facts:
    """What style control reads: tokens (characters / 4, where upstream counts a tokenizer's), and Markdown outside of code."""
    plain = CODE.sub("", text)
    counted = {name: {kind: len(p.findall(plain)) for kind, p in kinds} for name, kinds in MARKDOWN}
    return {"token_len": max(round(len(text) / 4), 1), **counted}


def _style(given: Any, text: str) -> list[float]:
    """[tokens, headers, lists, bold] of an answer: as its file says, else counted."""
    known = given if isinstance(given, Mapping) and "token_len" in given else metadata(text)
    parts = [known.get(name, {}) for name, _ in MARKDOWN]
    return [max(float(known["token_len"]), 1.0), *(float(sum(p.values()) if isinstance(p, Mapping) else p) for p in parts)]


# ---- in ----


def battles(folder: Path, judge: str, model: str, baseline: str, category: str | None = None) -> Battles:
    """What the judge said of a model against the baseline (or a row that names none). Raises DataError (file:row:field)."""
    found = Battles()
    for row in _rows(folder / "model_judgment" / judge / f"{model}.jsonl"):
        games = row.get("games", list)
        if category is not None and row.get("category", str) != category:
            continue
        if row.has("baseline") and row.get("baseline", str) != baseline:
            found.others[row.get("baseline", str)] += 1
            continue
        labels = [str(g["score"]) for g in games if isinstance(g, Mapping) and g.get("score") is not None]
        if len(labels) != 2 or len(games) != 2:
            found.missing += 1
            continue
        if unknown := [label for label in labels if label not in LABELS]:
            raise DataError(f"{unknown[0]!r} is no verdict", row.at("games"), f"one of {', '.join(LABELS)}")
        (theirs, first), (own, second) = (LABELS[label] for label in labels)
        found.uids += [row.get("uid", str)] * 2
        found.won += [1 - theirs, own]
        found.times += [first, second]
    return found


def judged_models(folder: Path, judge: str) -> list[str]:
    """Raises DataError where the judge has judged none."""
    found = sorted(p.stem for p in (folder / "model_judgment" / judge).glob("*.jsonl"))
    if not found:
        known = sorted(p.name for p in (folder / "model_judgment").glob("*") if p.is_dir())
        raise DataError(f"no judgments by {judge}{did_you_mean(judge, known)}", str(folder / "model_judgment"), "judge first")
    return found


def scores(by_model: Mapping[str, Battles], seed: int) -> list[Facts]:
    """Score, standard error and 95 % interval of each model, the best first; of bootstrap samples of prompts."""
    made = list[Facts]()
    for model, own in by_model.items():
        prompts, place = np.unique(own.uids, return_inverse=True)
        if not len(prompts):
            made.append(_nothing(model, own))
            continue
        times = np.array(own.times, dtype=np.float64)
        won = np.bincount(place, times * np.array(own.won))
        whole = np.bincount(place, times)
        samples = resampled(len(prompts), seed, "arena hard", model)
        values = (samples @ won) / (samples @ whole)
        facts: Facts = {
            "score": float(won.sum() / whole.sum()),
            "se": float(values.std(ddof=1)),
            "interval": list(interval(values)),
        }
        made.append({"model": model, **facts, "prompts": len(prompts), "missing": own.missing})
    return sorted(made, key=lambda f: -(f["score"] if f["score"] is not None else -1))


def controlled(
    by_model: Mapping[str, Battles], styles: Mapping[str, Mapping[str, Sequence[float]]], baseline: str, seed: int
) -> list[Facts]:
    """The same, controlled for style. styles: by model, the baseline's too, and uid: [tokens, headers, lists, bold].

    Battles of prompts whose style is not known of both sides are left out. Features are standardised over all battles. Raises
    DataError where no battle is left."""
    rows = [
        (m, uid, won, times)
        for m, own in by_model.items()
        for uid, won, times in zip(own.uids, own.won, own.times, strict=True)
        if uid in styles.get(m, {}) and uid in styles.get(baseline, {})
    ]
    if not rows:
        raise DataError("no battle has the answers of both sides", "model_answer", f"add those of {baseline} and of the models")
    models = list(dict.fromkeys(m for m, *_ in rows))
    ours = np.array([styles[m][uid] for m, uid, *_ in rows])
    style = features(ours, np.array([styles[baseline][uid] for _, uid, *_ in rows]))
    spread = style.std(0)
    style = (style - style.mean(0)) / np.where(spread > 0, spread, 1)
    which = np.array([[float(m == name) for name in models] for m, *_ in rows])
    design = np.concatenate([which, style], 1)
    won, times = (np.array([r[k] for r in rows], dtype=np.float64) for k in (2, 3))
    prompts, place = np.unique([uid for _, uid, *_ in rows], return_inverse=True)
    ridge = np.full(design.shape[1], 1e-6)
    weights, _ = logistic(design, won, ridge, times)
    samples = resampled(len(prompts), seed, "arena hard", "style")[:REFITS]
    refitted = np.stack([logistic(design, won, ridge, times * sample[place])[0] for sample in samples])
    rates = 1 / (1 + np.exp(-refitted))
    made: list[Facts] = [
        {
            "model": name,
            "score": float(1 / (1 + np.exp(-weights[k]))),
            "se": float(rates[:, k].std(ddof=1)),
            "interval": list(interval(rates[:, k])),
            "prompts": len({u for m, u, *_ in rows if m == name}),
            "missing": by_model[name].missing,
        }
        for k, name in enumerate(models)
    ]
    without = [m for m in by_model if m not in models]
    return sorted(made, key=lambda f: -f["score"]) + [_nothing(m, by_model[m]) for m in without]


def _nothing(model: str, own: Battles) -> Facts:
    """Of a model without any battle."""
    return {"model": model, "score": None, "se": None, "interval": None, "prompts": 0, "missing": own.missing}


def features(ours: Floats, theirs: Floats) -> Floats:
    """Differences of style [n, 4] of [n, 4] counts: (a - b) / (a + b) of lengths, (a - b) / (a + b + 1) of counts per token."""
    made = np.zeros_like(ours)
    made[:, 0] = (ours[:, 0] - theirs[:, 0]) / (ours[:, 0] + theirs[:, 0])
    one, other = (counts[:, 1:] / counts[:, :1] for counts in (ours, theirs))
    made[:, 1:] = (one - other) / (one + other + 1)
    return made


# ---- the command ----


def add_answers(folder: Path, file: Path) -> str:
    """Write a system's AlpacaEval file as answers to the questions; its name. What has no question, or no answer, is counted
    aloud."""
    by_prompt = {q.prompt: q.uid for q in questions(folder).values()}
    given = win_rate.read(file)
    name = next(iter(given.values()))[1].replace("/", "-")
    rows = [answer_row(by_prompt[i], name, i, text) for i, (text, _) in given.items() if i in by_prompt]
    if any(lacking := (len(given) - len(rows), len(by_prompt) - len(rows))):
        print(f"arena-hard: {file}: {lacking[0]} answers to no question, {lacking[1]} questions unanswered", file=sys.stderr)
    if not rows:
        raise DataError(
            "no answer is to a question of the set", str(file), f"answer the prompts of {folder / 'question.jsonl'}"
        )
    write(folder / "model_answer" / f"{name}.jsonl", rows)
    return name


def judge(results: Results, folder: Path, name: str, baseline: str) -> None:
    """Let a judge of the recipe compare every model that has answers with the baseline, in both orders. Verdicts on texts that
    it has seen are kept in the results folder: asking again costs nothing, and what failed is asked again."""
    asked, theirs = questions(folder), answers(folder, baseline)
    done = folder / "model_judgment" / name
    own = judge_named(results.settings, name)
    for path in sorted((folder / "model_answer").glob("*.jsonl")):
        if path.stem == baseline:
            continue
        ours = answers(folder, path.stem)
        shared = [uid for uid in asked if uid in ours and uid in theirs]
        if len(shared) < len(asked):
            print(
                f"arena-hard: {path.stem}: {len(asked) - len(shared)} questions lack an answer of either side", file=sys.stderr
            )
        pairs = [text_pair(asked[u].prompt, ours[u]["answer"], theirs[u]["answer"]) for u in shared]
        with ChunkStore(results.chunks("arena-hard", judge_unit(own))) as store:
            verdicts = judged(results, own, pairs, store)
        rows = [judgment_row(asked[u], name, path.stem, baseline, v) for u, v in zip(shared, verdicts, strict=True)]
        write(done / path.name, rows)


def leaderboard(folder: Path, name: str, baseline: str, style: bool, category: str | None, seed: int = 0) -> list[Facts]:
    """Every model that the judge has judged."""
    found = {m: battles(folder, name, m, baseline, category) for m in judged_models(folder, name) if m != baseline}
    others = sum((own.others for own in found.values()), Counter[str]())
    if others and not any(own.uids for own in found.values()):
        where = str(folder / "model_judgment")
        raise DataError(
            f"no judgment is against {baseline}{did_you_mean(baseline, others)}", where, f"name one of {sorted(others)}"
        )
    if others:
        print(f"arena-hard: {others.total()} judgments are against other baselines: {dict(others)}", file=sys.stderr)
    if not style:
        return scores(found, seed)
    styles = {m: {uid: a["style"] for uid, a in answers(folder, m).items()} for m in [*found, baseline]}
    return controlled(found, styles, baseline, seed)


def render(found: Sequence[Facts], baseline: str, what: str) -> str:
    """What the command prints."""
    width = max(len("model"), *(len(f["model"]) for f in found))
    lines = [f"{what}, against {baseline}", f"{'model':<{width}}  score          95 %            prompts  missing"]
    for f in found:
        if f["score"] is None:
            lines.append(f"{f['model']:<{width}}  n/a            n/a             {f['prompts']:<7}  {f['missing']}")
            continue
        low, high = f["interval"]
        value = f"{f['score']:.3f} ± {f['se']:.3f}"
        lines.append(f"{f['model']:<{width}}  {value:<13}  {low:.3f}..{high:.3f}    {f['prompts']:<7}  {f['missing']}")
    return "\n".join(lines)


def write(path: Path, rows: Sequence[Facts]) -> None:
    """A file of one object a line, whole or not at all."""
    atomic.atomic_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
