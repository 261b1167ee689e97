"""Stage `publish`: one commit of what changed, to a folder and, where repo_id is set, to the Hub.

manifest.json on the target lists the content hash of every data file. Publishing reads it at the head, puts only files
whose hash differs into ONE commit with that head as parent, and makes none where nothing differs: a new version of
ours or another rendering of the card alone is no change. After an error the head is read again before another try.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.output import card_header
from prefdata.output.targets import CARD, MANIFEST, Busy, Head, Target

Facts = dict[str, Any]


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
            same_facts = head.card is not None and card_header.facts_of(head.card) == card_header.facts_of(text)
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
    (built / CARD).write_text(card_header.merge(text, head.card), encoding="utf-8")
    (built / MANIFEST).write_text(json.dumps({**facts, "files": hashes}, indent=1, sort_keys=True), encoding="utf-8")
    return {CARD: built / CARD, MANIFEST: built / MANIFEST}
