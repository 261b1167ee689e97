"""Stage `report`: rows in, out and dropped of every stage, gathered from the manifests of all shards, and the quality of
the preference set as tables (quality.json), charts (PNG) and one page (quality.html)."""

import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from prefdata.errors import DataError, snippet
from prefdata.output import charts, page, quality
from prefdata.output.large_drops import large
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, method_unit, split_unit
from prefdata.sources.words import user_text
from prefdata.stages.graph import UNPAIRED, asked
from prefdata.stages.publish import parts_of as published_parts
from prefdata.tables import atomic
from prefdata.tables.drops import reason_of
from prefdata.tables.schema import SPLITS

ABOUT_MODELS = ("evaluate",)
"""Stages whose tables are no part of the data."""
CHARTS = ("length_ratio", "reference_margin", "agreement", "wins", "drops")
EXAMPLES = 3
Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/report.json, the quality's figures, charts and page. Raises DataError past max_reject_rate."""
    gathered = stages(job, _parts(job.settings))
    _require_rate(gathered, job.settings.sources.max_reject_rate)
    warnings = large(gathered, job.settings.warn_share)
    if any(w.startswith("dedup") for w in warnings) and not job.settings.publish.delta:  # the card says it too
        warnings += [f"dedup holds these for one: {snippet(one, 80)} and {snippet(other, 80)}" for one, other in _alike(job)]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    facts = {"stages": gathered, "warnings": warnings, **contents(job)}
    _quality(job, gathered)
    job.write_json(places.REPORT, facts)


def _alike(job: Job) -> list[tuple[str, str]]:
    """Some prompts that were dropped as duplicates, each with the one that stays."""
    found: list[tuple[str, str]] = []
    for frames in job.parts(of=[Part("prompts", "sources"), Part("drops", "dedup")]):
        texts = {i: user_text(m) for i, m in frames["prompts"].select("prompt_id", "messages").iter_rows()}
        for prompt, detail in frames["drops"].select("prompt_id", "detail").iter_rows():
            kept = str(detail).removeprefix("of ")
            if kept in texts:
                found.append((texts[prompt], texts[kept]))
            if len(found) == EXAMPLES:
                return found
    return found


def _require_rate(gathered: Sequence[Facts], limit: float) -> None:
    """The share of bad input over all stages: what only a tokenizer finds comes on top of what `sources` found."""
    # a model's own empty answers are no bad input; too many are said as a large drop
    drops = sum((Counter(e["drops"]) for e in gathered if e["stage"] != "generate"), Counter[str]())
    bad = {reason: n for reason, n in drops.items() if reason_of(reason).bad}
    made = [e["out"] for e in gathered if e["stage"] in ("sources", "generate")]
    total = sum(n for out in made for n in out.values()) + sum(n for r, n in bad.items() if reason_of(r).found == "rows")
    if sum(bad.values()) > limit * total:
        raise DataError(
            f"{sum(bad.values())} of {total} rows and answers are bad over all stages ({limit:.2%} allowed): {bad}",
            "report",
            "mend the input or the references, or raise sources.max_reject_rate if this is expected",
        )


def _quality(job: Job, gathered: list[Facts]) -> None:
    """quality.json, one PNG a chart and quality.html beside report.json."""
    references = [r.name for r in job.settings.score.references]
    found = quality.gather(job.parts(of=published_parts(job.settings)), references, job.settings.sets.method)
    facts = found.facts()
    drawn = charts.charts(facts, found.table(), gathered)
    for name in CHARTS:  # every file is there, for Snakemake; without data it says so
        chart = drawn.get(name, charts.nothing(name))
        atomic.atomic_write(job.output(places.chart(name)), partial(_put, charts.png(chart)))
    page_ = page.render(job.settings.name, facts, gathered, {n: charts.svg(c) for n, c in drawn.items()})
    atomic.atomic_text(job.output(places.QUALITY_PAGE), page_)
    job.write_json(places.QUALITY, facts)


def _put(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def stages(job: Job, parts: Sequence[Part]) -> list[Facts]:
    """One entry a (stage, unit): rows read by table, rows written by table, drops by reason."""
    entries: dict[tuple[str, str], Facts] = {}
    for part in parts:
        key = (part.stage, part.unit)
        first = key not in entries
        entry = entries.setdefault(
            key, {"stage": part.stage, "unit": part.unit, "in": Counter(), "out": Counter(), "drops": Counter()}
        )
        for manifest in job.manifests(part):
            if part.table == "drops":
                entry["drops"].update(manifest["reasons"])
            else:
                entry["out"][part.table] += manifest["rows"]
            if first:
                entry["in"].update({t: n for t, n in manifest["rows_in"].items() if t != "splits"})
    return [{**e, "in": dict(e["in"]), "out": dict(e["out"]), "drops": dict(e["drops"])} for e in entries.values()]


def contents(job: Job) -> Facts:
    """What the preference set holds: prompts and candidates by split; and prompts by source and licence, those of online runs
    too."""
    prompts, candidates, sources = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for frames in job.parts(of=[*published_parts(job.settings), *_of_segments(job.settings)]):
        counted = pl.col("candidates").list.len().alias("n")
        rows = frames["sets"].select("prompt_id", pl.col("split").cast(pl.String), "segment", counted)
        for split, group in rows.filter(pl.col("segment").is_null()).group_by("split"):
            prompts[str(split[0])] += group.height
            candidates[str(split[0])] += int(group["n"].sum())
        origins = frames["prompts"].join(rows, on="prompt_id", how="semi")
        sources.update(origins.select("source", "license").iter_rows())
    return {
        "prompts": dict(prompts),
        "candidates": dict(candidates),
        "sources": [{"source": s, "license": li, "prompts": n} for (s, li), n in sorted(sources.items())],
        **({"labels": labels(job)} if job.settings.sets.unpaired else {}),
    }


def _of_segments(settings: Settings) -> list[Part]:
    return [Part("sets", "sets", segment.set) for segment in settings.segments]


def labels(job: Job) -> list[Facts]:
    """Desirable and undesirable answers of the set `unpaired`, by split."""
    found: dict[str, Counter[bool]] = {}
    for frames in job.parts(of=[Part("sets", "sets", UNPAIRED)]):
        for split, candidates in frames["sets"].select(pl.col("split").cast(pl.String), "candidates").iter_rows():
            found.setdefault(split, Counter()).update(c["role"] == "chosen" for c in candidates)
    listed = [(split, found[split]) for split in SPLITS if split in found]
    return [{"split": split, "desirable": n[True], "undesirable": n[False]} for split, n in listed]


def _parts(settings: Settings, unit: str = "all") -> list[Part]:
    """Every table that the configured sets need."""
    from prefdata.stages.registry import STAGES  # this stage is about all of them

    parts = []
    for stage in STAGES.values():
        if stage.name in ABOUT_MODELS:
            continue
        for each in _needed(settings, stage):
            parts += [Part(table, stage.name, each) for table in stage.writes]
    return parts


def _needed(settings: Settings, stage: Stage) -> list[str]:
    """The units of a stage that the preference set needs (the source's own order needs no generation or judge)."""
    if stage.name == "generate" and settings.sets.method == "source":
        return []
    if stage.name == "judge":
        used = {method_unit(settings, m) for m in (settings.sets.sft_method, settings.sets.method)}
        return [u for u in stage.units(settings) if u in used or split_unit(settings, u)[0].segment]
    return stage.units(settings)


STAGE = Stage(
    name="report",
    help="Gather rows in, out and dropped over all shards; say what the set is like.",
    version=3,
    run=run,
    per="run",
    reads=lambda s, u: list(dict.fromkeys([*_parts(s), *published_parts(s), *_of_segments(s)])),
    slice=lambda s, u: {"warn_share": s.warn_share, **asked(s), **({"delta": True} if s.publish.delta else {})},
    writes_files=lambda s, u: [places.REPORT, places.QUALITY, places.QUALITY_PAGE, *map(places.chart, CHARTS)],
)
