"""How far judges agree with people: `prefdata judge-check PAIRS`, recorded judges and those of a recipe.

A file of pairs holds {prompt, a, b, human, judges} a line: `human` is the people's majority (a, b or tie), `judges` maps the
name of a judge to the verdict recorded for it (a, b or tie; anything else is missing). Two yardsticks are added as judges of
their own: whichever answer is longer, and whichever stands first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prefdata.errors import DataError
from prefdata.judging.measures.estimates import Codes, interval, kappa, resampled
from prefdata.judging.text_pairs import TextPair, judge_named, judged, text_pair, verdict
from prefdata.recipe.results import Results
from prefdata.recipe.units import judge_unit
from prefdata.sources import readers
from prefdata.sources.rows import Fields
from prefdata.tables.finished import ChunkStore

VERDICTS = ("a", "b", "tie")
MISSING = "missing"
LACKING = "give each row prompt, a, b and human"
LONGER, FIRST = "(the longer answer)", "(the first answer)"


@dataclass(frozen=True)
class Pairs:
    """Verdicts as places in VERDICTS, 3 = missing: of people [n], of each judge [n], and of a row's annotators; the texts."""

    human: Codes
    judges: dict[str, Codes]
    annotators: list[list[int]]
    texts: list[TextPair]


@dataclass(frozen=True)
class Agreement:
    """Of one judge: pairs, agreement with the people's majority (missing counts against it) and Cohen's kappa (1960), each with
    a 95 % interval over pairs; the shares of missing verdicts and, of the decided ones, of `a`."""

    judge: str
    pairs: int
    agreement: float
    agreement_interval: tuple[float, float]
    kappa: float
    kappa_interval: tuple[float, float]
    missing: float
    chose_first: float | None


def read(path: Path) -> Pairs:
    """A file of pairs. Raises ConfigError, DataError (file:row:field)."""
    human, rows, annotators, texts = [], [], [], []
    for where, row in readers.from_file(path, "PAIRS"):
        fields = Fields(row, {}, where, LACKING)
        human.append(_code(fields.get("human", str), fields.at("human")))
        # real files hold answers such as true or 7: texts that a converter took for values
        answers = [str(fields.get(name, str, bool, int, float)) for name in ("a", "b")]
        texts.append(text_pair(str(fields.get("prompt", str)), *answers))
        recorded = fields.get("judges", dict) if fields.has("judges") else {}
        rows.append({**{str(k): _place(v) for k, v in recorded.items()}, LONGER: _longer(*answers), FIRST: 0})
        if fields.has("annotators"):
            annotators.append([_code(v, fields.at("annotators")) for v in fields.get("annotators", list)])
    names = sorted({name for row in rows for name in row}, key=lambda n: (n in (LONGER, FIRST), n))
    judges = {name: np.array([row.get(name, len(VERDICTS)) for row in rows], dtype=np.int64) for name in names}
    return Pairs(np.array(human, dtype=np.int64), judges, annotators, texts)


def with_judge(pairs: Pairs, results: Results, name: str) -> Pairs:
    """The pairs with the verdicts of one of the recipe's judges, asked in both orders now or before; orders that disagree are
    a tie. Raises ConfigError, EngineError."""
    settings = judge_named(results.settings, name)
    with ChunkStore(results.chunks("judge-check", judge_unit(settings))) as store:
        said = [verdict(orders) for orders in judged(results, settings, pairs.texts, store)]
    codes = np.array([_place(v) for v in said], dtype=np.int64)
    recorded = {other: own for other, own in pairs.judges.items() if other != name}
    return replace(pairs, judges={name: codes, **recorded})


def _code(value: Any, at: str) -> int:
    if value not in VERDICTS:
        raise DataError(f"one of {', '.join(VERDICTS)} expected, not {value!r}", at, "correct the row")
    return VERDICTS.index(value)


def _place(value: Any) -> int:
    """A judge's verdict; whatever it said that is none of the three is missing."""
    return VERDICTS.index(value) if value in VERDICTS else len(VERDICTS)


def _longer(a: str, b: str) -> int:
    return 2 if len(a) == len(b) else int(len(b) > len(a))


def check(pairs: Pairs, seed: int = 0) -> tuple[list[Agreement], list[dict[str, Any]]]:
    """Every judge's agreement, and the difference of every two of them with its interval over the same resampled pairs."""
    weights = resampled(len(pairs.human), seed, "judge-check")
    found, rates = [], {}
    for name, verdicts in pairs.judges.items():
        right = (verdicts == pairs.human).astype(np.float64)
        rates[name] = weights @ right / len(right)
        kappas = np.array([kappa(pairs.human, verdicts, w) for w in weights])
        decided = verdicts[verdicts < 2]
        found.append(
            Agreement(
                name,
                len(right),
                float(right.mean()),
                interval(rates[name]),
                kappa(pairs.human, verdicts),
                interval(kappas),
                float((verdicts == len(VERDICTS)).mean()),
                float((decided == 0).mean()) if len(decided) else None,
            )
        )
    return found, [_difference(one, other, rates, found) for one, other in combinations(pairs.judges, 2)]


def _difference(
    one: str, other: str, rates: Mapping[str, npt.NDArray[np.float64]], found: Sequence[Agreement]
) -> dict[str, Any]:
    own = {f.judge: f.agreement for f in found}
    apart = interval(rates[one] - rates[other])
    return {"one": one, "other": other, "difference": own[one] - own[other], "interval": apart}


def among_people(pairs: Pairs) -> float | None:
    """How often two annotators of a pair agree; None where no pair has two."""
    shares = [np.mean([x == y for x, y in combinations(listed, 2)]) for listed in pairs.annotators if len(listed) > 1]
    return float(np.mean(shares)) if shares else None


def render(pairs: Pairs, found: Sequence[Agreement], differences: Sequence[Mapping[str, Any]]) -> str:
    """What the command prints."""
    lines = [f"{len(pairs.human)} pairs judged by people"]
    if (people := among_people(pairs)) is not None:
        lines.append(f"two annotators of a pair agree on {people:.1%}: no judge can be expected to do better")
    width = max(len(f.judge) for f in found)
    lines.append(f"\n{'judge':<{width}}  agreement  95 % interval   kappa  95 % interval   missing  chose a")
    for f in found:
        chose = "n/a" if f.chose_first is None else f"{f.chose_first:.1%}"
        lines.append(
            f"{f.judge:<{width}}  {f.agreement:>8.1%}  {_span(f.agreement_interval, 1)}  {f.kappa:>6.3f}  "
            f"{_span(f.kappa_interval, 3)}  {f.missing:>7.1%}  {chose:>7}"
        )
    lines.append("\ndifferences of agreement, over the same resampled pairs")
    for d in differences:
        apart = "" if d["interval"][0] <= 0 <= d["interval"][1] else "  *"
        lines.append(f"{d['one']} less {d['other']}: {d['difference']:+.1%}  {_span(d['interval'], 1)}{apart}")
    return "\n".join([*lines, "* the interval leaves 0 out"])


def _span(ends: tuple[float, float], digits: int) -> str:
    low, high = ends
    return f"{low:.1%}..{high:.1%}".center(14) if digits == 1 else f"{low:.3f}..{high:.3f}".center(14)
