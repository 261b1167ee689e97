"""Keys of the card's header that say what a set is: what the Hub filters and searches by."""

import re
from collections.abc import Mapping
from typing import Any

from prefdata.recipe.settings.whole import Settings

Facts = Mapping[str, Any]
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
SIZE_NAMES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")


def described(settings: Settings, facts: Facts, license: str) -> dict[str, Any]:
    """Size, task, who wrote and who annotated, sources on the Hub; of a licence that the Hub does not list, name and link."""
    prompts = sum(facts["prompts"].values()) or sum(s["prompts"] for s in facts["sources"])
    used = {s["source"] for s in facts["sources"]}
    on_hub = [s.dataset for s in settings.sources.sources if s.dataset and s.revisioned in used]
    keys = {
        "size_categories": [size_category(prompts)],
        "task_categories": ["text-generation"],
        "source_datasets": list(dict.fromkeys(on_hub)) or ["original"],
        "annotations_creators": ["machine-generated" if facts["judges"] else "found"],
        "language_creators": ["found", *(["machine-generated"] if facts["generators"] else [])],
    }
    return {**(_other(settings, facts) if license == "other" else {}), **keys}


def size_category(rows: int) -> str:
    """The Hub's name of a number of rows."""
    return SIZE_NAMES[sum(rows >= size for size in SIZES)]


def _other(settings: Settings, facts: Facts) -> dict[str, str]:
    """A licence that the Hub has no name for: the recipe's words, or the source's where there is one."""
    known = sorted({s["license"] for s in facts["sources"]})
    named = settings.card.license_name or (known[0] if len(known) == 1 else "licences-of-the-sources")
    slug = re.sub(r"[^a-z0-9.]+", "-", named.lower()).strip("-") or "unknown"
    return {"license_name": slug, **({"license_link": link} if (link := settings.card.license_link) else {})}
