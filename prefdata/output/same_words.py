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
    own = candidates.filter(pl.col("role") == "chosen").select("prompt_id", pl.col("response").alias("own"))
    alike = candidates.filter(pl.col("role") == "rejected").select("prompt_id", "response")
    for end, begins in (("head", "starts_with"), ("tail", "ends_with")):  # few are left after the first
        both = _with_letters(alike, "response", end).join(_with_letters(own, "own", end), on="prompt_id", maintain_order="left")
        alike = both.filter(_may_be_alike(begins)).select("prompt_id", "response")
    both = alike.join(own, on="prompt_id", maintain_order="left")
    same = [words(one) == words(other) for one, other in both.select("own", "response").iter_rows()]
    return both["prompt_id"].filter(pl.Series(same, dtype=pl.Boolean)).unique()


def _with_letters(rows: pl.DataFrame, column: str, end: str) -> pl.DataFrame:
    """With the letters and digits of an end of the column; null where another character may hide some."""
    text = pl.col(column).str
    looked_at, known = (text.head(ENDS), text.head(ENDS + 1)) if end == "head" else (text.tail(ENDS), text.tail(ENDS))
    letters = looked_at.str.to_lowercase().str.replace_all("[^a-z0-9_]+", "")
    return rows.with_columns(pl.when(~known.str.contains(f"[^{PLAIN}]")).then(letters).alias(f"{column}_letters"))


def _may_be_alike(begins: str) -> pl.Expr:
    """Whether one of the two begins (or ends) with all of the other, as it must where all of them are equal."""
    one, other = pl.col("own_letters"), pl.col("response_letters")
    either: pl.Expr = getattr(one.str, begins)(other) | getattr(other.str, begins)(one)
    return either.fill_null(True)
