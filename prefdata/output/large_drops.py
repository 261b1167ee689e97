"""What drops a large share: said on the terminal, in the summary and on the card, with the key to change."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefdata.tables.drops import reason_of

COUNTED = {
    "sources": "rows and answers",
    "dedup": "signatures",
    "prune": "candidates",
    "score": "candidates",
    "generate": "candidates",
}
"""What a stage's drops are a share of; for all others prompts. `sources` and `generate` make what they count, and drop
besides."""
CALLED = {"signatures": "prompts", "candidates": "answers"}


def large(stages: Sequence[Mapping[str, Any]], limit: float) -> list[str]:
    """One sentence for each reason that drops more than the share `limit` of what its stage counts."""
    said = []
    for entry in stages:
        counted = COUNTED.get(entry["stage"], "prompts")
        made = entry["stage"] in ("sources", "generate")
        if entry["stage"] == "sets" and not entry["in"].get("candidates"):
            continue  # nothing was to be made of it: only online runs answer its prompts
        for reason, dropped in sorted(entry["drops"].items(), key=lambda pair: -pair[1]):
            total = sum(entry["out"].values()) + dropped if made else entry["in"].get(counted, 0)
            if dropped > limit * total:
                about, unit = reason_of(reason), "" if entry["unit"] == "all" else f" {entry['unit']}"
                what = f"{dropped} of {total} {CALLED.get(counted, counted)} ({reason}: {about.meaning})"
                said.append(f"{entry['stage']}{unit} leaves out {what}; {about.remedy}")
    return said
