"""One prompt of a set with all its candidates."""

from collections.abc import Mapping
from typing import Any

from prefdata.output.looking import pages
from prefdata.output.looking.opened import Row
from prefdata.tables.messages import answer, as_text, prompt_of

Facts = dict[str, Any]


def facts(row: Row, made_with: Mapping[str, Row]) -> Facts:
    """What is known of a row of `sets`; its candidates by rank, the chosen one first."""
    candidates = sorted(row["candidates"], key=_place)
    chosen = {x["reference"]: x["logp"] for x in candidates[0]["logps"]}
    listed = []
    for c in candidates:
        own = {x["reference"]: _logp(x, chosen) for x in c["logps"]}
        listed.append({**c, **made_with.get(c["candidate_id"], {}), "logps": own})
    kept = {name: row[name] for name in ("prompt_id", "split", "source", "segment", "tools", "template_kwargs")}
    return {**kept, "prompt": prompt_of(row), "candidates": listed}


def _place(candidate: Row) -> tuple[bool, bool, int, str]:
    rank = candidate["rank"]
    return candidate["role"] != "chosen", rank is None, rank or 0, candidate["candidate_id"]


def _logp(own: Row, chosen: Mapping[str, float]) -> Facts:
    """`margin`: the chosen one's log-prob less this one's, in nats."""
    best = chosen.get(own["reference"])
    return {"logp": own["logp"], "num_tokens": own["num_tokens"], "margin": None if best is None else best - own["logp"]}


def render(found: Facts) -> list[Any]:
    """The page."""
    heading = [f"prompt {found['prompt_id']}", found["split"], found["source"]]
    page: list[Any] = [pages.line(" · ".join(str(x) for x in heading if x is not None), "bold")]
    for message in found["prompt"]:
        page += [pages.line(f"{message['role']}:", "italic"), pages.block(as_text(message))]
    for name in ("tools", "template_kwargs"):
        if found[name]:
            page += [pages.line(f"{name}:", "italic"), pages.block(found[name])]
    for number, candidate in enumerate(found["candidates"], 1):
        page += ["", *_candidate(number, candidate)]
    return page


def _candidate(number: int, candidate: Facts) -> list[Any]:
    style = {"chosen": "bold green", "rejected": "bold red"}.get(candidate["role"], "bold")
    page: list[Any] = [pages.line(" · ".join([f"{number}. {candidate['role']}", *_said(candidate)]), style)]
    for name, own in candidate["logps"].items():
        apart = "" if candidate["role"] == "chosen" or own["margin"] is None else f"; the chosen {own['margin']:+.3f}"
        page.append(pages.block(f"{name}: {own['logp']:.3f} nats over {own['num_tokens']} tokens{apart}"))
    return [*page, pages.block(as_text(answer(candidate["response"], candidate["extras"])), indent=4)]


def _said(candidate: Facts) -> list[str]:
    """How a candidate was ranked and made, in words."""
    words = {"rank": "rank", "score": "score", "win_prob": "wins", "temperature": "temperature", "sample": "sample"}
    told = {name: candidate.get(name) for name in words}
    ranked = [f"{words[n]} {_number(told[n])}" for n in ("rank", "score", "win_prob") if told[n] is not None]
    made = [f"{words[n]} {_number(told[n])}" for n in ("temperature", "sample") if told[n] is not None]
    parent = candidate.get("parent_id")
    copies = [f"{candidate['copies']} copies"] if candidate["copies"] > 1 else []
    return [
        *ranked,
        f"{candidate['origin']} by {candidate['producer']}",
        *made,
        *([f"of {parent}"] if parent else []),
        f"finish {candidate['finish']}",
        *copies,
        candidate["candidate_id"],
    ]


def _number(value: Any) -> str:
    return f"{value:.4g}"
