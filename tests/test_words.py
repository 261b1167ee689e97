"""Words of all scripts, with the signs that change what is asked."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefdata.sources import words as module
from prefdata.sources.words import ngrams, words


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("How do I sort in C++?", ["how", "do", "i", "sort", "in", "c", "+", "+"]),
        ("How do I sort in C#?", ["how", "do", "i", "sort", "in", "c", "#"]),
        ("# Title, **bold** - item!", ["title", "bold", "item"]),
        ("7 - 3, 7 + 3, 7/3, 7 × 3, −5", ["7", "-", "3", "7", "+", "3", "7", "/", "3", "7", "*", "3", "-", "5"]),
        ("x-y or x*y, but a well-known e-mail", ["x", "-", "y", "or", "x", "*", "y", "but", "a", "well", "known", "e", "mail"]),
        ("What is 5! in 3.5 or 1,000?", ["what", "is", "5", "!", "in", "3.5", "or", "1,000"]),
        ("I don't", ["i", "don't"]),
        ("किताब का अर्थ", ["किताब", "का", "अर्थ"]),
        ("你好吗 world", ["你", "好", "吗", "world"]),
        ("กินข้าว", ["กิ", "น", "ข้", "า", "ว"]),
        ("カタカナ ひら 안녕 세계", ["カタカナ", "ひ", "ら", "안녕", "세계"]),
        ("Ｆｕｌｌ １", ["full", "1"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("?!", ["?!"]),
        ("🙂 🙁", ["🙂", "🙁"]),
    ],
)
def test_words(text: str, listed: list[str]) -> None:
    assert words(text) == listed


@given(st.text(alphabet=string.printable))
@settings(max_examples=300, deadline=None)
def test_the_ascii_pattern_gives_what_the_other_gives(text: str) -> None:
    assert module._ASCII.findall(text.lower()) == module._word().findall(text.lower())


@given(st.text(), st.sampled_from("+<=>$%^&"))
@settings(max_examples=200, deadline=None)
def test_signs_count_and_punctuation_does_not(text: str, sign: str) -> None:
    assert words(f"a {text} b") == words(f"a  {text}  b")
    assert words(f"{text} 7 {sign} 3") != words(f"{text} 7 3")
    assert words("What is it, " + "x" * 3 + "?") == words("what is it " + "x" * 3)


def test_a_copied_question_of_a_script_without_spaces_shares_runs() -> None:
    asked = "请回答下面的数学题：小明有三个苹果，他又买了五个苹果，然后送给朋友两个，请问他现在一共有多少个苹果？"
    known = "小明有三个苹果，他又买了五个苹果，然后送给朋友两个，请问他现在一共有多少个苹果？"
    assert set(ngrams(words(known), 12)) <= set(ngrams(words(asked), 12))
