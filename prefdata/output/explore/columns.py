"""What the page holds of all prompts at once: one list a column, so that 10,000 prompts are small and quick to filter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefdata.draws import FIRST, NEGATIVE, gumbels
from prefdata.output.escape import visible
from prefdata.output.examples import OF_FIGURES
from prefdata.output.explore.frames import Keyed
from prefdata.output.explore.problems import PROBLEMS, Known, problems
from prefdata.tables.schema import SPLITS

Facts = dict[str, Any]
ROLES = ("chosen", "rejected", "other")
FIGURES = {
    "margin": "reference_margin",
    "ratio": "length_ratio",
    "gap": "score_gap",
    "copies": "copies",
    "rejected": "rejected",
}
"""Columns that are figures of a prompt (prefdata.tables.figures)."""
_OF_PROMPT = ("id", "split", "source", *OF_FIGURES.values(), "chosenBy", "problems", "reasons", "text", "first")
_OF_CANDIDATE = ("role", "origin", "producer", "rank", "chars", "gumbel")
BEGINNING = 140
"""Characters of the last turn that the list of prompts shows."""


class Names:
    """Texts that many rows share, each kept once; rows hold its number."""

    def __init__(self, known: Sequence[str] = ()) -> None:
        self.of = {text: number for number, text in enumerate(known)}

    def number(self, text: str) -> int:
        return self.of.setdefault(text, len(self.of))

    @property
    def shown(self) -> list[str]:
        return [visible(text) for text in self.of]


@dataclass
class Columns:
    """Columns of the prompts and of their candidates (`first`: where a prompt's begin), the log-probs by reference."""

    keyed: Keyed
    prompts: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _OF_PROMPT})
    candidates: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _OF_CANDIDATE})
    logps: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    names: dict[str, Names] = field(
        default_factory=lambda: {
            "split": Names(SPLITS),
            "role": Names(ROLES),
            **{name: Names() for name in ("source", "origin", "producer", "reason")},
        }
    )

    def add(self, known: Known, candidates: Sequence[Facts], begins: str) -> None:
        """A prompt and its candidates, in the order of the page."""
        row, own = known.row, self.prompts
        own["id"].append(row["prompt_id"])
        own["split"].append(self.names["split"].number(row["split"]))
        own["source"].append(self.names["source"].number(row["source"] or "unknown"))
        for figure, column in OF_FIGURES.items():
            own[column].append(known.figures.get(figure))
        own["chosenBy"].append(self.names["producer"].number(known.chosen["producer"]))
        own["problems"].append(problems(known))
        own["reasons"].append(sorted({self.names["reason"].number(f"{d['stage']}: {d['reason']}") for d in known.drops}))
        own["text"].append(visible(begins[: 2 * BEGINNING])[:BEGINNING])
        own["first"].append(len(self.candidates["role"]))
        noises = gumbels(self.keyed.seed, NEGATIVE, [c["candidate_id"] for c in candidates], 0, FIRST)
        for candidate, noise in zip(candidates, noises.tolist(), strict=True):
            self._candidate(candidate, noise)

    def _candidate(self, candidate: Facts, noise: float) -> None:
        for reference in candidate["logps"]:
            if reference not in self.logps:
                held: list[Any] = [None] * len(self.candidates["role"])
                self.logps[reference] = {"logp": held, "tokens": list(held)}
        for name in ("role", "origin", "producer"):
            self.candidates[name].append(self.names[name].number(candidate[name]))
        self.candidates["rank"].append(candidate["rank"])
        self.candidates["chars"].append(len(candidate["response"]))
        self.candidates["gumbel"].append(noise)
        for reference, columns in self.logps.items():
            scored = candidate["logps"].get(reference)
            columns["logp"].append(None if scored is None else scored["logp"])
            columns["tokens"].append(None if scored is None else scored["num_tokens"])

    def facts(self) -> Facts:
        """Everything as JSON; names as they are shown."""
        return {
            "prompts": self.prompts,
            "candidates": self.candidates,
            "references": [{"name": visible(name), **columns} for name, columns in self.logps.items()],
            "names": {name: names.shown for name, names in self.names.items()},
            "problems": [{"key": key, "label": problem.label, "words": problem.words} for key, problem in PROBLEMS.items()],
            "seed": self.keyed.seed,
            "pool": list(self.keyed.origins),
        }
