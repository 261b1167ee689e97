"""Stage `report`: rows in, out and dropped of every stage, gathered from the manifests of all shards, and the quality of
the preference set as tables (quality.json), charts (PNG) and one page (quality.html)."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefdata.errors import DataError, snippet
from prefdata.judging.registry import described
from prefdata.models.identity import public_name
from prefdata.output import charts, checks, facts, quality, quality_page
from prefdata.output.large_drops import large
from prefdata.recipe import places
from prefdata.recipe.job import Job
from prefdata.recipe.settings.whole import Settings
from prefdata.recipe.stage import Stage
from prefdata.recipe.units import Part, judge_settings, method_unit, split_unit
from prefdata.sources.words import user_text
from prefdata.stages.graph import UNPAIRED, asked
from prefdata.stages.judge import slice_of
from prefdata.stages.publish import parts_of as published_parts
from prefdata.tables import atomic
from prefdata.tables.drops import reason_of

ABOUT_MODELS = ("evaluate",)
"""Stages whose tables are no part of the data."""
CHARTS = ("length_ratio", "reference_margin", "agreement", "wins", "drops")
EXAMPLES = 3
OF_TEXTS = ("prompt_id", "messages")
COLUMNS = {
    "prompts": ("prompt_id", "source", "license", "source_split"),
    "candidates": ("prompt_id", "candidate_id", "producer", "source_rank"),
    "sets": ("prompt_id", "split", "segment", "candidates"),
}
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
    contents, found = of_rows(job)
    made = made_of(job, contents)
    _quality(job, gathered, made["judges"], warnings, found)
    job.write_json(places.REPORT, {"stages": gathered, "warnings": warnings, **made})


def of_rows(job: Job) -> tuple[Facts, quality.Quality]:
    """What the set holds, and its quality, gathered in one pass over its rows."""
    settings, contents = job.settings, facts.Contents()
    found = quality.Quality([r.name for r in settings.score.references], settings.sets.method)
    for frames in job.parts(of=[*published_parts(settings), *facts.of_segments(settings)]):
        contents.add(frames)
        found.add({**frames, "sets": facts.of_recipe(frames["sets"])})
    return contents.facts(), found


def made_of(job: Job, contents: Facts) -> Facts:
    """What the set holds and how it was made."""
    settings = job.settings
    return {
        **contents,
        **({"labels": facts.labels(job, Part("sets", "sets", UNPAIRED))} if settings.sets.unpaired else {}),
        "references": facts.references(job),
        "generators": facts.generators(job, _parts(settings)),
        "judges": judges(job),
    }


def _alike(job: Job) -> list[tuple[str, str]]:
    """Some prompts that were dropped as duplicates, each with the one that stays."""
    found: list[tuple[str, str]] = []
    for frames in job.parts(of=[Part("prompts", "sources"), Part("drops", "dedup")], columns={"prompts": OF_TEXTS}):
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


def _quality(job: Job, gathered: list[Facts], judged: Sequence[Facts], warnings: Sequence[str], found: quality.Quality) -> None:
    """quality.json, one PNG a chart and quality.html beside report.json."""
    own = found.facts()
    own |= {"judges": judged, "checks": checks.findings(own, judged, found.method, found.references)}
    drawn = charts.charts(own, found.table(), gathered)
    for name in CHARTS:  # every file is there, for Snakemake; without data it says so
        chart = drawn.get(name, charts.nothing(name))
        atomic.atomic_bytes(job.output(places.chart(name)), charts.png(chart))
    drawings = {name: charts.svg(chart) for name, chart in drawn.items()}
    page = quality_page.render(job.settings.name, own, gathered, drawings, warnings)
    atomic.atomic_text(job.output(places.QUALITY_PAGE), page)
    job.write_json(places.QUALITY, own)


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


def judges(job: Job) -> list[Facts]:
    """The judges whose verdicts the sets go by: what each is, its model, its rubric, and its report."""
    found = []
    for unit in _judges_used(job.settings):
        own, revisions = judge_settings(job.settings, unit), job.manifests(Part("verdicts", "judge", unit))[0]["models"]
        model = own.model
        known = {
            "kind": own.kind,
            "what": described(own),
            "model": public_name(model.id) if model else None,
            "revision": model and revisions.get(model.id, model.revision),
            "rubric": Path(own.rubric).stem if "rubric" in (slice_ := slice_of(job.settings, unit)) else None,
            "rubric_hash": slice_.get("rubric"),
        }
        found.append({**known, **job.read_json(places.judge_report(unit))})
    return found


def _judges_used(settings: Settings) -> list[str]:
    """The units of the judges that rank the preference set or the demonstrations."""
    used = dict.fromkeys(method_unit(settings, m) for m in (settings.sets.method, settings.sets.sft_method))
    return [unit for unit in used if unit != "source"]


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
        used = _judges_used(settings)
        return [u for u in stage.units(settings) if u in used or split_unit(settings, u)[0].segment]
    return stage.units(settings)


STAGE = Stage(
    name="report",
    help="Gather rows in, out and dropped over all shards; say what the set is like.",
    version=5,
    run=run,
    per="run",
    reads=lambda s, u: list(dict.fromkeys([*_parts(s), *published_parts(s), *facts.of_segments(s)])),
    columns=COLUMNS,
    reads_files=lambda s, u: [places.judge_report(unit) for unit in _judges_used(s)],
    slice=lambda s, u: {"warn_share": s.warn_share, **asked(s), **({"delta": True} if s.publish.delta else {})},
    writes_files=lambda s, u: [places.REPORT, places.QUALITY, places.QUALITY_PAGE, *map(places.chart, CHARTS)],
)
