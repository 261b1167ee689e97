"""Stage `decontaminate`: prompts for training that repeat a run of words of an evaluation set are dropped.

A prompt shares at least one n-gram of words with the set's text (12 by default); a shorter evaluation text counts where
the whole prompt is that text. Held-out prompts stay: they are evaluated on, not trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import polars as pl

from prefdata.errors import ConfigError, DataError
from prefdata.recipe.job import Frames, Job
from prefdata.recipe.settings import DecontaminateSettings, EvaluationSetSettings
from prefdata.sources import readers
from prefdata.sources.known_sets import KNOWN
from prefdata.sources.rows import Fields
from prefdata.sources.words import ngrams, words
from prefdata.tables import schema

STAGE_VERSION = 1
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
    return {
        "drops": dropped.with_columns(
            pl.lit("prompt").alias("scope"),
            pl.lit(None, dtype=pl.String).alias("candidate_id"),
            pl.lit("decontaminate").alias("stage"),
            pl.lit("contaminated").alias("reason"),
            pl.Series("detail", [found[i] for i in dropped["prompt_id"]], dtype=pl.String),
        )
    }


@dataclass(frozen=True)
class Index:
    """Runs of words, and whole short texts, of every evaluation set, with the name of the first set that has each."""

    runs: dict[str, str]
    whole: dict[str, str]


@lru_cache(maxsize=1)
def _index(text: str, stamps: tuple[int, ...]) -> Index:
    settings = DecontaminateSettings.model_validate_json(text)
    runs: dict[str, str] = {}
    whole: dict[str, str] = {}
    for each in settings.against:
        for where, evaluated in texts(each):
            listed = words(evaluated)
            place = runs if len(listed) >= settings.ngram else whole
            for run in ngrams(listed, settings.ngram):
                place.setdefault(run, f"{each.name} ({where})")
    return Index(runs, whole)


def index(settings: DecontaminateSettings) -> Index:
    """The sets' runs of words, read once a process."""
    local = [Path(e.path).expanduser() for e in settings.against if e.path is not None]
    return _index(settings.model_dump_json(), tuple(p.stat().st_mtime_ns for p in local if p.exists()))


def texts(evaluation: EvaluationSetSettings) -> Iterator[tuple[str, str]]:
    """("file:row", text) of every row of an evaluation set. Raises ConfigError, DataError."""
    path, field = _place(evaluation)
    for where, row in readers.from_file(path, f"decontaminate.against ({evaluation.name}).path", arrays=True):
        value = Fields(row, {}, where).get(field, str, list)
        yield where, value if isinstance(value, str) else _joined(value, f"{where}:{field}")


def _joined(turns: list[object], at: str) -> str:
    """Turns as texts or as {content} objects."""
    listed = [t.get("content") if isinstance(t, dict) else t for t in turns]
    if not all(isinstance(t, str) for t in listed):
        raise DataError("turns must be texts or objects with a content", at, "name another field")
    return "\n".join(str(t) for t in listed)


def _place(evaluation: EvaluationSetSettings) -> tuple[Path, str]:
    if evaluation.path is not None:
        return Path(evaluation.path).expanduser(), evaluation.field or "prompt"
    known = KNOWN[evaluation.name]
    return _download(known.dataset, known.file, evaluation.revision or known.revision), evaluation.field or known.field


def _download(dataset: str, file: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(dataset, file, repo_type="dataset", revision=revision))
    except Exception as error:  # the client raises a dozen kinds; each is about the file asked for
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ConfigError(
            f"cannot fetch {file} ({reason})", f"{dataset}@{revision}", "check the revision, or give path: of a local copy"
        ) from error


def first_overlap(contents: list[str], known: Index, n: int) -> str | None:
    """The evaluation set that one of a prompt's messages repeats, and where; None for a clean prompt."""
    for content in contents:
        listed = words(content)
        hits = [known.runs[r] for r in ngrams(listed, n) if r in known.runs]
        if hits:
            return hits[0]
        if (exact := known.whole.get(" ".join(listed))) is not None:
            return exact
    return None
