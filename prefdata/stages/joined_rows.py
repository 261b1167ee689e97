"""The rows of some prompts as prompts with their candidates: the first source that has a prompt owns it, and several rows of
one prompt make its candidates together where the source's shape says how."""

from collections.abc import Iterable, Mapping
from typing import Any

from prefdata.draws import uniform
from prefdata.recipe.settings.whole import Settings
from prefdata.sources import rows
from prefdata.sources.rows import Record
from prefdata.sources.settings import SourceSettings
from prefdata.sources.shapes import SHAPES
from prefdata.tables import schema
from prefdata.tables.drops import drop

HELD_OUT = ("test", "validation")


def resolve(lines: Iterable[Record], settings: Settings) -> dict[str, Any]:
    """One prompt with all its candidates for each prompt_id, the other rows recorded as drops of scope row."""
    owned, held, drops = _owned(lines, settings)
    sources = settings.sources.sources
    made = [_prompt(group, sources[group[0]["order"]], settings) for group in owned.values()]
    for one in made:
        if one.prompt and one.prompt["prompt_id"] in held:
            one.prompt["source_split"] = held[one.prompt["prompt_id"]]
    return {
        "prompts": schema.frame("prompts", [m.prompt for m in made if m.prompt]),
        "candidates": schema.frame("candidates", [c for m in made for c in m.candidates]),
        "drops": schema.frame("drops", drops + [d for m in made for d in m.drops]),
    }


def contradicting(lines: Iterable[Record], settings: Settings) -> list[Record]:
    """What `resolve` would drop for contradictions between rows: the prompt of each."""
    found: list[Record] = []
    for group in _owned(lines, settings)[0].values():
        source = settings.sources.sources[group[0]["order"]]
        if _sampled(group[0]["prompt"], source, settings):
            found += [group[0]["prompt"]] * len(_joined(group, source)[1])
    return found


def _owned(lines: Iterable[Record], settings: Settings) -> tuple[dict[str, list[Record]], dict[str, str], list[Record]]:
    """(the rows of each prompt, the split of prompts that any row holds out, drops of all other rows)."""
    sources = settings.sources.sources
    drops: list[Record] = []
    owned: dict[str, list[Record]] = {}
    held: dict[str, str] = {}
    for line in sorted(lines, key=lambda r: (r["order"], _held(r["prompt"]), r["row_hash"] or "")):
        if line["prompt"] is None:
            drops += line["drops"]
            continue
        if _held(line["prompt"]) < len(HELD_OUT):  # a prompt that any row holds out is held out, whoever owns it
            own = HELD_OUT[_held(line["prompt"])]
            held[line["prompt"]["prompt_id"]] = min(own, held.get(line["prompt"]["prompt_id"], own), key=HELD_OUT.index)
        group = owned.setdefault(line["prompt"]["prompt_id"], [])
        same = not group or group[0]["order"] == line["order"]
        if not group or (same and SHAPES[sources[line["order"]].format].join):
            group.append(line)
        else:
            drops.append(drop("row", "sources", "duplicate_prompt" if same else "other_source", line["prompt"]))
    return owned, held, drops


def _held(prompt: Mapping[str, Any] | None) -> int:
    """Place among the held-out splits; rows for training come after them."""
    split = prompt["source_split"] if prompt else None
    return HELD_OUT.index(split) if split in HELD_OUT else len(HELD_OUT)


def _prompt(group: list[Record], source: SourceSettings, settings: Settings) -> rows.Parsed:
    """The rows of one prompt as one: the smallest source_row names it."""
    prompt = min((line["prompt"] for line in group), key=lambda p: p["source_row"])
    drops = [d for line in group for d in line["drops"]]
    if not _sampled(prompt, source, settings):
        return rows.Parsed(drops=[*drops, drop("row", "sources", "not_sampled", prompt)])
    shape = SHAPES[source.format]
    joined, contradictions = _joined(group, source)
    drops += [drop("row", "sources", "contradictory", prompt, detail=text) for text in contradictions]
    for candidate in joined:
        if "dropped" in candidate and candidate["dropped"]["source_row"] is None:
            candidate["dropped"] |= {"source": prompt["source"], "source_row": prompt["source_row"]}
    candidates, more = (joined, group[0]["finished"]) if "finished" in group[0] else rows.finish(joined)
    lost = {d["candidate_id"] for d in more}
    if (
        shape.needs_first
        and not source.prompts_only
        and not any(c["source_rank"] == 1 and c["candidate_id"] not in lost for c in candidates)
    ):
        if (
            shape.labels and settings.sets.unpaired
        ):  # labels without an order: else a bad answer would be the best of its prompt
            return rows.Parsed(prompt, [{**c, "source_rank": None} for c in candidates], drops + more)
        bare = [{**d, "scope": "row", "candidate_id": None} for d in more]  # there is no candidate then
        return rows.Parsed(drops=[*drops, *bare, drop("row", "sources", "no_good_answer", prompt)])
    return rows.Parsed(prompt, candidates, drops + more)


def _sampled(prompt: Mapping[str, Any], source: SourceSettings, settings: Settings) -> bool:
    """Whether the source's share of the mixture has the prompt."""
    return source.weight >= 1 or uniform(settings.seed, "mixture", prompt["prompt_id"]) < source.weight


def _joined(group: list[Record], source: SourceSettings) -> tuple[list[Record], list[str]]:
    """(candidates, one text a contradiction) of the rows of one prompt."""
    join, listed = SHAPES[source.format].join, [line["candidates"] for line in group]
    return join(listed) if join and len(listed) > 1 else (listed[0], [])
