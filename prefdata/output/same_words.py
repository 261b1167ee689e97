"""Prompts with a rejected answer of the chosen one's very words, found without splitting every text into words.

Two texts of the same words have the same ASCII letters and digits in the same order, since each of these is in some word.
That is looked at first, at both ends of the texts, by polars; only what is left is split.
"""

import polars as pl

from prefdata.sources.words import words

ENDS = 64
"""Characters looked at, at either end."""
PLAIN = (
    r"\x00-\x7f\u{a1}-\u{a7}\u{a9}\u{ab}-\u{ae}\u{b0}\u{b1}\u{b6}\u{b7}\u{bb}\u{bf}-\u{de}\u{e0}-\u{12f}\u{134}-\u{13e}\u{141}-\u{148}"
    r"\u{14a}-\u{17e}\u{391}-\u{3a1}\u{3a3}-\u{3ce}\u{400}-\u{482}\u{5d0}-\u{5ea}\u{621}-\u{64a}\u{2010}-\u{2027}\u{2030}-\u{203a}"
    r"\u{20ac}\u{2190}-\u{23ff}\u{2500}-\u{27bf}\u{3001}\u{3002}\u{3041}-\u{3096}\u{30a1}-\u{30fa}\u{4e00}-\u{9fff}\u{ac00}-\u{d7a3}\u{1f300}-\u{1f64f}"
)
"""Characters that neither become ASCII letters or digits, nor change one before them, when words are made of a text: ASCII, and
most of those that answers hold (a test looks at each). No marks: e and an acute accent are no e."""


def with_the_chosens_words(candidates: pl.DataFrame) -> pl.Series:
    """The prompt_ids of the sets' candidates (one row each: prompt_id, role, response) that have a rejected answer with the
    words of the chosen one."""
    chosen = _with_ends(
        candidates.filter(pl.col("role") == "chosen").select("prompt_id", pl.col("response").alias("own")), "own"
    )
    rejected = candidates.filter(pl.col("role") == "rejected").select("prompt_id", "response")
    both = _with_ends(rejected, "response").join(chosen, on="prompt_id", maintain_order="left")
    alike = both.filter(_may_be_alike("head", "starts_with") & _may_be_alike("tail", "ends_with"))
    same = [words(one) == words(other) for one, other in alike.select("own", "response").iter_rows()]
    return alike["prompt_id"].filter(pl.Series(same, dtype=pl.Boolean)).unique()


def _with_ends(rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """With the letters and digits of both ends; null where another character may hide some."""
    text = pl.col(column)
    ends = {"head": (text.str.head(ENDS), text.str.head(ENDS + 1)), "tail": (text.str.tail(ENDS), text.str.tail(ENDS))}
    return rows.with_columns(
        pl.when(~seen.str.contains(f"[^{PLAIN}]"))
        .then(end.str.to_lowercase().str.replace_all("[^a-z0-9_]+", ""))
        .alias(f"{column}_{name}")
        for name, (end, seen) in ends.items()
    )


def _may_be_alike(end: str, begins: str) -> pl.Expr:
    """Whether one of the two begins (or ends) with all of the other, as it must where all of them are equal."""
    one, other = pl.col(f"own_{end}"), pl.col(f"response_{end}")
    either: pl.Expr = getattr(one.str, begins)(other) | getattr(other.str, begins)(one)
    return either.fill_null(True)
