"""The card's sections on how a set was made, from the settings and from what was counted. Every value is escaped."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from prefdata.output.escape import markdown
from prefdata.output.markdown import counted, table
from prefdata.recipe.settings.whole import Settings
from prefdata.sources.known_sets import KNOWN
from prefdata.sources.settings import SourceSettings

Facts = Mapping[str, Any]
HUB = "https://huggingface.co/datasets"


def sources(settings: Settings, facts: Facts) -> str:
    """Where prompts and answers come from, with counts."""
    named = {s.revisioned: s for s in settings.sources.sources}
    head = ("source", "licence", "prompts in the set", "prompts read", "format", "where")
    rows = []
    for found in [*facts["sources"], *facts["sources_left_out"]]:
        own = named.get(found["source"])
        rows.append((found["source"], found["license"], found["prompts"], found["read"], *(_place(own) if own else ("", ""))))
    links = [f"- [{markdown(s.dataset)}]({_link(s)})" for s in named.values() if s.dataset]
    return table(head, rows) + ("\n\n" + "\n".join(links) if links else "")


def _place(source: SourceSettings) -> tuple[str, str]:
    """Format and place of a source; of local files no path."""
    if source.dataset is not None:
        config = f", config {source.config}" if source.config else ""
        where = f"{source.dataset} at {source.revision}, split {source.hub_split}{config}"
    else:
        where = "made by prefdata (the embedded tasks)" if source.path == "toy:" else "local files, not published as they were"
    kept = f"; a keyed draw of {source.weight:.0%} of its prompts" if source.weight < 1 else ""
    return source.format, where + kept


def _link(source: SourceSettings) -> str:
    """Of a data set on the Hub, at its revision."""
    safe = "".join(c for c in f"{source.dataset}/tree/{source.revision}" if c.isalnum() or c in "/._-")
    return f"{HUB}/{safe}"


def dropped(facts: Facts, stage: str, reason: str | None = None) -> int:
    """How many rows a stage removed, for one reason or any."""
    counts = sum((Counter(e["drops"]) for e in facts["stages"] if e["stage"] == stage), Counter[str]())
    return counts[reason] if reason else sum(counts.values())


def preparing(settings: Settings, facts: Facts) -> str:
    """Duplicates, splits, contamination and pruning, as a list."""
    said = (of(settings, facts) for of in (_duplicates, _splits, _contamination, _pruning))
    return "\n".join(f"- {line}" for line in said)


def _duplicates(settings: Settings, facts: Facts) -> str:
    found = settings.dedup
    if found is None:
        return "Duplicates: not looked for. Near-duplicate prompts may stand in one split or in two."
    return (
        f"Duplicates: prompts whose runs of {found.ngram} words have an estimated Jaccard similarity of {found.threshold:g} or "
        f"more (MinHash, {found.permutations} numbers) are one cluster; one prompt of each is kept, "
        f"{dropped(facts, 'dedup')} were removed. A cluster with a held-out member is held out as a whole."
    )


def _splits(settings: Settings, facts: Facts) -> str:
    counts = counted({s["split"]: s["prompts"] for s in facts["splits"]})
    own, every = sum(s["by_source"] for s in facts["splits"]), sum(s["prompts"] for s in facts["splits"])
    shares = ", ".join(f"{name} {value:g}" for name, value in settings.split.model_dump().items() if value)
    drawn = f"for {every - own} a keyed draw by these shares: {shares}"
    how = "the source named every split" if own == every else drawn if not own else f"for {own} the source named it, {drawn}"
    unused = [s["split"] for s in facts["splits"] if not facts["prompts"].get(s["split"])]
    left = f" Prompts of {', '.join(unused)} are not in the preference set." if unused and facts["prompts"] else ""
    return f"Splits: before anything was made of the prompts, {counts}; {how}.{left}"


def _contamination(settings: Settings, facts: Facts) -> str:
    found = settings.decontaminate
    if found is None:
        return "Contamination: prompts were compared with no evaluation set. Assume that some evaluation prompts may be here."
    against = ", ".join(f"{e.name} ({_revision(e.name, e.path, e.revision)})" for e in found.against)
    return (
        f"Contamination: prompts of sft and train that share {found.ngram} words in a row with one of these evaluation sets, "
        f"or repeat a shorter text of one, were removed ({dropped(facts, 'decontaminate')}): {markdown(against)}. Answers were "
        "not compared."
    )


def _revision(name: str, path: str | None, revision: str | None) -> str:
    return "a local file" if path else f"{KNOWN[name].dataset} at {revision or KNOWN[name].revision}"


def _pruning(settings: Settings, facts: Facts) -> str:
    ranks = settings.prune.drop_ranks
    if not ranks or not dropped(facts, "prune"):
        return "Pruning: no answer was left out for its rank."
    return (
        f"Pruning: answers on rank {', '.join(map(str, ranks))} of the source's order were left out "
        f"({dropped(facts, 'prune')}), being too close to the best to be rejected."
    )


def noise(settings: Settings, facts: Facts) -> str:
    """What noise is, where there is some."""
    made = facts["roles"].get("noise", 0)
    if not made:
        return "No noise was added."
    drawn = "may be" if "noise" in settings.sets.origins else "is never"
    return (
        f"Noise: {made} candidates of origin `noise` are the chosen answer with two tokens exchanged (producer `swap`). They "
        f"have no rank; the rejected answer of `preference` {drawn} one of them."
    )


def sets(settings: Settings, facts: Facts) -> str:
    """How the candidates of a prompt become a row."""
    roles, filters = facts["roles"], settings.sets.filters
    lines = [
        "the best-ranked answer is chosen; of several on the first rank one is drawn, the others (here "
        f"{roles.get('other', 0)}) get the role `other` and are in no pair",
        f"equal texts of one prompt are one candidate; `copies` counts them ({facts['merged']} were merged)",
        f"`preference` has one of the rejected answers of origin {' or '.join(settings.sets.origins)}, by a draw that depends "
        "on their ids alone",
    ]
    for name, limit in filters.items():
        between = " and ".join(f"{k} {v:g}" for k, v in (("at least", limit.min), ("at most", limit.max)) if v is not None)
        lines.append(f"prompts whose {name} is not {between} are left out")
    lines.append(f"every draw (splits, samples, ties) is a function of the recipe's seed, {settings.seed}, and of ids")
    return "\n".join(f"- {line}." for line in lines)
