"""Stage `decontaminate`: prompts for training that repeat a run of words of an evaluation set are dropped.

A prompt shares at least one n-gram of words with the set's text (12 by default); a shorter evaluation text counts where
the whole prompt is that text. Held-out prompts stay: they are evaluated on, not trained on.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from prefdata.recipe.job import Job, each_part
from prefdata.recipe.prompts import PROMPTS, prompt_drops
from prefdata.recipe.settings.data import DecontaminateSettings
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage, without
from prefdata.sources.evaluation_sets import texts
from prefdata.sources.words import ngrams, words
from prefdata.stages.graph import OF_DROPPED
from prefdata.tables import schema
from prefdata.tables.drops import drops_of
from prefdata.tables.views import Frames

TRAINED_ON = ("sft", "train")


def decontaminate(frames: Frames, job: Job) -> Frames:
    """prompts, splits -> drops of scope prompt, reason contaminated, the evaluation set in the detail."""
    settings = job.settings.decontaminate or DecontaminateSettings(against=[])
    trained = frames["splits"].filter(pl.col("split").is_in(TRAINED_ON))
    prompts = schema.alive(frames["prompts"], frames["drops"]).join(trained, on="prompt_id", how="semi")
    known = index(settings)
    found = {
        row["prompt_id"]: hit
        for row in prompts.select("prompt_id", "messages").to_dicts()
        if (hit := first_overlap([m["content"] for m in row["messages"]], known, settings.ngram))
    }
    dropped = prompts.filter(pl.col("prompt_id").is_in(list(found))).select("prompt_id", "source", "source_row")
    named = dropped.with_columns(pl.Series("where", [found[i] for i in dropped["prompt_id"]], dtype=pl.String))
    return {"drops": drops_of(named, "decontaminate", "contaminated", pl.col("where"))}


@dataclass(frozen=True)
class Index:
    """Runs of words, and whole short texts, of every evaluation set, with the name of the first set that has each."""

    runs: dict[str, str]
    whole: dict[str, str]
    ends: frozenset[str]
    """First and last word of each run: few runs of a clean prompt have such a pair, and only these are looked up."""


@lru_cache(maxsize=1)
def _index(text: str, stamps: tuple[int, ...]) -> Index:
    settings = DecontaminateSettings.model_validate_json(text)
    runs: dict[str, str] = {}
    whole: dict[str, str] = {}
    ends: set[str] = set()
    for each in settings.against:
        for where, evaluated in texts(each):
            listed = words(evaluated)
            place = runs if len(listed) >= settings.ngram else whole
            ends.update(_ends(listed, settings.ngram))
            for run in ngrams(listed, settings.ngram):
                place.setdefault(run, f"{each.name} ({where})")
    return Index(runs, whole, frozenset(ends))


def index(settings: DecontaminateSettings) -> Index:
    """The sets' runs of words, read once a process."""
    local = [Path(e.path).expanduser() for e in settings.against if e.path is not None]
    return _index(settings.model_dump_json(), tuple(p.stat().st_mtime_ns for p in local if p.exists()))


def _ends(listed: list[str], n: int) -> list[str]:
    """First and last word of every run of n words."""
    return list(map(" ".join, zip(listed, listed[n - 1 :], strict=False)))


def first_overlap(contents: list[str], known: Index, n: int) -> str | None:
    """The evaluation set that one of a prompt's messages repeats, and where; None for a clean prompt."""
    for content in contents:
        listed = words(content)
        for start, ends in enumerate(_ends(listed, n)):
            if ends in known.ends and (run := " ".join(listed[start : start + n])) in known.runs:
                return known.runs[run]
        if (exact := known.whole.get(" ".join(listed))) is not None:
            return exact
    return None


def _evaluation_files(settings: Settings, unit: str) -> list[Path]:
    """Local files of the evaluation sets."""
    against = settings.decontaminate.against if settings.decontaminate else []
    return [p for e in against if e.path and (p := Path(e.path).expanduser()).is_file()]


STAGE = Stage(
    name="decontaminate",
    help="Drop training prompts that repeat an evaluation set.",
    version=2,
    run=each_part(decontaminate),
    writes=("drops",),
    units=lambda s: ["all"] if s.decontaminate else [],
    reads=lambda s, u: [*PROMPTS, *(p for p in prompt_drops(s) if p.stage != "decontaminate")],
    columns={"prompts": ("prompt_id", "messages", "source", "source_row"), "drops": OF_DROPPED},
    reads_outside=_evaluation_files,
    slice=lambda s, u: without(s.decontaminate) if s.decontaminate else {},
)
