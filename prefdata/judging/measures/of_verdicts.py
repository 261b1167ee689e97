"""Stage `judge_report`: what a judge's verdicts say about the judge: consistency, position and length bias, ties, missing
verdicts, cycles, agreement with the recipe's other judges, calls against their bound, tokens and cost.

Nothing here knows the truth: a longer answer may be longer because it is better. docs/judges.md says how to read it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from prefdata.judging.measures.estimates import Floats, kappa, logistic, share
from prefdata.judging.procedures import PROCEDURES
from prefdata.judging.procedures.verdicts import Outcome, Pair, contenders, pair_of, settled
from prefdata.judging.registry import KINDS
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.tables import schema
from prefdata.tables.views import Frames

Facts = dict[str, Any]
DECIDED = ("a", "b")


@dataclass
class Gathered:
    """Over all prompts: one entry a verdict, a pair, a triple."""

    reasons: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    first: list[tuple[float, float]] = field(default_factory=list)
    """Of every decided verdict: 1 where the answer read first won, and the sign of how much longer it was."""
    calls: int = 0
    bound: int = 0
    tokens: int = 0
    cost: float = 0.0
    both: int = 0
    longer: int = 0
    unequal: int = 0
    triples: int = 0
    cycles: int = 0
    rounds: int = 0
    against: dict[str, Counter[str]] = field(default_factory=dict)
    scores: list[tuple[float, float]] = field(default_factory=list)
    """Of every scored answer: score and length."""


def gather(parts: Iterable[Frames], own: JudgeSettings, judges: Sequence[JudgeSettings]) -> Gathered:
    """One pass over the shards. `judges`: all of the recipe."""
    found = Gathered()
    for frames in parts:
        mine = of_judge(frames["verdicts"], own)
        lengths = dict(frames["candidates"].select("candidate_id", pl.col("response").str.len_chars()).iter_rows())
        _verdicts(mine, lengths, found)
        if KINDS[own.kind].compares:
            _pairs(frames, mine, lengths, own, judges, found)
    return found


def of_judge(verdicts: pl.DataFrame, judge: JudgeSettings) -> pl.DataFrame:
    return verdicts.filter(pl.col("judge").str.starts_with(f"{judge.name}@"))


def _verdicts(verdicts: pl.DataFrame, lengths: Mapping[str, int], found: Gathered) -> None:
    names = ("a", "b", "order", "outcome", "reason", "score", "tokens", "cost", "round")
    for a, b, order, outcome, reason, score, tokens, cost, round_ in verdicts.select(names).iter_rows():
        found.calls += 1
        found.tokens += tokens or 0
        found.cost += cost or 0.0
        found.rounds = max(found.rounds, round_)
        if b is None:
            if score is None:
                found.reasons[reason or "missing"] += 1
            else:
                found.scores.append((score, lengths[a]))
            continue
        found.outcomes[outcome] += 1
        if outcome == "missing":
            found.reasons[(reason or "missing").partition(":")[0]] += 1
        elif outcome in DECIDED:
            shown_first, shown_second = (a, b) if order == "ab" else (b, a)
            won_first = (outcome == "a") == (order == "ab")
            found.first.append((float(won_first), float(np.sign(lengths[shown_first] - lengths[shown_second]))))


def _pairs(
    frames: Frames,
    verdicts: pl.DataFrame,
    lengths: Mapping[str, int],
    own: JudgeSettings,
    judges: Sequence[JudgeSettings],
    found: Gathered,
) -> None:
    kept = schema.alive(frames["candidates"], frames["drops"])
    sizes = dict(contenders(kept, own.truncated).group_by("prompt_id").len().iter_rows())
    others = {j.name: _settled(of_judge(frames["verdicts"], j)) for j in judges if j != own and KINDS[j.kind].compares}
    for prompt, pairs in _settled(verdicts).items():
        found.bound += PROCEDURES[own.procedure].most(sizes[prompt])
        for pair, outcome in pairs.items():
            found.outcomes[f"pair:{outcome}"] += 1
            if outcome in DECIDED and lengths[pair[0]] != lengths[pair[1]]:
                found.unequal += 1
                found.longer += (outcome == "a") == (lengths[pair[0]] > lengths[pair[1]])
            for name, theirs in others.items():
                said = theirs.get(prompt, {}).get(pair)
                if said is not None:
                    found.against.setdefault(name, Counter())[f"{outcome}/{said}"] += 1
        _triples(pairs, found)
    found.both += verdicts.group_by("prompt_id", "a", "b").len().filter(pl.col("len") == 2).height


def _settled(verdicts: pl.DataFrame) -> dict[str, dict[Pair, Outcome]]:
    return {str(prompt): settled(own) for (prompt,), own in verdicts.partition_by("prompt_id", as_dict=True).items()}


def _triples(pairs: Mapping[Pair, Outcome], found: Gathered) -> None:
    """Triples of which all pairs have a winner, and how many go round."""
    won = {pair: pair[0] if outcome == "a" else pair[1] for pair, outcome in pairs.items() if outcome in DECIDED}
    names = sorted({name for pair in won for name in pair})
    for triple in combinations(names, 3):
        sides = [pair_of(one, other) for one, other in combinations(triple, 2)]
        if all(side in won for side in sides):
            found.triples += 1
            found.cycles += len({won[side] for side in sides}) == 3


def facts_of(own: JudgeSettings, found: Gathered) -> Facts:
    """The figures of a judge that compares."""
    pairs = {k: found.outcomes[f"pair:{k}"] for k in ("a", "b", "tie", "inconsistent", "missing")}
    # a pair asked in one order only can neither agree nor disagree
    agreeing = found.both - pairs["inconsistent"] - pairs["missing"]
    whole = agreeing + pairs["inconsistent"]
    first = np.array(found.first, dtype=np.float64).reshape(-1, 2)
    return {
        "judge": own.name,
        "procedure": own.procedure,
        "calls": found.calls,
        "calls_bound": 2 * found.bound,
        "rounds": found.rounds,
        "tokens": found.tokens,
        "cost": found.cost,
        "pairs": sum(pairs.values()),
        "ties": share(pairs["tie"], sum(pairs.values())),
        "missing": {"verdicts": share(found.outcomes["missing"], found.calls), "reasons": dict(found.reasons)},
        "consistency": share(agreeing, whole),
        "first_place": {**share(int(first[:, 0].sum()), len(first)), **bias(first)},
        "longer_won": share(found.longer, found.unequal),
        "cycles": share(found.cycles, found.triples),
        "agreement": {name: agreement(counts) for name, counts in sorted(found.against.items())},
    }


def scored_facts(own: JudgeSettings, found: Gathered) -> Facts:
    """The figures of a judge that scores alone."""
    values = np.array(found.scores, dtype=np.float64).reshape(-1, 2)
    spread = len(values) > 2 and values.std(0).min() > 0
    by_length = float(np.corrcoef([pl.Series(column).rank("average") for column in values.T])[0, 1]) if spread else None
    return {
        "judge": own.name,
        "procedure": "scores",
        "calls": found.calls,
        "missing": {"verdicts": share(found.calls - len(values), found.calls), "reasons": dict(found.reasons)},
        "score": {"mean": float(values[:, 0].mean()), "sd": float(values[:, 0].std())} if len(values) else None,
        "rank_correlation_with_length": by_length,
    }


def bias(first: Floats) -> Facts:
    """Log-odds that the answer read first wins, at equal lengths, and what being the longer one adds: a logistic regression
    of (won, sign of the length difference) [n, 2]. Verdicts of one pair are not independent, so the standard errors are lower
    bounds."""
    if len(first) < 10 or len(set(first[:, 0])) < 2:
        return {"log_odds": None, "log_odds_se": None, "longer_log_odds": None, "longer_log_odds_se": None}
    design = np.stack([np.ones(len(first)), first[:, 1]], 1)
    weights, errors = logistic(design, first[:, 0], np.full(2, 1e-3))
    return {
        "log_odds": float(weights[0]),
        "log_odds_se": float(errors[0]),
        "longer_log_odds": float(weights[1]),
        "longer_log_odds_se": float(errors[1]),
    }


def agreement(counts: Counter[str]) -> Facts:
    """With another judge, over the pairs that both decided: the share, and Cohen's kappa (1960)."""
    decided = {tuple(k.split("/")): n for k, n in counts.items() if all(side in DECIDED for side in k.split("/"))}
    if not decided:
        return {**share(0, 0), "kappa": None}
    mine, theirs = np.array([[DECIDED.index(side) for side in both] for both in decided], dtype=np.int64).T
    times = np.array(list(decided.values()), dtype=np.float64)
    return {**share(int(times[mine == theirs].sum()), int(times.sum())), "kappa": kappa(mine, theirs, times)}


# ---- as text ----


def render(facts: Sequence[Facts]) -> list[Any]:
    """Tables of all judges, for the summary."""
    from rich.table import Table

    table = Table(
        "judge", "procedure", "calls", "bound", "missing", "ties", "consistent", "first place", "longer won", "cycles"
    )
    table.title = "Judges: shares ± standard error; first place, longer won: 0.5 is no bias, but longer may be better"
    for f in facts:
        of = [f.get(k) for k in ("ties", "consistency", "first_place", "longer_won", "cycles")]
        bound = str(f.get("calls_bound", ""))
        table.add_row(f["judge"], f["procedure"], str(f["calls"]), bound, _shown(f["missing"]["verdicts"]), *map(_shown, of))
    return [table] if facts else []


def _shown(figure: Facts | None) -> str:
    if not figure or figure["share"] is None:
        return "n/a"
    return f"{figure['share']:.3f} ± {figure['se']:.3f}"
