"""Publishing: one commit of what changed, to a folder and, where repo_id is set, to the Hub.

manifest.json on the target lists the content hash of every data file, and that of the file as it is stored. Publishing reads it
at the head, puts only files that differ into ONE commit with that head as parent, and makes none where nothing differs: a new
version of ours or another rendering of the card alone is no change. After an error the head is read again before another try.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.output.card import card_merge
from prefdata.output.hub import manifest
from prefdata.output.hub.manifest import CARD, MANIFEST, Stored, stored_of
from prefdata.output.hub.targets import Busy, Change, Head, Target

Facts = dict[str, Any]
LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Wanted:
    """What a target shall hold: data files below a folder by their content hashes, the card, and facts for the manifest."""

    built: Path
    hashes: Mapping[str, str]
    card: str
    facts: Facts


@dataclass(frozen=True)
class Outcome:
    """What a target holds now, and what was changed for it; `card`: header or facts are other ones than before."""

    revision: str | None
    url: str
    put: list[str]
    removed: list[str]
    card: bool

    def said(self) -> str:
        """One line for people."""
        card = ["the card"] if self.card else []
        changes = [f"{len(self.put)} files put", f"{len(self.removed)} removed", *card]
        return ", ".join(changes) if self.put or self.removed or self.card else "nothing changed"

    def told(self) -> str:
        """What was done and where it is."""
        return f"publish: {self.url} ({self.said()}; revision {self.revision})"

    def foretold(self, name: str) -> str:
        """Of a plan: what would be done."""
        lines = [f"publish: {name} at {self.revision or 'no revision'}: {self.said()}; nothing was written"]
        lines += [f"  would put {file}" for file in self.put]
        return "\n".join([*lines, *(f"  would remove {file}" for file in self.removed)])

    def facts(self) -> Facts:
        """For the receipt: what the same set has whatever was there before."""
        return {"revision": self.revision, "url": self.url}


def publish(target: Target, wanted: Wanted, attempts: int, pause_s: float = 1.0) -> Outcome:
    """Make the target hold exactly these data files; the revision that does. Raises PublishError."""
    problem, wait_s, done = "", 0.0, None
    for attempt in range(attempts):
        if attempt:
            time.sleep(max(wait_s, min(pause_s * 2 ** (attempt - 1), LONGEST_PAUSE_S)))
        try:
            target.prepare()
            head = target.head()
            found = difference(head, wanted)
            done = done or found  # after a commit whose answer was lost, nothing differs any more
            if found.put or found.removed or found.card or head.revision is None:
                revision = target.commit(head, _change(wanted, head, found))
            else:
                revision = head.revision
            target.finish(revision)
            return Outcome(revision, target.url(revision), done.put, done.removed, done.card)
        except Busy as error:
            problem, wait_s = str(error), error.wait_s
            print(f"publish: try {attempt + 1} of {attempts} failed ({problem})", file=sys.stderr)
    raise PublishError(f"gave up after {attempts} tries ({problem})", "publish", "run the same command again later")


def plan(target: Target, wanted: Wanted) -> Outcome:
    """What publishing would change; nothing is written. Raises PublishError."""
    try:
        head = target.head()
    except Busy as error:
        raise PublishError(f"the target cannot be read ({error})", "publish", "run the same command again later") from error
    found = difference(head, wanted)
    return Outcome(head.revision, "", found.put, found.removed, found.card)


@dataclass(frozen=True)
class Difference:
    """Files to put, files to remove, the merged card, and whether it says something new."""

    put: list[str]
    removed: list[str]
    text: str
    card: bool


def difference(head: Head, wanted: Wanted) -> Difference:
    """What a head lacks. Files of ours that are wanted no more are removed, no others. Raises PublishError."""
    text = card_merge.merge(wanted.card, head.card, head.header, head.others)
    put = [name for name, value in wanted.hashes.items() if head.files.get(name) != value]
    removed = [name for name in head.files if name not in wanted.hashes]
    return Difference(put, removed, text, card_merge.changed(text, head.card))


def _change(wanted: Wanted, head: Head, found: Difference) -> Change:
    """The commit, with card and manifest written beside the data files. A file that stays keeps the hash that it is stored
    with: another version of the writer may store the same rows otherwise."""
    stored: dict[str, Stored] = {n: stored_of(wanted.built / n) if n in found.put else head.stored[n] for n in wanted.hashes}
    header = {k: v for k, v in card_merge.parts(wanted.card)[0].items() if k not in card_merge.OF_FILES}
    texts = {CARD: found.text, MANIFEST: manifest.render(wanted.facts, wanted.hashes, stored, header)}
    wanted.built.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (wanted.built / name).write_text(text, encoding="utf-8")
    puts = {name: wanted.built / name for name in [*found.put, *texts]}
    return Change(puts, found.removed, stored, f"{len(found.put)} files changed, {len(found.removed)} removed")
