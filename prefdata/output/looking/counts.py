"""What a set holds, counted in one pass: the quality report's own figures, and what it leaves to the tables of a recipe."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from prefdata.output.looking import pages
from prefdata.output.looking.opened import Opened
from prefdata.output.quality import QUANTILES, Quality, spread
from prefdata.tables.figures import candidates_of
from prefdata.tables.schema import TABLES

Facts = dict[str, Any]
RANKS = "the set's ranks"
MOST_ROWS = 25
_NO_CANDIDATES = TABLES["candidates"].empty()


@dataclass
class Counts:
    """What is gathered, part by part: numbers alone are kept, no text."""

    prompts: Counter[tuple[str, str]] = field(default_factory=Counter)
    candidates: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens: list[pl.DataFrame] = field(default_factory=list)
    margins: list[pl.DataFrame] = field(default_factory=list)
    texts: list[pl.Series] = field(default_factory=list)
    lengths: list[pl.DataFrame] = field(default_factory=list)
    longest: int = 0
    quality: Quality | None = None

    def add(self, sets: pl.DataFrame) -> None:
        """Gather some rows of `sets`."""
        rows = candidates_of(sets)
        if self.quality is None:
            named = rows["logps"].list.eval(pl.element().struct.field("reference")).to_list()
            self.quality = Quality(max(named, key=len, default=[]), RANKS)
        self.quality.add({"sets": sets, "candidates": _NO_CANDIDATES})
        of_prompt = sets.select("prompt_id", pl.col("split").cast(pl.String), pl.col("source").fill_null("unknown"))
        joined = rows.select("prompt_id", pl.col("origin").cast(pl.String), "producer").join(of_prompt, on="prompt_id")
        for what in ("split", "source"):
            self.prompts.update({(what, value): n for value, n in of_prompt.group_by(what).len().iter_rows()})
        for what in ("split", "source", "origin", "producer"):
            self.candidates.update({(what, value): n for value, n in joined.group_by(what).len().iter_rows()})
        self._add_lengths(rows)
        self.margins.append(_margins(rows))
        # a text that two prompts have counts once of each: within a prompt equal texts are merged
        self.texts.append(rows.filter(pl.col("origin") != "noise")["response"].hash())

    def _add_lengths(self, rows: pl.DataFrame) -> None:
        chosen, rejected = pl.col("role") == "chosen", (pl.col("role") == "rejected") & (pl.col("origin") != "noise")
        ends = rows.group_by("prompt_id").agg(
            pl.col("chars").filter(chosen).max().alias("own"), pl.col("chars").filter(rejected).max().alias("other")
        )
        self.longest += ends.filter(pl.col("own") > pl.col("other")).height
        self.lengths.append(rows.select(pl.col("role").cast(pl.String), "chars"))

    def facts(self) -> Facts:
        """Everything as JSON."""
        quality = (self.quality or Quality([], RANKS)).facts()
        prompts = quality["prompts"]
        return {
            "prompts": prompts,
            "candidates": sum(n for (what, _), n in self.candidates.items() if what == "split"),
            **{what: self._by(what) for what in ("split", "source", "origin", "producer")},
            "lengths": self._lengths(),
            "chosen_longest": {"prompts": self.longest, "share": self.longest / prompts if prompts else None},
            "prompts_with": quality["degenerate"],
            "repeated_texts": self._repeated(),
            "margins": self._margins(),
            "figures": quality["figures"],
            "agreement": [a for a in quality["agreement"] if a["one"] != "source"],
            "noise": quality["noise"],
        }

    def _by(self, what: str) -> list[Facts]:
        """Prompts (of splits and sources) and candidates, the most first."""
        chosen = {p: self.quality.producers[p, "chosen"] for (w, p) in self.candidates if w == what} if self.quality else {}
        rows = []
        for (kind, value), n in sorted(self.candidates.items(), key=lambda item: (-item[1], item[0])):
            if kind == what:
                own = {"chosen": chosen[value]} if what == "producer" else {}
                known = {"prompts": self.prompts[what, value]} if (what, value) in self.prompts else {}
                rows.append({what: value, **known, "candidates": n, **own})
        return rows

    def _lengths(self) -> list[Facts]:
        """Characters of answers by role."""
        if not self.lengths:
            return []
        rows = pl.concat(self.lengths)
        roles = [r for r in ("chosen", "rejected", "other") if (rows["role"] == r).any()]
        return [{"role": role, **spread(rows.filter(pl.col("role") == role)["chars"].cast(pl.Float64))} for role in roles]

    def _repeated(self) -> int:
        """Answers whose text stands elsewhere in the set too, noise left out."""
        return int(pl.concat(self.texts).is_duplicated().sum()) if self.texts else 0

    def _margins(self) -> list[Facts]:
        rows = pl.concat(self.margins) if self.margins else pl.DataFrame(schema={"reference": pl.String})
        made = []
        for name in rows["reference"].unique(maintain_order=True).to_list():
            own = rows.filter(pl.col("reference") == name)
            for what in ("nats", "nats/token"):
                known = own[what].drop_nulls()
                first = float((known > 0).mean()) if known.len() else None  # type: ignore[arg-type]
                made.append({"reference": name, "in": what, **spread(own[what]), "above_0": first})
        return made


def _margins(rows: pl.DataFrame) -> pl.DataFrame:
    """Of each prompt and reference: the chosen one's log-prob less the rejected ones' mean, noise left out."""
    scored = rows.select("prompt_id", "role", "origin", "logps").explode("logps").drop_nulls("logps").unnest("logps")
    chosen, rejected = pl.col("role") == "chosen", (pl.col("role") == "rejected") & (pl.col("origin") != "noise")
    nats, per_token = pl.col("logp"), pl.col("logp") / pl.when(pl.col("num_tokens") > 0).then(pl.col("num_tokens"))
    return (
        scored.group_by("prompt_id", "reference", maintain_order=True)
        .agg(
            (nats.filter(chosen).first() - nats.filter(rejected).mean()).alias("nats"),
            (per_token.filter(chosen).first() - per_token.filter(rejected).mean()).alias("nats/token"),
        )
        .drop("prompt_id")
    )


def counted(opened: Opened) -> Facts:
    """What a set holds, and what its recipe dropped where the tables tell."""
    counts = Counts()
    for part in opened.parts():
        counts.add(part)
    return {**counts.facts(), "drops": opened.dropped()}


# ---- as text ----

_SPREAD = ("mean", *(f"p{round(q * 100)}" for q in QUANTILES))


def render(facts: Facts) -> list[Any]:
    """The page."""
    page: list[Any] = [pages.line(f"{facts['prompts']} prompts, {facts['candidates']} candidates", "bold")]
    for what, columns in (
        ("split", ("split", "prompts", "candidates")),
        ("source", ("source", "prompts", "candidates")),
        ("origin", ("origin", "candidates")),
        ("producer", ("producer", "candidates", "chosen")),
    ):
        page += _table(columns, facts[what])
    page += _table(("role", "n", *_SPREAD), facts["lengths"], "Characters of an answer")
    longest = facts["chosen_longest"]
    lines = {
        "a chosen answer longer than every rejected one": longest["prompts"],
        **facts["prompts_with"],
    }
    page.append(pages.table(("prompts with", "n"), list(lines.items())))
    page.append(
        pages.line(f"{facts['repeated_texts']} answers, noise left out, have a text that stands elsewhere in the set too")
    )
    title = "Log-prob margins: the chosen answer less the rejected ones' mean"
    page += _table(("reference", "in", "n", *_SPREAD[1:], "above_0"), facts["margins"], title)
    title = "Two rankers agree on pairs of answers; with the length: length bias"
    page += _table(("one", "other", "agree", "pairs", "tied"), facts["agreement"], title)
    return page + _table(("stage", "unit", "reason", "rows"), facts["drops"], "Dropped")


def _table(columns: Sequence[str], rows: Sequence[Facts], title: str | None = None) -> list[Any]:
    """A table of facts, nothing where there are none."""
    if not rows:
        return []
    made = pages.table(
        [c.replace("_", " ") for c in columns], [[row.get(c) for c in columns] for row in rows[:MOST_ROWS]], title
    )
    return [made, *([pages.line(f"and {len(rows) - MOST_ROWS} more (--json has all)")] if len(rows) > MOST_ROWS else [])]
