"""Stage `win_rate`: a judge compares trained models' greedy answers with the first one's, in both orders."""

import json
from pathlib import Path

import numpy as np
import polars as pl

from prefdata.judging.measures.win_rate import common, differences, facts_of, of_all, outputs, worth
from prefdata.judging.rubric import conversation
from prefdata.judging.text_pairs import TextPair
from prefdata.recipe.job import Job
from prefdata.recipe.results import Run
from prefdata.recipe.units import Part, unit_of, win_rate_judge
from prefdata.recipe.units import judge as judge_settings
from prefdata.tables import atomic, files

STAGE_VERSION = 1


def run(job: Job) -> None:
    """Write report/win_rate.json, and each run's greedy answers as AlpacaEval's file, report/answers/<unit>.json."""
    names = job.settings.evaluate.runs
    settings = judge_settings(job.settings, win_rate_judge(job.settings))
    prompts = {r["prompt_id"]: r for part in job.parts() for r in part["prompts"].to_dicts()}
    answers = {name: _greedy(job.run, name) for name in names}
    for name in names:
        texts = {conversation(prompts[i]["messages"]): text for i, text in answers[name].items()}
        atomic.atomic_text(answers_path(job.run, name), outputs(name, texts))
    shared, found, values = common(answers), [], {}
    pairs = {name: [TextPair(prompts[i], answers[name][i], answers[names[0]][i]) for i in shared] for name in names[1:]}
    for name, verdicts in of_all(job.run, settings, pairs, "win_rate").items():
        found.append(facts_of(name, pairs[name], verdicts))
        values[name] = np.array([worth(v) for v in verdicts])
    apart = differences(values, job.settings.seed)
    facts = {"judge": settings.name, "baseline": names[0], "systems": found, "differences": apart}
    atomic.atomic_text(path(job.run), json.dumps(facts, indent=1, sort_keys=True))


def _greedy(run: Run, name: str) -> dict[str, str]:
    """prompt_id -> greedy answer of an evaluated run."""
    part = Part("candidates", "evaluate", unit_of(f"run:{name}"))
    frame = pl.concat([files.read_table(run.table(part, s), "candidates") for s in run.shards])
    return dict(frame.filter(pl.col("temperature") == 0).select("prompt_id", "response").iter_rows())


def path(run: Run) -> Path:
    return run.root / "report" / "win_rate.json"


def answers_path(run: Run, name: str) -> Path:
    return run.root / "report" / "answers" / f"{unit_of(f'run:{name}')}.json"


def files_of(run: Run) -> list[str]:
    """What the stage writes, for Snakemake; nothing where no judge compares the runs."""
    if run.settings.evaluate.judge is None:
        return []
    return [str(path(run)), *(str(answers_path(run, name)) for name in run.settings.evaluate.runs)]
