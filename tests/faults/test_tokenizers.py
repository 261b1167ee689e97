"""FAULTS B, tokenizers and templates that cannot serve: an error before any work; those that can, read as they stand."""

import contextlib
import sqlite3
from typing import Any

import polars as pl
import pytest

from prefdata.models.tokens import load_encoder
from prefdata.recipe.read import read_recipe
from prefdata.recipe.results import Results
from prefdata.stages.registry import STAGES
from prefdata.tables import files

from . import tiny
from .cases import Case, Error, Fault, as_parameters
from .place import Place, chain, good_row, phrase


def template(turn: str = "<assistant>{{ m['content'] }}<eos>", start: str = "<bos>", asks: str = "<assistant>") -> str:
    """The toy tokenizer's template with another assistant's turn, another start or another end."""
    turns = f"{{% if m['role'] == 'assistant' %}}{turn}{{% else %}}<user>{{{{ m['content'] }}}}{{% endif %}}"
    return f"{start}{{% for m in messages %}}{turns}{{% endfor %}}{{% if add_generation_prompt %}}{asks}{{% endif %}}"


def reference(name: str, read: str = "chat", **keys: Any) -> Fault:
    """Another model as the primary reference, saved beside the recipe; `read`: chat or plain; else keys of tiny.save."""

    def fault(place: Place, _: str) -> None:
        tiny.save(place.folder / name, **keys)
        place.reference.update(model=name, template=read)

    return fault


def empty_folder(place: Place, name: str) -> None:
    (place.folder / "none").mkdir()
    place.reference.update(model="none")


def nowhere(place: Place, name: str) -> None:
    place.reference.update(model="nowhere/at-all")


def with_template(name: str, template: str, says: str) -> tuple[Fault, str]:
    """(the fault, what is said of it); the name is a folder's."""
    return reference(name, template=template), f"{name}: .*template.*{says}"


END = "(eos|EOS|end)"
NO_TEMPLATE, NO_EOS = reference("bare", drop=("chat_template",)), reference("endless", "plain", drop=("eos_token",))
UNFIT = {
    "a template with a double BOS": with_template("two-bos", template(start="<bos><bos>"), "(bos|BOS)"),
    "a template without EOS": with_template("no-eos", template("<assistant>{{ m['content'] }}"), "(eos|EOS|after an answer)"),
    "a template with EOS before the answer": with_template("eos-after", template(asks="<assistant><eos>"), END),
    "a template with EOS inside a turn": with_template("eos-before", template("<assistant><eos>{{ m['content'] }}<eos>"), END),
    "a template that raises": with_template("raises", "{{ raise_exception('only users') }}", "only users"),
    "a template that is no Jinja": with_template("no-jinja", "{% for %}<eos>", ""),
    "a tokenizer without a chat template": (NO_TEMPLATE, "bare: .*no chat template; set template: plain"),
    "a plain tokenizer without EOS": (NO_EOS, "endless: .*no eos token; set end: none"),
    "a folder without a tokenizer": (empty_folder, "none: no tokenizer"),
    "a model that is nowhere": (nowhere, "nowhere/at-all: "),
}
TOKENIZERS = [Case(name, fault, Error(says, "noise|score"), "noise") for name, (fault, says) in UNFIT.items()]


@pytest.mark.parametrize("case", as_parameters(TOKENIZERS))
def test_a_tokenizer_that_cannot_serve_stops_before_work(case: Case, place: Place) -> None:
    stores = set((place.root / "chunks" / "score").glob("*.sqlite"))
    case.run(place)
    for store in set((place.root / "chunks" / "score").glob("*.sqlite")) - stores:
        with contextlib.closing(sqlite3.connect(store)) as connection:
            assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,), "a log-prob was computed"


def test_a_tokenizer_without_pad_serves(place: Place, good: Place) -> None:
    """Padding is masked, so no pad token is needed: the log-probs are those of the tokenizer that has one."""
    reference("no-pad", drop=("pad_token",))(place, "")
    place.write()
    assert place.run(*chain("noise", "sets")).code == 0
    old = good.paths("logps", "score")
    new = [p for p in place.paths("logps", "score") if p.parent.name != old[0].parent.name]
    mine, theirs = (pl.concat([files.read_table(p, "logps") for p in paths]) for paths in (new, old))
    assert mine["candidate_id"].to_list() == theirs["candidate_id"].to_list()
    assert ((mine["logp"] - theirs["logp"]).abs() <= 1e-5 * mine["num_tokens"]).all()


@pytest.fixture
def large(place: Place) -> Place:
    """The rows under a tokenizer that merges, as the primary reference, read plainly."""
    reference("large", kind="large", read="plain")(place, "")
    return place


def test_prompt_and_answer_are_never_merged(large: Place) -> None:
    """`12` is one token of this tokenizer; a prompt's last 1 and an answer's first 2 stay two, each in its own span."""
    for name, prompt, answer in (
        ("digits", "what is 1", "2 or so"),
        ("letters", "what is a", "b or so"),
        ("nectar", "what is c\n\nAssistant: ", " 12"),
    ):
        large.rows.append(good_row_plain(name, prompt, [(answer, 1), ("nothing of it", 2)]))
    large.write()
    assert large.run(*chain(last="score")).code == 0
    encoder = load_encoder(str(large.folder / "large"), template="plain")
    eos = encoder.tokenizer.eos_token_id
    (unit,) = Results(read_recipe(large.folder / "recipe.yaml"), STAGES).units("score")
    for name in ("digits", "letters", "nectar"):
        scored = {r["candidate_id"]: r for r in large.of(name, "logps", "score", unit)}
        for candidate in large.of(name, "candidates", "sources"):
            prompt = encoder.tokenizer(large.prompt(name)["messages"][0]["content"], add_special_tokens=False)["input_ids"]
            answer = [*encoder.tokenizer(candidate["response"], add_special_tokens=False)["input_ids"], eos]
            row = scored[candidate["candidate_id"]]
            assert row["num_tokens"] == len(answer)
            assert row["logp"] == pytest.approx(tiny.oracle(large.folder / "large", prompt, answer), abs=1e-3)


def good_row_plain(name: str, prompt: str, answers: list[tuple[str, int]]) -> dict[str, object]:
    return good_row(name, [{"role": "user", "content": prompt}], answers)


def test_swaps_that_merge_or_change_nothing_are_no_noise(large: Place) -> None:
    """`ba` would become the one token `ab`; `aaa` is `aa` and `a`, which exchanged are the same text."""
    for name in ("ba", "aaa"):
        large.rows.append(good_row_plain(name, phrase(name), [(name, 1), ("another", 2)]))
    large.write()
    assert large.run(*chain(last="noise")).code == 0
    drops = large.table("drops", "noise").filter(pl.col("reason") == "noise_failed")
    assert sorted(drops["source_row"]) == ["aaa", "ba"]
    encoder = load_encoder(str(large.folder / "large"), template="plain")
    assert [len(i) for i in encoder.contents(["ba", "ab", "aaa"])] == [2, 1, 2]
