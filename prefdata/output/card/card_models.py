"""The card's sections on models: who answered, who judged and how well, who scored. Every value is escaped."""

from collections.abc import Mapping
from typing import Any

from prefdata.output.escape import markdown
from prefdata.output.markdown import share, table
from prefdata.output.quality_page import FIGURES_OF_JUDGE, figures_of

Facts = Mapping[str, Any]
CHAMPION = "[arXiv 2411.05875](https://arxiv.org/abs/2411.05875)"
HEADS = {
    "consistency": "consistent",
    "first_place": "first read wins",
    "ties": "ties",
    "missing": "missing",
    "longer_won": "longer wins",
    "cycles": "cycles",
}


def generation(facts: Facts, quality: Facts) -> str:
    """One line a model that answered prompts, and what the other producers are."""
    made = {p["producer"]: p for p in quality["producers"]}
    head = (
        "producer",
        "model",
        "revision",
        "temperatures × samples at each",
        "limit",
        "prompts of",
        "answers",
        "in the set",
        "chosen",
    )
    rows = []
    for g in facts["generators"]:
        heat = f"{', '.join(f'{t:g}' for t in g['temperatures'])} × {g['per_temperature']}"
        counts = made.get(g["producer"], {"made": 0, "in the set": 0, "chosen": 0})
        numbers = [counts[name] for name in ("made", "in the set", "chosen")]
        model = f"{g['model']} ({g['engine']})"
        revision, limit = g["revision"] or "not known: a server's", f"{g['max_tokens']} tokens"
        rows.append((g["producer"], model, revision, heat, limit, ", ".join(g["splits"]), *numbers))
    if not rows:
        return "No model was sampled: all answers are the source's own, and their producers are named as the source names them."
    notes = (
        "A producer without @ is named as the source names it. `run:` is a model trained by the same recipe, on its SFT split."
    )
    draws = dict.fromkeys(f"Tokens of {markdown(g['producer'])} are drawn {g['draws']}." for g in facts["generators"])
    return f"{table(head, rows)}\n\n{notes} Answers that the limit cut have `finish` = length. {' '.join(draws)}"


def judging(facts: Facts, ranking: str) -> str:
    """What made the ranks, and how far the judges can be trusted."""
    said = f"Ranks: {markdown(ranking)}."
    if not facts["judges"]:
        return said
    lines = []
    for judge in facts["judges"]:
        model = (
            f", model {judge['model']} at {judge['revision'] or 'no revision: a server names it only'}"
            if judge["model"]
            else ""
        )
        rubric = f", rubric {judge['rubric']} (hash {judge['rubric_hash']})" if judge["rubric"] else ""
        lines.append(f"- {markdown(judge['judge'])}: {markdown(judge['what'] + model + rubric)}.")
        if judge["procedure"] == "champion":
            lines[-1] += f" Champion: the best so far against the next answer, {CHAMPION}."
    rows = [(j["judge"], j["calls"], *(share(f["share"] if f else None) for f in figures_of(j))) for j in facts["judges"]]
    head = ("judge", "calls", *(HEADS[name] for name in FIGURES_OF_JUDGE))
    notes = (
        "Consistent: pairs with the same winner whichever answer the judge reads first. First read wins and longer wins: 50 % "
    )
    notes += (
        "is no bias, though a longer answer may be better. Cycles: of triples of answers. No person checked these verdicts."
    )
    return "\n\n".join([said, "\n".join(lines), table(head, rows), notes])


def references(facts: Facts) -> str:
    """Who scored the answers, and tokens by group of answers."""
    if not facts["references"]:
        return "No reference model scored the answers: `logps` is empty, and tokens are not counted."
    head = ("reference", "model", "revision", "prompts rendered", "end token", "dtype")
    rows = [(r["name"], r["model"], r["revision"], r["template"], r["end"], r["dtype"]) for r in facts["references"]]
    tokens = [(t["reference"], t["group"], t["answers"], t["tokens"], t["p5"], t["p50"], t["p95"]) for t in facts["tokens"]]
    counts = table(("reference", "answers that are", "answers", "tokens", "5 %", "median", "95 %"), tokens)
    return (
        f"{table(head, rows)}\n\nThe first is the primary one. A log-prob is a sum over the reference's own tokens in nats, "
        "the end token included where `end` is eos. Revision: a commit on the Hub, else a hash of the model's files. Tokens of "
        f"the answers, by the same tokenizers:\n\n{counts}"
    )
