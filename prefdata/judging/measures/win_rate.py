"""Stage `win_rate`, and `prefdata win-rate`: how often systems win against a baseline, by a judge.

Adjusted for ties, with standard errors over prompts, paired bootstraps between systems, length-controlled, and mean lengths
beside every number; AlpacaEval's files in and out.

Adjusted win rate = (wins + ties / 2) / prompts; a prompt's value is the mean of both orders, so that a judge who looks at the
place alone gives 1/2 to everybody. The length-controlled one is AlpacaEval 2's regression (arXiv 2404.04475) without its term
for an instruction's difficulty, which needs many systems: P(win) = sigmoid(theta + phi tanh(d / sd(d))), d the difference of
lengths in characters, read at d = 0.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from prefdata.errors import DataError
from prefdata.judging.measures.estimates import Floats, interval, logistic, resampled
from prefdata.judging.procedures.verdicts import Outcome
from prefdata.judging.text_pairs import TextPair, judge_named, judged, text_pair
from prefdata.recipe.results import Models, Results
from prefdata.recipe.settings.judging import JudgeSettings
from prefdata.recipe.units import judge_unit
from prefdata.sources import readers
from prefdata.sources.rows import Fields
from prefdata.sources.shapes import alpaca_eval
from prefdata.tables.finished import ChunkStore

Facts = dict[str, Any]
WORTH: dict[Outcome, float] = {"a": 1.0, "b": 0.0, "tie": 0.5, "inconsistent": 0.5}


def read(path: Path) -> dict[str, tuple[str, str]]:
    """An AlpacaEval file of one system: instruction -> (answer, generator). Raises ConfigError, DataError (file:row:field)."""
    found: dict[str, tuple[str, str]] = {}
    for where, row in readers.from_file(path, "FILE", arrays=True):
        fields = Fields(row, alpaca_eval.SHAPE.fields, where, "give each row instruction and output, as AlpacaEval does")
        instruction = alpaca_eval.instruction(fields)
        if instruction in found:
            raise DataError("this instruction occurs twice in the file", where, "give the answers of one system")
        found[instruction] = (fields.text("answer"), fields.get("model", str) if fields.has("model") else path.stem)
    return found


def common(systems: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The instructions that every system answered, in the order of the first. Raises DataError where there are none."""
    first, *others = systems.values()
    shared = [i for i in first if all(i in other for other in others)]
    if not shared:
        raise DataError("no instruction is answered by every system", " ".join(systems), "compare answers to the same prompts")
    return shared


def of_files(
    results: Results, judge: str, systems: Sequence[Path], against: Path
) -> tuple[list[Facts], list[Facts], list[Facts], str]:
    """Facts of every system, differences, AlpacaEval annotations and the baseline's name."""
    read_ = {str(p): read(p) for p in [*systems, against]}
    shared = common(read_)
    if any(left := [len(answers) - len(shared) for answers in read_.values()]):
        print(f"win-rate: {' + '.join(map(str, left))} instructions have no partner ({', '.join(read_)})", file=sys.stderr)
    base = read_[str(against)]
    baseline = base[shared[0]][1]
    own = judge_named(results.settings, judge)
    pairs: dict[str, list[TextPair]] = {}
    for path in systems:
        answers = read_[str(path)]
        name = answers[shared[0]][1]
        if name in pairs:
            raise DataError(f"two systems are called {name}", str(path), "use a different `generator` in each file")
        pairs[name] = [text_pair(i, answers[i][0], base[i][0]) for i in shared]
    found, values, notes = [], {}, []
    with ChunkStore(results.chunks("win-rate", judge_unit(own))) as store:
        for name, verdicts in of_all(results, own, pairs, store).items():
            found.append(facts_of(name, pairs[name], verdicts))
            values[name] = np.array([worth(v) for v in verdicts])
            notes += annotations(judge, (name, baseline), pairs[name], verdicts)
    return found, differences(values, results.settings.seed), notes, baseline


def of_all(
    models: Models, settings: JudgeSettings, pairs: Mapping[str, Sequence[TextPair]], store: ChunkStore
) -> dict[str, list[dict[str, Outcome]]]:
    """The verdicts of every system's pairs, of one start of the judge."""
    said = iter(judged(models, settings, [p for own in pairs.values() for p in own], store))
    return {name: [next(said) for _ in own] for name, own in pairs.items()}


def worth(orders: Mapping[str, Outcome]) -> float:
    """What a prompt is worth to side a: the mean of both orders; NaN where one has no verdict, for the other alone would
    count the place."""
    known = [WORTH[o] for o in orders.values() if o != "missing"]
    return sum(known) / len(known) if len(known) == len(orders) else math.nan


def facts_of(name: str, pairs: Sequence[TextPair], verdicts: Sequence[Mapping[str, Outcome]]) -> Facts:
    """The figures of one system, side a, against the baseline, side b."""
    values = np.array([worth(v) for v in verdicts])
    known = ~np.isnan(values)
    lengths = np.array([[len(p.a), len(p.b)] for p in pairs], dtype=np.float64)
    won = values[known]
    both = [set(v.values()) for v in verdicts]
    return {
        "system": name,
        "prompts": len(pairs),
        "missing": int((~known).sum()),
        "win_rate": float(won.mean()) if len(won) else None,
        "se": float(won.std(ddof=1) / math.sqrt(len(won))) if len(won) > 1 else None,
        "length_controlled": length_controlled(won, lengths[known]) if len(won) > 1 else None,
        "inconsistent": sum("missing" not in said and len(said) > 1 for said in both) / max(len(pairs), 1),
        "mean_length": float(lengths[:, 0].mean()),
        "mean_length_baseline": float(lengths[:, 1].mean()),
    }


def length_controlled(won: Floats, lengths: Floats) -> float:
    """The win rate at equal lengths. won: [n] in [0, 1]; lengths: [n, 2] of the system and of the baseline."""
    difference = lengths[:, 0] - lengths[:, 1]
    spread = difference.std()
    longer = np.tanh(difference / spread) if spread > 0 else np.zeros(len(won))
    weights, _ = logistic(np.stack([np.ones(len(won)), longer], 1), won, np.array([1e-6, 1e-2]))
    return float(1 / (1 + math.exp(-weights[0])))


def differences(values: Mapping[str, Floats], seed: int) -> list[Facts]:
    """Of every two systems the difference of their win rates with a 95 % interval over the same resampled prompts; prompts
    that lack a verdict for either are left out, and systems that share none have no difference."""
    made = []
    for one, other in combinations(values, 2):
        gap = values[one] - values[other]
        gap = gap[~np.isnan(gap)]
        if len(gap):
            means = resampled(len(gap), seed, "win rate", one, other) @ gap / len(gap)
            made.append({"one": one, "other": other, "difference": float(gap.mean()), "interval": list(interval(means))})
    return made


def annotations(
    judge: str, names: tuple[str, str], pairs: Sequence[TextPair], verdicts: Sequence[Mapping[str, Outcome]]
) -> list[Facts]:
    """AlpacaEval's annotations: output_1 is the baseline's, preference 2 means that output_2, the system's, is better."""
    return [
        {
            "instruction": p.prompt["messages"][-1]["content"],
            "output_1": p.b,
            "generator_1": names[1],
            "output_2": p.a,
            "generator_2": names[0],
            "annotator": judge,
            "preference": None if math.isnan(value := worth(v)) else 1 + value,
        }
        for p, v in zip(pairs, verdicts, strict=True)
    ]


def outputs(name: str, answers: Mapping[str, str]) -> str:
    """AlpacaEval's file of one system's answers."""
    rows = [{"instruction": i, "output": o, "generator": name} for i, o in answers.items()]
    return json.dumps(rows, indent=1, ensure_ascii=False)


def render(found: Sequence[Facts], apart: Sequence[Facts], baseline: str) -> str:
    """What the command prints."""
    width = max(len(f["system"]) for f in found)
    head = f"{'system':<{width}}  win rate       length-controlled  inconsistent  missing  characters (baseline)"
    lines = [f"against {baseline}, {found[0]['prompts']} prompts, both orders", head]
    for f in found:
        rate = "n/a" if f["win_rate"] is None else f"{f['win_rate']:.3f} ± {f['se'] or 0:.3f}"
        controlled = "n/a" if f["length_controlled"] is None else f"{f['length_controlled']:.3f}"
        lengths = f"{f['mean_length']:.0f} ({f['mean_length_baseline']:.0f})"
        row = f"{f['system']:<{width}}  {rate:<13}  {controlled:<17}  {f['inconsistent']:<12.3f}  {f['missing']:<7}  {lengths}"
        lines.append(row)
    for d in apart:
        low, high = d["interval"]
        lines.append(f"{d['one']} less {d['other']}: {d['difference']:+.3f}  {low:+.3f}..{high:+.3f}")
    return "\n".join(lines)
