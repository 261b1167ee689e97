"""The quality of a preference set: sums over all its prompts, gathered part by part in bounded memory.

Every way of ordering answers is a ranker: the source, the set's own method, each reference's nats per token, and the
length. Two rankers agree on a pair of answers of one prompt when they order it alike; pairs that either ties are left
out and counted. Agreement of a ranking with the length IS its length bias.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prefdata.output.same_words import with_the_chosens_words
from prefdata.tables.figures import FIGURES, candidates_of, figures_of, per_token
from prefdata.tables.views import Frames

Facts = dict[str, Any]
MERGED = "equal texts merged"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
OUTCOMES = {1: "win", 0: "tie", -1: "loss"}


@dataclass
class Quality:
    """What is gathered; `references` are their names in the settings' order."""

    references: Sequence[str]
    method: str
    figures: list[pl.DataFrame] = field(default_factory=list)
    pairs: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wins: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    noise: list[pl.DataFrame] = field(default_factory=list)
    degenerate: Counter[str] = field(default_factory=Counter)
    source_ranks: Counter[str] = field(default_factory=Counter)
    producers: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, frames: Frames) -> None:
        """Gather one part: sets, and the candidates they were made of (the pruned ones too)."""
        sets = frames["sets"]
        self._add_source_ranks(frames["candidates"].filter(pl.col("source_rank").is_not_null()))
        self._add_producers(frames["candidates"], "made")
        if sets.is_empty():
            return
        rows = candidates_of(sets)
        self.figures.append(figures_of(rows).join(sets.select("prompt_id", pl.col("split").cast(pl.String)), on="prompt_id"))
        self._add_pairs(rows, frames["candidates"])
        self._add_wins(frames["candidates"].join(sets, on="prompt_id", how="semi"))
        self._add_noise(rows)
        self._add_degenerate(rows)
        self._add_producers(rows, "in the set")
        self._add_producers(rows.filter(pl.col("role") == "chosen"), "chosen")

    def _add_pairs(self, rows: pl.DataFrame, candidates: pl.DataFrame) -> None:
        """Count, for every two rankers, the pairs of answers that they order alike, unlike, or that one of them ties."""
        rankers, orders = self.rankers(), self._orders(rows, candidates)
        values = {r: orders[r].cast(pl.Float64).to_numpy() for r in rankers}  # null is NaN, and so is what is made of it
        for one_, other_ in couples(orders["prompt_id"]):
            signs = {r: np.sign(v[one_] - v[other_]) for r, v in values.items()}
            for one, other in combinations(rankers, 2):
                product = signs[one] * signs[other]
                self.pairs[one, other, "alike"] += int((product > 0).sum())
                self.pairs[one, other, "unlike"] += int((product < 0).sum())
                self.pairs[one, other, "tied"] += int((product == 0).sum())

    def _orders(self, rows: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
        """One column a ranker, higher is better, of the set's answers without noise."""
        source = candidates.select("prompt_id", "candidate_id", (-pl.col("source_rank")).alias("source"))
        real = rows.filter(pl.col("origin") != "noise").join(source, on=["prompt_id", "candidate_id"], how="left")
        columns = {
            "source": pl.col("source"),
            self.method: -pl.col("rank").cast(pl.Float64) if self.method != "source" else pl.col("source"),
            **{f"reference {name}": per_token(real, i) for i, name in enumerate(self.references)},
            "length": pl.col("chars").cast(pl.Float64),
        }
        return real.select("prompt_id", "candidate_id", *[values.alias(name) for name, values in columns.items()])

    def rankers(self) -> list[str]:
        own = [] if self.method == "source" else [self.method]
        return ["source", *own, *[f"reference {n}" for n in self.references], "length"]

    def _add_wins(self, candidates: pl.DataFrame) -> None:
        """Count which producer's answer the source ranks better, over all pairs of answers, pruned ones included."""
        ranked = candidates.filter(pl.col("source_rank").is_not_null()).select("prompt_id", "producer", "source_rank")
        names = ranked["producer"].unique().sort()
        producer, rank = names.search_sorted(ranked["producer"]).to_numpy().astype(np.int64), ranked["source_rank"].to_numpy()
        for one, other in couples(ranked["prompt_id"]):
            better = np.sign(rank[other] - rank[one]).astype(np.int64)
            kinds = np.ravel_multi_index((producer[one], producer[other], better + 1), (len(names), len(names), 3))
            counts = np.bincount(kinds)
            for kind in np.flatnonzero(counts):
                a, b, sign = np.unravel_index(kind, (len(names), len(names), 3))
                if a != b:
                    self.wins[names[int(a)], names[int(b)], OUTCOMES[int(sign) - 1]] += int(counts[kind])
                    self.wins[names[int(b)], names[int(a)], OUTCOMES[1 - int(sign)]] += int(counts[kind])

    def _add_source_ranks(self, ranked: pl.DataFrame) -> None:
        """What the source's ranks look like: the prompts with averages, ties at the top, few levels."""
        rank = pl.col("source_rank")
        seen = ranked.group_by("prompt_id").agg(
            rank.n_unique().alias("levels"),
            (rank != rank.round()).any().alias("average"),
            (rank == rank.min()).sum().alias("first"),
            pl.len().alias("answers"),
        )
        several = seen.filter(pl.col("answers") > 1)
        self.source_ranks.update(
            {
                "prompts with ranked answers": seen.height,
                "a rank that is no whole number (an average of ties)": int(several["average"].sum()),
                "several answers tie at the top": int((several["first"] > 1).sum()),
                "two levels only": int((several["levels"] == 2).sum()),
                "one level only: nothing is preferred": int((several["levels"] == 1).sum()),
                "no tie at all": int((several["levels"] == several["answers"]).sum()),
            }
        )

    def _add_producers(self, rows: pl.DataFrame, what: str) -> None:
        """Whose answers were made, are in the set, are chosen: what was dropped is not dropped evenly."""
        for producer, count in rows.group_by("producer").len().iter_rows():
            self.producers[producer, what] += count

    def _add_noise(self, rows: pl.DataFrame) -> None:
        """How much less likely a reference finds the swapped answer than the chosen one, in nats."""
        if not self.references:
            return
        chosen = rows.filter(pl.col("role") == "chosen").select("prompt_id", pl.col("logps").alias("own"))
        noisy = rows.filter(pl.col("origin") == "noise").join(chosen, on="prompt_id")

        def logp(column: str, place: int) -> pl.Expr:
            return pl.col(column).list.get(place, null_on_oob=True).struct.field("logp")

        self.noise.append(
            noisy.select([(logp("own", i) - logp("logps", i)).alias(name) for i, name in enumerate(self.references)])
        )

    def _add_degenerate(self, rows: pl.DataFrame) -> None:
        """Prompts with a rejected answer that has the chosen one's words, with one rejected answer only, and the like."""
        real = rows.filter(pl.col("origin") != "noise")
        chosen, rejected = pl.col("role") == "chosen", pl.col("role") == "rejected"
        of_prompts = real.group_by("prompt_id").agg(
            (rejected.sum() == 1).alias("one rejected answer"),
            (pl.col("role") == "other").any().alias("ties with the chosen"),
            (pl.col("copies") > 1).any().alias(MERGED),
            ((pl.col("finish") == "length") & chosen).any().alias("chosen answer cut by the length limit"),
        )
        self.degenerate["same words as the chosen"] += with_the_chosens_words(real).len()
        for name in of_prompts.columns[1:]:
            self.degenerate[name] += int(of_prompts[name].sum())

    def table(self) -> pl.DataFrame:
        """Every prompt's figures and split."""
        columns = {"prompt_id": pl.String, **dict.fromkeys(FIGURES, pl.Float64), "split": pl.String}
        return pl.concat(self.figures) if self.figures else pl.DataFrame(schema=columns)

    def facts(self) -> Facts:
        """Everything as JSON."""
        figures = self.table()
        return {
            "prompts": figures.height,
            "figures": [_distribution(name, figures[name]) for name in FIGURES],
            "agreement": self._agreement(),
            "wins": self._win_rates(),
            "degenerate": dict(self.degenerate),
            "source_ranks": dict(self.source_ranks),
            "producers": [
                {"producer": p, **{w: self.producers[p, w] for w in ("made", "in the set", "chosen")}}
                for p in sorted({p for p, _ in self.producers})
            ],
            "noise": [_noise(name, pl.concat(self.noise)[name]) for name in self.references] if self.noise else [],
        }

    def _agreement(self) -> list[Facts]:
        facts = []
        rankers = self.rankers()
        for i, one in enumerate(rankers):
            for other in rankers[i + 1 :]:
                alike, unlike, tied = (self.pairs[one, other, k] for k in ("alike", "unlike", "tied"))
                share = alike / (alike + unlike) if alike + unlike else None
                facts.append({"one": one, "other": other, "agree": share, "pairs": alike + unlike, "tied": tied})
        return facts

    def _win_rates(self) -> list[Facts]:
        """Each pair of producers once."""
        return [_win_rate(self.wins, one, other) for one, other in combinations(sorted({one for one, _, _ in self.wins}), 2)]


def couples(prompt_ids: pl.Series) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """The places of the two rows of every couple of rows of one prompt, each couple once: those of neighbours, of rows two
    apart, and so on. Rows of one prompt stand together."""
    number = prompt_ids.rle_id().to_numpy()
    for apart in range(1, len(number)):
        one = np.flatnonzero(number[apart:] == number[:-apart])
        if not one.size:
            return
        yield one, one + apart


def _win_rate(wins: Counter[tuple[str, str, str]], one: str, other: str) -> Facts:
    """Adjusted win rate: (wins + ties / 2) over all comparisons."""
    won, lost, tied = (wins[one, other, k] for k in ("win", "loss", "tie"))
    total = won + lost + tied
    rate = (won + tied / 2) / total if total else None
    return {"model": one, "against": other, "wins": won, "ties": tied, "losses": lost, "rate": rate}


def _distribution(name: str, values: pl.Series) -> Facts:
    return {"figure": name, "what": FIGURES[name], **spread(values)}


def spread(values: pl.Series) -> Facts:
    """How many values are known, their mean and QUANTILES."""
    known = values.drop_nulls().drop_nans()
    if not known.len():
        return {"n": 0}
    return {"n": known.len(), "mean": known.mean(), **{f"p{round(q * 100)}": known.quantile(q) for q in QUANTILES}}


def _noise(reference: str, gaps: pl.Series) -> Facts:
    known = gaps.drop_nulls()
    fooled = float((known <= 0).mean()) if known.len() else None  # type: ignore[arg-type]
    return {"reference": reference, "n": known.len(), "mean_nats": known.mean(), "noise_likelier": fooled}
