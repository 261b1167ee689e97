"""Stage `win_rate`: a judge compares trained models' greedy answers with the first one's, or fixed ones, in both orders."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from prefdata.errors import DataError
from prefdata.judging.measures.win_rate import common, differences, facts_of, of_all, outputs, read, worth
from prefdata.judging.rubric import conversation
from prefdata.judging.text_pairs import TextPair
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.prompts import PROMPTS
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, evaluation_unit, judge_settings, judge_unit
from prefdata.stages.judge import model_of, slice_of
from prefdata.tables import atomic
from prefdata.tables.messages import prompt_of


def run(job: Job) -> None:
    """Write report/win_rate.json, and each run's greedy answers as AlpacaEval's file, report/answers/<unit>.json."""
    names = job.settings.evaluated
    unit = _judge(job.settings)
    settings = judge_settings(job.settings, unit)
    prompts = {r["prompt_id"]: r for part in job.parts() for r in part["prompts"].to_dicts()}
    answers = {name: _greedy(job, name) for name in names}
    for name in names:
        texts = {conversation(prompt_of(prompts[i])): text for i, text in answers[name].items()}
        atomic.atomic_text(job.output(places.answers(name)), outputs(name, texts))
    base, fixed = _baseline(job, prompts, answers)
    compared = [name for name in names if job.settings.evaluate.baseline is not None or name != base]
    shared, found, values = common({base: fixed, **{n: answers[n] for n in compared}}), [], {}
    pairs = {name: [TextPair(prompts[i], answers[name][i], fixed[i]) for i in shared] for name in compared}
    with job.store(unit) as store:
        for name, verdicts in of_all(job, settings, pairs, store).items():
            found.append(facts_of(name, pairs[name], verdicts))
            values[name] = np.array([worth(v) for v in verdicts])
    apart = differences(values, job.settings.seed)
    facts = {"judge": settings.name, "baseline": base, "systems": found, "differences": apart}
    job.write_json(places.WIN_RATES, facts)


def _baseline(
    job: Job, prompts: Mapping[str, Mapping[str, Any]], answers: Mapping[str, Mapping[str, str]]
) -> tuple[str, Mapping[str, str]]:
    """Name and answers of what is compared with: the first run, or the file of fixed answers, told by what it was asked."""
    if job.settings.evaluate.baseline is None:
        return next(iter(answers.items()))
    file = Path(job.settings.evaluate.baseline).expanduser()
    given = read(file)
    asked = {i: conversation(prompt_of(prompts[i])) for own in answers.values() for i in own}
    found = {i: given[text][0] for i, text in asked.items() if text in given}
    if unmatched := len(asked) - len(found):
        print(f"win_rate: {unmatched} of {len(asked)} prompts have no answer in {file}", file=sys.stderr)
    if not found:
        raise DataError("it answers none of the held-out prompts", str(file), "its instruction must be the prompt's text")
    return f"{next(iter(given.values()))[1]} ({file.name})", found  # an evaluated run may have the same name


def _greedy(job: Job, name: str) -> dict[str, str]:
    """prompt_id -> greedy answer of an evaluated run."""
    frame = job.table(_answers(name))
    return dict(frame.filter(pl.col("temperature") == 0).select("prompt_id", "response").iter_rows())


def _judge(settings: Settings) -> str:
    """The unit of the judge that compares trained models."""
    return judge_unit(next(j for j in settings.judge if j.name == settings.evaluate.judge))


def _answers(run: str) -> Part:
    return Part("candidates", "evaluate", evaluation_unit(run))


def _fixed(settings: Settings) -> dict[str, str]:
    return {"baseline": settings.evaluate.baseline} if settings.evaluate.baseline else {}


STAGE = Stage(
    name="win_rate",
    help="Let a judge compare trained models' greedy answers with the first one's, in both orders.",
    version=1,
    run=run,
    per="run",
    units=lambda s: ["all"] if s.evaluate.judge else [],
    reads=lambda s, u: [*PROMPTS, *map(_answers, s.evaluated)],
    reads_outside=lambda s, u: [Path(s.evaluate.baseline).expanduser()] if s.evaluate.baseline else [],
    writes_files=lambda s, u: places.win_rate_files(s),
    slice=lambda s, u: {"runs": s.evaluated, "judge": slice_of(s, _judge(s)), **_fixed(s)},
    models=lambda s, u: model_of(s, _judge(s)),
    engine=lambda s, u: judge_settings(s, _judge(s)).model,
)
