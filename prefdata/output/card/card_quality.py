"""The card's sections on what a set is like: the verdict, figures, what was dropped, limits. Every value is escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from prefdata.output.checks import ENOUGH
from prefdata.output.escape import markdown
from prefdata.output.markdown import counted, number, rows_of, share, table
from prefdata.output.quality_page import in_short, limits, meaning
from prefdata.recipe.settings.whole import Settings
from prefdata.tables.drops import reason_of
from prefdata.tables.schema import SPLITS

Facts = Mapping[str, Any]
PRODUCER_COLUMNS = ("producer", "made", "in the set", "chosen")
QUANTILES = ("p5", "p50", "p95")


def summary(settings: Settings, facts: Facts, quality: Facts) -> str:
    """The set in a few lines: how much, from whom, ranked by whom, what is suspicious."""
    prompts, candidates = sum(facts["prompts"].values()), sum(facts["candidates"].values())
    if not prompts:
        return "The preference set is empty: only online runs answer its prompts, or only labelled answers are published."
    by_split = {s: facts["prompts"][s] for s in SPLITS if facts["prompts"].get(s)}
    origins = [
        *(f"{s['source']}" for s in facts["sources"]),
        *(f"{g['producer']} (sampled for this set)" for g in facts["generators"]),
    ]
    lines = [
        f"{prompts} prompts ({counted(by_split)}), each with {candidates / prompts:.1f} answers on average, one of "
        "them chosen.",
        f"Prompts and answers come from {', '.join(origins)}.",
        f"The answers are ranked by {_ranked_by(settings, facts)}.",
        f"Checks: {_in_short(quality['checks'])}",
    ]
    return "\n".join(f"- {markdown(line)}" for line in lines)


def _ranked_by(settings: Settings, facts: Facts) -> str:
    """The judge of the set in a few words, or its source."""
    used = next((j for j in facts["judges"] if j["judge"] == settings.sets.method), None)
    if used is None:
        return "the source itself; who ranked them there is not known here"
    consistent = (used.get("consistency") or {}).get("share")
    model = f", model {used['model']}" if used["model"] else ""
    held = "" if consistent is None else f", consistent in {share(consistent)} of the pairs"
    return f"the judge {used['judge']} ({used['what'].partition(';')[0]}{model}){held}"


def _in_short(checks: Sequence[Facts]) -> str:
    """The verdict, with what is suspicious by name."""
    suspicious = [f"{c['what']} ({c['about']}: {c['value']:.3g})" for c in checks if c["state"] == "suspicious"]
    said = in_short(checks)
    return said + (f" Suspicious: {'; '.join(suspicious)}." if suspicious else "")


def verdict(quality: Facts, warnings: Sequence[str]) -> str:
    """Every check with its limits; what drops a large share."""
    head = ("", "whose", "what", "value", "good between", "of", "what that means")
    rows = [
        (c["state"], c["about"], c["what"], "n/a" if c["value"] is None else f"{c['value']:.3f}", limits(c), c["n"], meaning(c))
        for c in quality["checks"]
    ]
    notes = "The limits are rules of thumb: beyond them a figure is to be looked at; within them nothing is proven. Figures of "
    notes += f"fewer than {ENOUGH} are not judged."
    large = "".join(f"- {markdown(w)}.\n" for w in warnings)
    return f"{notes}\n\n{table(head, rows)}" + (f"\n\nWhat drops a large share:\n\n{large}" if warnings else "\n")


def _named(entry: Facts, several: Sequence[str]) -> str:
    """A stage, with the unit where it has several: each reference may drop the same answer."""
    return f"{entry['stage']} {entry['unit']}" if entry["stage"] in several else str(entry["stage"])


def holes(facts: Facts, quality: Facts) -> dict[str, str]:
    """The tables of figures and drops, by the template's holes."""
    several = [s for s, n in Counter(e["stage"] for e in facts["stages"]).items() if n > 1]
    drops = [(_named(e, several), reason, n) for e in facts["stages"] for reason, n in e["drops"].items()]
    why = {reason.partition(":")[0]: reason_of(reason).meaning for _, reason, n in drops if n}
    return {
        "drops_table": rows_of(drops),
        "drops_meanings": "\n".join(f"- {markdown(r)}: {markdown(meaning)}." for r, meaning in sorted(why.items())),
        "ranks_table": rows_of([(what, n) for what, n in quality["source_ranks"].items()], 2),
        "producers_table": rows_of([tuple(p[c] for c in PRODUCER_COLUMNS) for p in quality["producers"]], 4),
        "agreement_table": rows_of([(a["one"], a["other"], share(a["agree"]), a["pairs"]) for a in quality["agreement"]], 4),
        "figures_table": rows_of([(f["what"], *(number(f.get(k)) for k in QUANTILES)) for f in quality["figures"]], 4),
        "look_table": rows_of(list(quality["degenerate"].items()), 2),
        "noise_table": rows_of(
            [(n["reference"], n["n"], number(n["mean_nats"]), share(n["noise_likelier"])) for n in quality["noise"]], 4
        ),
    }


def known_limits(settings: Settings, facts: Facts) -> str:
    """What the set cannot be relied on for, as a list; only what holds for this one."""
    lines = [
        "Texts were not read by people for this card. They may be wrong, harmful, or name people.",
        "Nothing here was searched for instructions to a model: treat every text as data.",
    ]
    if facts["judges"]:
        lines.append("The preferences are a program's. Its biases, measured above, are in every chosen answer.")
    else:
        lines.append("The preferences are the source's. Whether a person or a model made them, the source has to say.")
    if facts["references"]:
        lines.append("Log-probs hold for exactly the references and revisions named above, and for their templates.")
    if settings.decontaminate is None:
        lines.append("No evaluation set was compared: a benchmark's questions may be among the prompts.")
    held = sum(n for split, n in facts["prompts"].items() if split in ("validation", "test"))
    if held < HELD_OUT:
        lines.append(f"Only {held} prompts are held out (validation, test): figures on so few say little.")
    lines.append(f"Language: {settings.card.language} is what the recipe states; it was not checked prompt by prompt.")
    return "\n".join(f"- {markdown(line)}" for line in lines)


HELD_OUT = 100
"""Held-out prompts below which that is a limit."""
