"""A small set in plain English for the page of `prefdata explore`: what a reader sees, and log-probs that are all different."""

import math
from pathlib import Path
from typing import Any

from literal_sets import candidate, row

from prefdata.draws import hex_id, uniform
from prefdata.recipe import places
from prefdata.tables import schema, table_writer

Row = dict[str, Any]
REFERENCES = ("sft-1b", "base-7b")
ASKED = {
    "Why is the sky blue?": (
        "Air scatters short waves of sunlight more than long ones, so blue reaches us from everywhere in the sky.",
        "Because the ocean is blue and the sky shows its colour, as a mirror does.",
        "Air scatters sunlight, and blue more than red, so that we see blue from everywhere in the sky.",
        "Sunlight has all colours. Blue waves are short, and short waves are scattered most by the small molecules of the air.",
        "The sky is blue.",
    ),
    "How do I boil an egg?": (
        "Put it into boiling water: six minutes for a soft one, ten for a hard one. Then cool it in cold water.",
        "Put it into boiling water for two hours.",
        "Boil water, add the egg, wait six to ten minutes, cool it.",
        "An egg is a food that many people like. To boil an egg, boil it.",
        "Put it into cold water: six minutes for a soft one.",
    ),
    "Name three prime numbers above 20.": (
        "23, 29 and 31.",
        "21, 23 and 25.",
        "23, 29, 31",
        "Primes above 20: 23, 27, 29.",
        "23",
    ),
    "Write a line of a poem about rain.": (
        "Rain writes its small letters on the window, and forgets them.",
        "Rain is water. It falls.",
        "The rain remembers every roof it ever knew.",
        "Rain, rain, rain, rain, rain, rain.",
        "Soft rain, grey town.",
    ),
    "What does HTTP 404 mean?": (
        "The server was reached, but it has nothing at this address.",
        "The server is switched off.",
        "Not found: the server has nothing at this address.",
        "It means that your computer has a virus.",
        "Not found.",
    ),
}
PRODUCERS = ("human", "small@1", "large@3", "large@3", "small@1")


def rows(copies: int = 4) -> list[Row]:
    """The set: each question several times, with other log-probs."""
    return sorted((_row(text, n) for text in ASKED for n in range(copies)), key=lambda r: str(r["prompt_id"]))


def _row(text: str, copy: int) -> Row:
    own = hex_id("prompt", text, copy)
    made = [_candidate(own, place, answer) for place, answer in enumerate(ASKED[text])]
    noisy = ASKED[text][0].replace(" ", "  ", 1)[:-2] + "?"
    made.append({**_candidate(own, 5, noisy), "rank": None, "origin": "noise", "producer": "swap"})
    return row(own, made, text, split="train" if copy else "test", source=f"questions-{copy % 2}@local")


def _candidate(prompt: str, place: int, text: str) -> Row:
    words = len(text.split()) + 1
    scored = []
    for reference in REFERENCES:
        tokens = words + (reference == REFERENCES[1])
        nats = -tokens * (0.4 + 2.2 * uniform(1, reference, prompt, place))
        scored.append({"reference": reference, "logp": nats, "num_tokens": tokens})
    made = candidate(0, "rejected" if place else "chosen", text, place + 1, producer=PRODUCERS[min(place, 4)])
    generated = {"origin": "generated"} if place > 1 else {}
    return {
        **made,
        "candidate_id": hex_id(prompt, place),
        "logps": scored,
        "score": round(math.exp(-place / 3), 3),
        **generated,
    }


def results(folder: Path) -> Path:
    """The set as the tables of a results folder, with verdicts and drops."""
    made = rows()
    verdicts, drops, candidates = [], [], []
    for n, own in enumerate(made):
        ids = [c["candidate_id"] for c in own["candidates"]]
        for other in (1, 2):
            for order in ("ab", "ba"):
                better = "b" if n % 5 == 0 and order == "ba" else "a"
                said = {"raw": "A" if (better == "a") == (order == "ab") else "B", "reason": "it answers what was asked"}
                ends = {"a": ids[0], "b": ids[other], "order": order, "outcome": better, "round": other, "margin": 1.0 / other}
                verdicts.append({"prompt_id": own["prompt_id"], "judge": "judge-70b", "rubric": "r", **ends, **said})
        gone = hex_id(own["prompt_id"], "dropped")
        if n % 3 == 0:
            told = {"prompt_id": own["prompt_id"], "candidate_id": gone}
            drops.append({"scope": "candidate", **told, "stage": "prune", "reason": "pruned_rank", "detail": "rank 2"})
            more = {"response": "An answer that is too close to the best.", "origin": "source", "producer": "human"}
            candidates.append({**told, **more, "sample": 0, "finish": "stop"})
        for place, c in enumerate(own["candidates"]):
            known = {k: c[k] for k in ("candidate_id", "response", "origin", "producer", "finish")}
            known["temperature"] = 0.7 if c["origin"] == "generated" else None
            known["parent_id"] = ids[0] if c["origin"] == "noise" else None
            candidates.append({"prompt_id": own["prompt_id"], **known, "sample": place if c["origin"] == "generated" else 0})
    where = {"sets": "sets/preference", "verdicts": "judge/judge-70b", "drops": "prune/all", "candidates": "sources/all"}
    tables = {"sets": made, "verdicts": verdicts, "drops": drops, "candidates": candidates}
    for name, listed in tables.items():
        path = folder / "tables" / name / where[name] / "00000-of-00001.parquet"
        stage, unit = where[name].split("/")
        table_writer.write_table(path, name, schema.frame(name, listed), {"stage": stage, "unit": unit})
    (folder / places.SETTINGS).write_text('{"seed": 11, "sets": {"origins": ["source", "generated"]}}')
    return folder
