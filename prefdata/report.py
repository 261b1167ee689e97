"""Stage `report`: rows in, out and dropped of every stage, gathered from the manifests of all shards."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from prefdata import files
from prefdata.parts import Part
from prefdata.run import Job, Run
from prefdata.stages import data_parts

STAGE_VERSION = 1
Facts = dict[str, Any]


def run(job: Job) -> None:
    """Write report/report.json."""
    facts = {"stages": stages(job.run, data_parts(job.settings)), **contents(job)}
    files.atomic_text(path(job.run), json.dumps(facts, indent=1, sort_keys=True))


def path(run: Run) -> Path:
    return run.root / "report" / "report.json"


def stages(run: Run, parts: Sequence[Part]) -> list[Facts]:
    """One entry a (stage, unit): rows read by table, rows written by table, drops by reason."""
    entries: dict[tuple[str, str], Facts] = {}
    for part in parts:
        key = (part.stage, part.unit)
        first = key not in entries
        entry = entries.setdefault(
            key, {"stage": part.stage, "unit": part.unit, "in": Counter(), "out": Counter(), "drops": Counter()}
        )
        for shard in run.shards:
            manifest = files.manifest(run.table(part, shard))
            if part.table == "drops":
                entry["drops"].update(manifest["reasons"])
            else:
                entry["out"][part.table] += manifest["rows"]
            if first:
                entry["in"].update({t: n for t, n in manifest["rows_in"].items() if t != "splits"})
    return [{**e, "in": dict(e["in"]), "out": dict(e["out"]), "drops": dict(e["drops"])} for e in entries.values()]


def contents(job: Job) -> Facts:
    """What the preference set holds: prompts and candidates by split, prompts by source and licence."""
    prompts, candidates, sources = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    kept = Job(job.run, "publish")
    for frames in kept.parts():
        rows = frames["sets"].select("prompt_id", pl.col("split").cast(pl.String), pl.col("candidates").list.len().alias("n"))
        for split, group in rows.group_by("split"):
            prompts[str(split[0])] += group.height
            candidates[str(split[0])] += int(group["n"].sum())
        origins = frames["prompts"].join(rows, on="prompt_id", how="semi")
        sources.update(origins.select("source", "license").iter_rows())
    return {
        "prompts": dict(prompts),
        "candidates": dict(candidates),
        "sources": [{"source": s, "license": li, "prompts": n} for (s, li), n in sorted(sources.items())],
    }
