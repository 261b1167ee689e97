"""FAULTS B, names that could be obeyed: on cards, in messages and in logs they are printable."""

import shutil
import unicodedata

import pytest

from .cases import Case, Error, Fault, as_parameters, change, change_answer, require_error
from .place import BIDI, SURROGATE, Place, chain


def test_a_source_name_is_escaped_on_the_card_and_kept_in_the_tables(place: Place) -> None:
    name = f"a{BIDI}\u200bb\x00 {{{{ 7*7 }}}} {{output_2}} {{% x %}} | <b>"
    place.source.update(name=name)
    place.recipe["card"] = {"title": f"{{version}} {BIDI}t{SURROGATE}", "description": "{{ 7*7 }} {holes}"}
    place.recipe["score"] = {}
    shutil.rmtree(place.root)  # a card that is there keeps its title
    place.write()
    assert place.run(*chain(last="sets")).code == 0
    assert place.run_apart("report").code == 0, "a process that draws"
    assert place.run(*chain("card")).code == 0
    assert set(place.table("prompts", "sources")["source"]) == {f"{name}@local"}
    card = (place.dataset / "README.md").read_text(encoding="utf-8")
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in card.replace("\n", ""))
    plain = card.replace("\\", "")
    for text in ("{{ 7*7 }} {output_2} {% x %}", "{version}", "{{ 7*7 }} {holes}", "u202e", "u200b", "ud800"):
        assert text in plain
    assert "<b>" not in card


def unknown_column(name: str) -> Fault:
    def fault(place: Place, _: str) -> None:
        place.recipe["sources"]["unknown_fields"] = "error"
        place.rows[3][name] = 1

    return fault


def file_of_that_name(name: str) -> Fault:
    def fault(place: Place, _: str) -> None:
        place.source["path"] = name
        (place.folder / name).write_text("{", encoding="utf-8")

    return fault


MESSAGES = [
    Case("bidi in a wrong value", change(prompt=[{"role": BIDI, "content": "x"}]), Error("rows.jsonl:4:prompt: .*u202e")),
    Case("a lone surrogate in a wrong value", change_answer(rank=SURROGATE), Error("rank: .*ud800")),
    Case("a control in a wrong value", change_answer(rank="\x1b[2J\n"), Error(r"rank: .*x1b\[2J")),
    Case("a lone surrogate in a row id", change(id=SURROGATE), Error("rows.jsonl:4:id: .*ud800")),
    Case("bidi in the name of a column", unknown_column(f"a{BIDI}"), Error("rows.jsonl:4:a.*unknown field")),
    Case("a newline in the name of a column", unknown_column("a\nb"), Error("rows.jsonl:4:a.*unknown field")),
    Case("an escape sequence in the name of a column", unknown_column("a\x1b[2Jb"), Error("rows.jsonl:4:a.*unknown field")),
    Case("a lone surrogate in the name of a column", unknown_column(f"a{SURROGATE}"), Error("rows.jsonl:4:a.*unknown field")),
    Case("a newline in the name of a file", file_of_that_name("a\nb.jsonl"), Error("a.*b.jsonl:1: not JSON")),
    Case("bidi in the name of a file", file_of_that_name(f"a{BIDI}.jsonl"), Error("a.*.jsonl:1: not JSON")),
    Case("a lone surrogate in the name of a source", lambda p, n: p.source.update(name=f"a{SURROGATE}"), Error("sources")),
]


@pytest.mark.parametrize("case", as_parameters(MESSAGES))
def test_a_message_is_one_printable_line(case: Case, place: Place) -> None:
    case.run(place)


@pytest.mark.parametrize("column", [f"a{SURROGATE}", f"a{BIDI}", "a\x1b[2J\nb"], ids=["surrogate", "bidi", "escape"])
def test_a_log_holds_the_line_and_nothing_that_is_obeyed(place: Place, column: str) -> None:
    unknown_column(column)(place, "")
    place.write()
    require_error(place.run("sources", options=["--log", "logs/sources.log"]), "unknown field")
    log = (place.folder / "logs" / "sources.log").read_text(encoding="utf-8")
    assert "unknown field" in log
    assert all(c.isprintable() or c == "\n" for c in log)
