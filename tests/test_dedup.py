"""Duplicates become clusters, whatever the order and the shards; near copies of held-out prompts are held out."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.draws import hash64
from prefdata.errors import ConfigError
from prefdata.recipe.read import validate_recipe
from prefdata.recipe.settings.data import DedupSettings
from prefdata.recipe.units import Part
from prefdata.sources.words import ngrams, user_text, words
from prefdata.stages import decontaminate, dedup, signatures
from prefdata.stages.dedup import Clusters
from prefdata.stages.signatures import minhashes, runs
from prefdata.tables import files

LONG = "please explain in simple words how the heart of a small bird can beat a thousand times in every single minute of flight"


def clusters_of(run) -> dict[str, str]:
    """Prompt text -> text of its cluster's kept prompt."""
    parts = [files.read_table(run.table(Part("prompts", "sources"), s), "prompts") for s in run.shards]
    texts = {i: m[-1]["content"] for i, m in pl.concat(parts).select("prompt_id", "messages").iter_rows()}
    drops = pl.concat([files.read_table(run.table(Part("drops", "dedup"), s), "drops") for s in run.shards])
    kept = {texts[i]: texts[d.removeprefix("of ")] for i, d in drops.select("prompt_id", "detail").iter_rows()}
    return {t: kept.get(t, t) for t in texts.values()}


@pytest.fixture
def deduped(make_run, write_rows):
    def call(rows_by_source, shards: int = 1, **dedup):
        sources = [{"name": f"s{i}", "path": write_rows(rows, f"{i}.jsonl")} for i, rows in enumerate(rows_by_source)]
        run = make_run(sources={"sources": sources}, dedup=dedup, num_shards=shards)
        run_stages(run, "sources", "signatures", "dedup", "split")
        return run

    return call


def splits_of(run) -> dict[str, str]:
    frames = [files.read_table(run.table(Part("splits", "split"), s), "splits") for s in run.shards]
    return dict(pl.concat(frames).select("prompt_id", pl.col("split").cast(pl.String)).iter_rows())


def test_case_punctuation_and_a_word_in_twenty_make_no_new_prompt(deduped) -> None:
    near = LONG.replace("simple", "plain")
    other = "write a limerick about a lighthouse keeper who is afraid of the dark and of the sea and of his own long shadow"
    found = clusters_of(deduped([[nectar(t) for t in (LONG, LONG.upper() + "!!", near, other)]], threshold=0.7))
    assert len(set(found.values())) == 2
    assert found[other] == other
    assert len({found[LONG], found[LONG.upper() + "!!"], found[near]}) == 1


def test_exactly_equal_words_are_one_even_at_the_highest_threshold(deduped) -> None:
    found = clusters_of(deduped([[nectar("Why?"), nectar("why"), nectar("Why not?")]], threshold=1.0))
    assert found["why"] == found["Why?"] != found["Why not?"]


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_shards_and_order_change_nothing(deduped, shards: int) -> None:
    rows = [nectar(f"{LONG} number {i % 7} {'x' * (i % 3)}") for i in range(40)] + [nectar(f"Say {w}") for w in "abcdef"]
    one, other = deduped([rows], 1), deduped([rows[::-1]], shards)
    assert clusters_of(one) == clusters_of(other)
    assert splits_of(one) == splits_of(other)


def test_no_cluster_lies_in_both_train_and_test(deduped) -> None:
    near = LONG.replace("simple", "plain")
    run = deduped([[nectar(LONG, split="train"), nectar("alone", split="train")], [nectar(near, split="test")]], threshold=0.7)
    assert clusters_of(run)[LONG] == near, "the source's test rows stay"
    assert sorted(splits_of(run).values()) == ["test", "train"]


def test_without_held_out_members_the_first_source_keeps_its_prompt(deduped) -> None:
    for first, second in ((LONG, LONG + "!"), (LONG + "!", LONG)):
        assert clusters_of(deduped([[nectar(first)], [nectar(second)]]))[second] == first


def test_validation_is_held_out_too_but_test_goes_before(deduped) -> None:
    rows = [nectar(LONG, split="validation"), nectar(LONG + "?", split="train")]
    assert set(splits_of(deduped([rows])).values()) == {"validation"}
    rows.append(nectar(LONG + "!", split="test"))
    assert set(splits_of(deduped([rows])).values()) == {"test"}


def test_system_texts_and_answers_do_not_make_duplicates() -> None:
    system = {"role": "system", "content": "be nice " * 50}
    talk = [
        system,
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "two"},
    ]
    assert words(user_text(talk)) == ["one", "two"]


def test_words_and_runs() -> None:
    assert words("Don't  STOP—ﬁne!") == ["don't", "stop", "fine"]
    assert words("???") == ["???"]
    assert ngrams(["a", "b", "c"], 2) == ["a b", "b c"]
    assert ngrams(["a"], 3) == ["a"]


@given(st.lists(st.sets(st.integers(0, 30), min_size=5), min_size=2, max_size=2))
def test_the_estimate_is_near_the_jaccard_similarity(sets) -> None:
    listed = [[f"w{i}" for i in sorted(s)] for s in sets]
    one, other = (np.array(m) for m in minhashes(listed, DedupSettings(ngram=1, permutations=1024, bands=32)))
    true = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    # 5 standard deviations of a mean of 1024 draws: 5 * sqrt(1/4 / 1024) = 0.078
    assert abs(float((one == other).mean()) - true) < 0.08


TEXTS = st.lists(st.lists(st.sampled_from(["a", "b", "ö", "c"]), min_size=1, max_size=9), min_size=1, max_size=6)


@given(TEXTS)
def test_signatures_are_those_of_datasketch(listed) -> None:
    from datasketch import MinHash

    settings = DedupSettings(ngram=2, permutations=32, bands=8)
    hashes, starts = runs(listed, 2)
    own = [part.tolist() for part in np.split(hashes, starts[1:])]
    theirs = [m.hashvalues.tolist() for m in MinHash.generator(own, num_perm=32, scheme="affine32", hashfunc=int)]
    assert minhashes(listed, settings).tolist() == theirs


def test_long_words_are_hashed_and_not_remembered() -> None:
    before = len(signatures._of_word)
    long = "w" * 10_000
    assert runs([[long]], 1)[0].tolist() == [hash64("word", long) >> 32]
    assert len(signatures._of_word) == before


@given(TEXTS, st.integers(1, 4))
def test_runs_of_words_have_hashes_that_tell_them_apart(listed, n) -> None:
    hashes, starts = runs(listed, n)
    for own, part in zip(listed, np.split(hashes, starts[1:]), strict=True):
        expected = []
        for first in range(max(len(own) - n + 1, 1)):
            made = 0
            for word in own[first : first + n]:
                made = (made * 0x9E3779B97F4A7C15 + hash64("word", word)) % 2**64
            expected.append(made >> 32)
        assert part.tolist() == expected
    of_run = {
        run: h
        for own, part in zip(listed, np.split(hashes, starts[1:]), strict=True)
        for run, h in zip(ngrams(own, n), part, strict=True)
    }
    assert len(set(of_run.values())) == len(of_run)


@given(st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=1, max_size=30))
def test_groups_are_the_rows_that_are_equal(rows) -> None:
    band = np.array(rows, np.uint32)
    places, numbers = dedup._in_groups(dedup._numbered(band))
    found = [
        [int(r) for r, n in zip(places, numbers, strict=True) if n == group] for group in range(len(set(numbers.tolist())))
    ]
    expected = [[i for i, row in enumerate(rows) if row == one] for one in map(list, sorted(set(map(tuple, rows))))]
    assert sorted(found) == sorted(g for g in expected if len(g) > 1)


@given(st.lists(st.lists(st.integers(0, 1), min_size=8, max_size=8), min_size=2, max_size=12))
def test_two_rows_are_joined_as_in_a_larger_group(rows) -> None:
    """Rows that agree in a band: each is compared with those that opened a cluster; for two it is done in one go."""
    matrix = np.array(rows, np.uint32)
    one = Clusters(len(rows))
    one.join_similar(matrix[:, :2], matrix, 0.75)
    pairs = {tuple(sorted(map(int, pair))) for some in one._pairs for pair in some}
    expected = set()
    for key in {tuple(r[:2]) for r in rows}:
        leaders: list[int] = []
        for i in (i for i, r in enumerate(rows) if tuple(r[:2]) == key):
            near = [j for j in leaders if sum(a == b for a, b in zip(rows[i], rows[j], strict=True)) >= 6]
            expected |= {(j, i) for j in near}
            leaders += [] if near else [i]
    assert pairs == expected


@given(
    st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), st.integers(1, 4)
)
def test_overlaps_are_those_of_all_runs(asked: list[str], known: list[str], n: int) -> None:
    runs = {r: r for r in ngrams(known, n)} if len(known) >= n else {}
    whole = {} if runs else {" ".join(known): "whole"}
    index = decontaminate.Index(runs, whole, frozenset(decontaminate._ends(known, n)))
    listed = words(" ".join(asked))
    hits = [r for r in ngrams(listed, n) if r in runs]
    assert decontaminate.first_overlap([" ".join(asked)], index, n) == (hits[0] if hits else whole.get(" ".join(listed)))


def groups(clusters: Clusters) -> list[list[int]]:
    """The rows of each cluster."""
    numbers = clusters.numbers().to_list()
    return sorted([i for i, own in enumerate(numbers) if own == n] for n in set(numbers))


def test_clusters_join_through_a_chain() -> None:
    clusters = Clusters(6)
    for keys in ([9, 1, 2, 3, 5, 5], [9, 1, 2, 3, 2, 7], [9, 1, 2, 1, 5, 6]):
        clusters.join_equal(np.array(keys))
    assert groups(clusters) == [[0], [1, 3], [2, 4, 5]]


def test_without_a_pair_every_row_is_its_own_cluster() -> None:
    assert groups(Clusters(3)) == [[0], [1], [2]]


def test_agreeing_in_a_band_alone_is_not_enough() -> None:
    matrix = np.array([[1, 2, 3, 4], [1, 2, 7, 8], [1, 2, 3, 9]], dtype=np.uint32)
    clusters = Clusters(3)
    clusters.join_similar(matrix[:, :2], matrix, 0.75)
    assert groups(clusters) == [[0, 2], [1]]


def test_settings_are_checked() -> None:
    sources = {"sources": [{"name": "s", "path": "x"}]}
    with pytest.raises(ConfigError, match="multiple of bands"):
        validate_recipe({"name": "t", "sources": sources, "dedup": {"permutations": 100}}, "f")


# ---- decontamination ----


@pytest.fixture
def decontaminated(make_run, write_rows):
    def call(prompts, evaluation, name="rows.json", **against):
        import json

        path = write_rows(json.dumps(evaluation) if name.endswith(".json") else evaluation, name)
        rows = [nectar(p, split=s) for p, s in prompts]
        run = make_run(
            sources={"sources": [{"name": "s", "path": write_rows(rows, "source.jsonl")}]},
            decontaminate={"against": [{"name": "mine", "path": path, **against}]},
        )
        run_stages(run, "sources", "split", "decontaminate")
        drops = files.read_table(Path(run.outputs("decontaminate")[0]), "drops")
        prompts = files.read_table(Path(run.outputs("sources")[0]), "prompts")
        texts = {i: m[-1]["content"] for i, m in prompts.select("prompt_id", "messages").iter_rows()}
        return {texts[i]: d for i, d in drops.select("prompt_id", "detail").iter_rows()}

    return call


def test_twelve_words_in_a_row_are_contamination_eleven_are_not(decontaminated) -> None:
    twelve, eleven = " ".join(LONG.split()[:12]), " ".join(LONG.split()[:11])
    dirty, clean = f"So: {twelve.upper()}, yes?", f"So: {eleven}, yes?"
    found = decontaminated([(dirty, "train"), (clean, "train")], [{"prompt": f"Well, {LONG}"}])
    assert found == {dirty: "mine (rows.json:0)"}


def test_held_out_prompts_stay_and_sft_prompts_go(decontaminated) -> None:
    prompts = [(f"{s}: {LONG}", s) for s in ("sft", "train", "validation", "test")]
    assert set(decontaminated(prompts, [{"question": LONG}], field="question")) == {f"sft: {LONG}", f"train: {LONG}"}


def test_a_short_evaluation_text_counts_only_as_a_whole(decontaminated) -> None:
    prompts = [("What is the capital of France", "train"), ("And what is the capital of France today?", "train")]
    found = decontaminated(prompts, [{"prompt": "What is the capital of France?"}], name="rows.jsonl")
    assert set(found) == {"What is the capital of France"}


def test_turns_are_read_and_what_is_no_text_is_named(decontaminated) -> None:
    prompts = [(LONG, "train")]
    assert decontaminated(prompts, [{"turns": [{"content": LONG}]}], field="turns")
    with pytest.raises(Exception, match=r"rows.json:0:turns: turns must be texts"):
        decontaminated(prompts, [{"turns": [5]}], field="turns")
    with pytest.raises(
        Exception, match=r"rows.json:0:prompt: missing .*; name the field of its texts in decontaminate.against \(mine\).field$"
    ):
        decontaminated(prompts, [{"turns": []}])


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ({"name": "gsm9k"}, "no known set \\(did you mean 'gsm8k'"),
        ({"name": "x", "path": "y", "revision": "0" * 40}, "either path or revision"),
    ],
)
def test_sets_are_named_or_given(against, said) -> None:
    sources = {"sources": [{"name": "s", "path": "x"}]}
    with pytest.raises(ConfigError, match=said):
        validate_recipe({"name": "t", "sources": sources, "decontaminate": {"against": [against]}}, "f")


def test_an_evaluation_text_of_just_twelve_words_counts_inside_a_prompt_too(decontaminated) -> None:
    twelve = " ".join(LONG.split()[:12])
    assert set(decontaminated([(f"So: {twelve}, yes?", "train")], [{"prompt": twelve}])) == {f"So: {twelve}, yes?"}
