"""Stage `publish`: one commit of what changed, to a folder and, where repo_id is set, to the Hub.

manifest.json on the target lists the content hash of every data file. Publishing reads it at the head, puts only files
whose hash differs into ONE commit with that head as parent, and makes none where nothing differs: a new version of
ours or another rendering of the card alone is no change. After an error the head is read again before another try.
"""

import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.output import card, published_files
from prefdata.output.targets import CARD, MANIFEST, Busy, Folder, Head, Hub, Target
from prefdata.recipe.job import Job
from prefdata.recipe.units import Part
from prefdata.stages import report
from prefdata.tables import files

STAGE_VERSION = 1
Facts = dict[str, Any]


def run(job: Job) -> None:
    """Publish everywhere the settings say and write publish/receipt.json."""
    root, settings = job.run.root / "publish", job.settings.publish
    built = root / ".built"
    try:
        shutil.rmtree(built, ignore_errors=True)
        hashes = published_files.build(job, built)
        _require_rows(job, hashes)
        text = card.path(job.run).read_text(encoding="utf-8")
        places: dict[str, Target] = {"folder": Folder(root / "dataset")}
        if settings.repo_id is not None:
            _require_licences(job)
            places[settings.repo_id] = Hub(settings.repo_id, settings.private)
        receipt: dict[str, Any] = {"files": hashes}
        for name, target in places.items():
            receipt[name] = publish(target, built, hashes, text, identity(job), settings.attempts)
    finally:
        files.remove_folder(built)
    files.atomic_text(root / "receipt.json", json.dumps(receipt, indent=1, sort_keys=True))


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


def publish(
    target: Target, built: Path, hashes: dict[str, str], text: str, facts: Facts, attempts: int, pause_s: float = 1.0
) -> str:
    """Make the target hold exactly these data files; the revision that does. Raises PublishError."""
    problem = ""
    for attempt in range(attempts):
        if attempt:
            time.sleep(min(pause_s * 2 ** (attempt - 1), 30.0))
        try:
            head = target.head()
            puts, deletes = difference(head, hashes)
            same_facts = head.card is not None and card.facts_of(head.card) == card.facts_of(text)
            if not puts and not deletes and head.revision is not None and same_facts:
                print(f"publish: {len(hashes)} files unchanged at {head.revision}", file=sys.stderr)
                return head.revision
            staged = {name: built / name for name in puts} | _texts(built, head, hashes, text, facts)
            return target.commit(head, staged, deletes, f"{len(puts)} files changed, {len(deletes)} removed")
        except Busy as error:
            problem = str(error)
            print(f"publish: try {attempt + 1} of {attempts} failed ({problem})", file=sys.stderr)
    raise PublishError(f"gave up after {attempts} tries ({problem})", "publish", "run the same command again later")


def difference(head: Head, hashes: dict[str, str]) -> tuple[list[str], list[str]]:
    """(files to put, files to remove): those of the old manifest that are ours no more are removed, no others."""
    puts = [name for name, value in hashes.items() if head.files.get(name) != value]
    return puts, [name for name in head.files if name not in hashes]


def _texts(built: Path, head: Head, hashes: dict[str, str], text: str, facts: Facts) -> dict[str, Path]:
    (built / CARD).parent.mkdir(parents=True, exist_ok=True)
    (built / CARD).write_text(card.merge(text, head.card), encoding="utf-8")
    (built / MANIFEST).write_text(json.dumps({**facts, "files": hashes}, indent=1, sort_keys=True), encoding="utf-8")
    return {CARD: built / CARD, MANIFEST: built / MANIFEST}
