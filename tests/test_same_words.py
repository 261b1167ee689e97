"""Answers of the chosen one's words, found by their ends first: the same ones as by splitting every text."""

import re
import unicodedata

import polars as pl
from hypothesis import example, given
from hypothesis import strategies as st

from prefdata.output.same_words import ENDS, PLAIN, with_the_chosens_words
from prefdata.sources.words import words

LETTER = re.compile("[a-z0-9_]")
TEXTS = st.text(st.sampled_from("aAbé\u0301ﬁiſsK½1 .,'’-?!\n漢̈ﬀ"), max_size=12)


def test_plain_characters_hide_no_letter_and_change_none() -> None:
    """Every character there is: NFKC and case folding make no ASCII letter of it, nor of one before it another one."""
    plain = re.compile("[" + re.sub(r"\\[xu]\{?([0-9a-f]+)\}?", lambda m: re.escape(chr(int(m[1], 16))), PLAIN) + "]")
    for character in map(chr, range(128, 0x110000)):
        if plain.match(character):
            made = unicodedata.normalize("NFKC", character).casefold() + character.lower()
            assert not LETTER.search(made), hex(ord(character))
            assert unicodedata.normalize("NFKC", f"a{character}").startswith("a"), hex(ord(character))
            assert not unicodedata.category(character).startswith("M"), hex(ord(character))
    assert not any(map(plain.match, "\u0301\ufb01\u017f\u212a\u00bd\u00b2\u00aa\u0130")), "and those that do are not among them"


def rows(chosen: str, rejected: list[str]) -> pl.DataFrame:
    listed = [("p", "chosen", chosen), *(("p", "rejected", text) for text in rejected), ("q", "chosen", "other")]
    return pl.DataFrame(listed, schema=["prompt_id", "role", "response"], orient="row")


@given(TEXTS, st.lists(TEXTS, max_size=4), st.text("ab ", max_size=3 * ENDS), st.text("a.!", max_size=2 * ENDS))
@example("Ab", ["ab"], "", "")
def test_as_by_splitting_every_text(chosen: str, rejected: list[str], before: str, behind: str) -> None:
    own, others = f"{before}{chosen}{behind}", [f"{before}{text}{behind}" for text in rejected]
    expected = ["p"] if any(words(own) == words(text) for text in others) else []
    assert with_the_chosens_words(rows(own, others)).to_list() == expected


def test_long_texts_that_differ_in_spaces_case_and_signs_only() -> None:
    long = "One word. " * 50
    assert with_the_chosens_words(rows(long, ["x", long.upper().replace(". ", "!\n")])).to_list() == ["p"]
    assert with_the_chosens_words(rows(long, [long + "more", "more " + long, long[:250] + "x" + long[250:]])).to_list() == []


def test_a_mark_behind_what_is_looked_at_changes_the_letter_before_it() -> None:
    begin = "x" * (ENDS - 2)
    assert with_the_chosens_words(rows(f" {begin}e\u0301a", [f"{begin}\u00e9a"])).to_list() == ["p"]
