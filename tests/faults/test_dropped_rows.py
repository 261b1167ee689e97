"""FAULTS A, rows that are dropped and counted, or handled as said: duplicates, ties, ranks, held-out rows."""

import json

import polars as pl
import pytest

from .cases import (
    Case,
    Dropped,
    Handled,
    add,
    as_parameters,
    both,
    mixture,
    policy,
    require_counted,
    require_error,
)
from .place import MAX_CHARS, Place, chain, good_row, human, phrase

# ---- rows that are dropped or handled: all of them in one input ----


def twins(place: Place, name: str) -> None:
    """Three rows with one prompt, of which the source calls one a test row."""
    for number, split in enumerate(("train", "test", "train")):
        answers = [(phrase(name, number, i), i + 1) for i in range(3)]
        place.rows.append(good_row(f"{name}{number}", human(phrase(name)), answers, split=split))


def response_of(place: Place, name: str, role: str) -> list[str]:
    candidates = place.set_of(name)["candidates"]
    return [c["response"] for c in candidates if c["role"] == role and c["origin"] == "source"]


def shows_merged(place: Place, name: str) -> None:
    """The best rank of the three equal texts is kept, and they are counted."""
    same = [c for c in place.set_of(name)["candidates"] if c["copies"] > 1]
    assert [(c["response"], c["rank"], c["copies"]) for c in same] == [("é same", 2, 3)]
    assert len(place.of(name, "candidates", "sources")) == 5, "the table keeps every row"


def shows_dense(place: Place, name: str) -> None:
    """Source ranks 1, 2.5, 2.5, 9 become 1, 2, 2, 3."""
    assert sorted(r["rank"] for r in place.of(name, "ranks", "rank", "source")) == [1, 2, 2, 3]
    assert sorted(c["source_rank"] for c in place.of(name, "candidates", "sources")) == [1, 2.5, 2.5, 9]


def shows_tie_at_the_top(place: Place, name: str) -> None:
    """One of the first is chosen, the others are no rejected ones, and the published pair is the chosen and the last."""
    assert len(response_of(place, name, "chosen")) == 1
    assert len(response_of(place, name, "other")) == 2
    assert response_of(place, name, "rejected") == [phrase(name, "last")]
    own = place.prompt(name)["prompt_id"]
    pairs = pl.concat([pl.read_parquet(p) for p in (place.dataset / "data/preference").glob("*.parquet")])
    (pair,) = pairs.filter(pl.col("prompt_id") == own).to_dicts()
    assert pair["rejected"][0]["content"] == phrase(name, "last")


def shows_one_prompt(place: Place, name: str) -> None:
    """One of the rows stays, the others are counted, and the prompt is in one split: the test split, as one row says."""
    messages = [{"role": "user", "content": phrase(name)}]
    prompts = place.table("prompts", "sources").filter(
        pl.col("messages").map_elements(lambda m: m.to_list() == messages, pl.Boolean)
    )
    assert prompts.height == 1
    dropped = place.table("drops", "sources").filter(pl.col("source_row").str.starts_with(name))
    assert dropped["reason"].to_list() == ["duplicate_prompt"] * 2
    require_counted(place, place.paths("drops", "sources")[0], "duplicate_prompt")
    splits = place.table("splits", "split").join(prompts, on="prompt_id", how="semi")
    assert splits.height <= 1


def shows_extra_columns_ignored(place: Place, name: str) -> None:
    assert len(place.of(name, "candidates", "sources")) == 3
    assert "colour" not in place.table("prompts", "sources").columns


def several_first(place: Place, name: str) -> None:
    add(answers=[*((phrase(name, i), 1) for i in range(3)), (phrase(name, "last"), 2)])(place, name)


def dropped_from_the_set(reason: str) -> Dropped:
    return Dropped(reason, "sets", "prompt", unit="preference")


ALIKE = ("é same", "e\u0301 same", "é same")
TOO_LONG = "y" * (MAX_CHARS + 1)
ROWS = [
    Case("an empty answer", add(answers=[("a b", 1), ("c d", 2), ("", 3)]), Dropped("empty_answer", scope="candidate")),
    Case("a blank answer", add(answers=[("a b", 1), ("c d", 2), (" \n\t", 3)]), Dropped("empty_answer", scope="candidate")),
    Case("an empty prompt", add(human("")), Dropped("empty_prompt")),
    Case("a blank prompt", add("  \n "), Dropped("empty_prompt")),
    Case("an empty list of messages", add([]), Dropped("empty_prompt")),
    Case("no answers", add(answers=[]), Dropped("no_candidate")),
    Case("no usable answer", add(answers=[(TOO_LONG, 1)]), Dropped("no_candidate")),
    Case("one candidate", add(answers=[("alone", 1)]), dropped_from_the_set("need_2")),
    Case("all identical after NFC", add(answers=[(ALIKE[0], 1), (ALIKE[1], 2)]), dropped_from_the_set("identical")),
    Case("all tied", add(answers=[("one x", 1), ("two x", 1)]), dropped_from_the_set("no_preference")),
    Case("role leakage", add(answers=[("a", 1), ("c\n\nHuman: d", 2), ("e", 3)]), Dropped("role_leakage", scope="candidate")),
    Case("a broken dialogue", add("\n\nAssistant: a\n\nHuman: b\n\nAssistant: "), Dropped("bad_dialogue")),
    Case("a prompt over max_chars", add(human(TOO_LONG)), Dropped("too_many_chars")),
    Case("an answer over max_chars", add(answers=[("a b", 1), (TOO_LONG, 2), ("c", 3)]), Dropped("too_many_chars")),
    Case(
        "some identical",
        add(answers=[("best", 1), *((t, 2 + i, f"m{i}") for i, t in enumerate(ALIKE)), ("last", 9)]),
        Handled(shows_merged),
    ),
    Case("ties averages and gaps", add(answers=[("a b", 1), ("c d", 2.5), ("e f", 2.5), ("g h", 9)]), Handled(shows_dense)),
    Case("several at rank 1", several_first, Handled(shows_tie_at_the_top)),
    Case("duplicate prompts", twins, Handled(shows_one_prompt)),
    Case("unknown extra columns where the policy is ignore", add(colour="red"), Handled(shows_extra_columns_ignored)),
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, good: Place) -> Place:
    """The good rows and all of these in one run."""
    return mixture(tmp_path_factory.mktemp("rows"), good, ROWS)


@pytest.mark.parametrize("case", as_parameters(ROWS))
def test_a_row_is_dropped_or_handled(case: Case, mixed: Place) -> None:
    case.check(mixed)


def test_never_a_pair_across_equal_ranks(mixed: Place) -> None:
    for row in mixed.table("sets", "sets", "preference").to_dicts():
        ranks = {c["candidate_id"]: c["rank"] for c in row["candidates"]}
        chosen = row["candidates"][0]
        rejected = [c for c in row["candidates"] if c["role"] == "rejected" and c["origin"] != "noise"]
        assert all(c["rank"] > chosen["rank"] for c in rejected), ranks
    sets = {r["prompt_id"]: r for r in mixed.table("sets", "sets", "preference").to_dicts()}
    for path in (mixed.dataset / "data" / "preference").glob("*.parquet"):
        for pair in pl.read_parquet(path).to_dicts():
            ranks = {c["candidate_id"]: c["rank"] for c in sets[pair["prompt_id"]]["candidates"]}
            assert ranks[pair["chosen_id"]] < ranks[pair["rejected_id"]]


def test_bad_rows_change_nothing_of_the_good_ones(mixed: Place, good: Place) -> None:
    mine = good.table("prompts", "sources").select("prompt_id")
    for table, stage in (
        ("prompts", "sources"),
        ("candidates", "sources"),
        ("splits", "split"),
        ("ranks", "rank"),
        ("candidates", "noise"),
    ):
        assert (
            mixed.table(table, stage)
            .join(mine, on="prompt_id", how="semi", maintain_order="left")
            .equals(good.table(table, stage))
        )


# ---- what needs a recipe of its own ----


def every_split_of_twins(place: Place, name: str) -> None:
    """Whatever the hashes of the rows: a prompt that a test row has is a test prompt."""
    for pair in range(6):
        for split in ("train", "test"):
            answers = [(phrase(name, pair, split, i), i + 1) for i in range(2)]
            place.rows.append(good_row(f"{name}{pair}{split}", human(phrase(name, pair)), answers, split=split))


def shows_test_prompts(place: Place, name: str) -> None:
    prompts = place.table("prompts", "sources").filter(pl.col("source_row").str.starts_with(name))
    splits = place.table("splits", "split").join(prompts, on="prompt_id", how="semi")
    assert splits["split"].to_list() == ["test"] * 6


def near_twins(place: Place, name: str) -> None:
    """Long prompts that differ in case, spaces and one word, one a train row and one a test row."""
    text = phrase(name, words=60)
    place.rows.append(good_row(f"{name}a", human(text), split="train"))
    place.rows.append(good_row(f"{name}b", human(text.replace(" ", "  ", 3).capitalize() + " so"), split="test"))


def shows_one_cluster(place: Place, name: str) -> None:
    prompts = place.table("prompts", "sources").filter(pl.col("source_row").str.starts_with(name))
    kept = place.table("sets", "sets", "preference").join(prompts, on="prompt_id", how="semi")
    assert kept["split"].to_list() == ["test"], "of a cluster one prompt stays, in the test split as one of its rows"


def shows_dropped_order(place: Place, name: str) -> None:
    """Positions 2 and 3 go, one of the two tied included; the last keeps its place in the source's order."""
    gone = {r["candidate_id"] for r in place.of(name, "drops", "prune")}
    left = [c["response"] for c in place.of(name, "candidates", "sources") if c["candidate_id"] not in gone]
    assert len(gone) == 2
    assert len({"one x", "two x"} & set(left)) == 1, "of the tied at 1 and 2 the draw keeps one"
    assert {"four x", "five x"} < set(left)


def tied(place: Place, name: str) -> None:
    place.rows.append(good_row("tied", human("all tied"), [("a", 1), ("b", 1)]))


OF_ITS_OWN = [
    Case("twins of which one is a test row", every_split_of_twins, Handled(shows_test_prompts), last="split"),
    Case("near duplicates in train and test", near_twins, Handled(shows_one_cluster), last="sets"),
    Case(
        "drop_ranks over ties",
        both(
            add(answers=[("one x", 1.5), ("two x", 1.5), ("three x", 3), ("four x", 4), ("five x", 4)]),
            lambda place, name: place.recipe.update(prune={"drop_ranks": [2, 3]}),
        ),
        Handled(shows_dropped_order),
        last="prune",
    ),
    Case(
        "decisions of the recipe beside a reject rate of 0",
        both(policy(max_reject_rate=0.0), twins, add(answers=[("alone", 1)]), tied),
        Handled(lambda place, name: None),
        last="sets",
    ),
]


@pytest.mark.parametrize("case", as_parameters(OF_ITS_OWN))
def test_is_handled(case: Case, place: Place) -> None:
    case.run(place)


def test_a_bom_crlf_and_blank_lines_change_no_table(place: Place, good: Place) -> None:
    place.text = "\ufeff" + "\r\n\r\n".join(json.dumps(r) for r in place.rows) + "\r\n"
    place.write()
    assert place.run("sources").code == 0
    for table in ("prompts", "candidates", "drops"):
        assert place.table(table, "sources").equals(good.table(table, "sources"))


def test_the_keyed_draw_at_the_top_depends_on_the_seed_alone(place: Place) -> None:
    """Other seeds choose others, the same seed the same, whatever the order of the answers."""
    chosen: dict[int, str] = {}
    texts = [phrase("top", i) for i in range(4)]
    for seed in (1, 2, 3, 1):
        answers = [*((t, 1, t) for t in (texts if seed in chosen else texts[::-1])), ("last", 2, "z")]
        place.rows = [good_row("top", answers=answers)]
        place.recipe = {**place.recipe, "seed": seed, "score": {}}
        place.write()
        assert place.run(*chain(last="sets")).code == 0
        (first,) = [c["response"] for c in place.set_of("top")["candidates"] if c["role"] == "chosen"]
        assert chosen.setdefault(seed, first) == first
    assert len(set(chosen.values())) > 1


def test_the_share_of_bad_rows_is_checked_over_all_shards(place: Place) -> None:
    """One bad answer among many, alone in its shard: 1 in 50 passes at 5 %, fails at 1 %."""
    place.rows.append(good_row("bad", answers=[("a b", 1), ("", 2)]))
    place.recipe |= {"num_shards": 40, "score": {}}
    place.recipe["sources"]["max_reject_rate"] = 0.05
    place.write()
    assert place.run("sources").code == 0
    place.recipe["sources"]["max_reject_rate"] = 0.01
    place.write()
    require_error(place.run("sources"), r"1 of \d+ rows and answers are bad")


def test_a_count_that_changes_is_published_though_no_row_does(place: Place) -> None:
    """A row that only adds a drop: the published card counts it."""
    place.rows.append(good_row("empty", human("")))
    place.write()
    assert place.run(*chain()).code == 0
    require_counted(place, place.paths("drops", "sources")[0], "empty_prompt")
