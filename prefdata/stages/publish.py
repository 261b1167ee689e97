"""Stage `publish`: the published configs to a folder and, where repo_id is set, to the Hub."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.output import published_files
from prefdata.output.commit import Facts, publish
from prefdata.output.targets import Folder, Hub, Target
from prefdata.recipe.job import Job
from prefdata.recipe.units import Part
from prefdata.stages import card as card_stage
from prefdata.stages import report
from prefdata.tables import atomic, files

STAGE_VERSION = 1


def run(job: Job) -> None:
    """Publish everywhere the settings say and write publish/receipt.json."""
    root, settings = job.run.root / "publish", job.settings.publish
    built = root / ".built"
    try:
        shutil.rmtree(built, ignore_errors=True)
        hashes = published_files.build(job, built)
        _require_rows(job, hashes)
        text = card_stage.path(job.run).read_text(encoding="utf-8")
        places: dict[str, Target] = {"folder": Folder(root / "dataset")}
        if settings.repo_id is not None:
            _require_licences(job)
            places[settings.repo_id] = Hub(settings.repo_id, settings.private)
        receipt: dict[str, Any] = {"files": hashes}
        for name, target in places.items():
            receipt[name] = publish(target, built, hashes, text, identity(job), settings.attempts)
    finally:
        atomic.remove_folder(built)
    atomic.atomic_text(root / "receipt.json", json.dumps(receipt, indent=1, sort_keys=True))


def _require_rows(job: Job, hashes: dict[str, str]) -> None:
    """Refuse to replace what is published by nothing."""
    if any(name.startswith("data/sets/") for name in hashes):
        return
    stages = json.loads(report.path(job.run).read_text(encoding="utf-8"))["stages"]
    dropped = sum((Counter(e["drops"]) for e in stages), Counter[str]()).most_common(3)
    said = ", ".join(f"{n} {reason}" for reason, n in dropped) or "no rows came in"
    raise PublishError(
        f"the preference set is empty ({said})",
        "sets/preference",
        f"look at {report.path(job.run).parent}: what was dropped, why",
    )


def identity(job: Job) -> Facts:
    """What a reader of the published set needs to know to use its log-probs and its pairs."""
    logps = [files.manifest(Path(p)) for p in job.run.files([Part("logps", "score", u) for u in job.run.units("score")], [0])]
    references = [{**m["slice"]["reference"], "dtype": m["slice"]["dtype"], "revision_of": m["models"]} for m in logps]
    return {"seed": job.settings.seed, "origins": list(job.settings.sets.origins), "references": references}


def _require_licences(job: Job) -> None:
    """Refuse to push rows of a source whose licence nobody stated."""
    sources = json.loads(report.path(job.run).read_text(encoding="utf-8"))["sources"]
    unknown = [f"{s['source']} ({s['prompts']} prompts)" for s in sources if s["license"] == "unknown"]
    if unknown:
        raise PublishError(
            f"no licence is stated for {', '.join(unknown)}", "publish.repo_id", "state it in sources.sources[].license"
        )
