"""Promises of FAULTS: log-probs, order, secrets."""

import copy
import functools
import gzip
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
import torch
from hub.sets import point_at
from hub.standin import Hub, Server
from hypothesis import given, settings
from hypothesis import strategies as st
from models import FAMILIES, VOCABULARY
from models import model as tiny_model

from prefdata.models.forward import logprob
from prefdata.stages.registry import STAGES

from .cases import Fault, require_error, without
from .place import CANARIES, Place, chain, good_row

# ---- log-probs ----

Group = tuple[list[int], list[list[int]]]
ids = st.integers(3, VOCABULARY - 1)
prompts = st.lists(ids, min_size=1, max_size=24)
batches = st.lists(st.tuples(prompts, st.lists(st.lists(ids, max_size=24), min_size=1, max_size=4)), min_size=1, max_size=5)


@functools.cache
def lm(family: str, dtype: torch.dtype) -> Any:
    return tiny_model(family, dtype)


def sums(model: Any, batch: list[Group]) -> list[list[float]]:
    with torch.no_grad():
        return [s.tolist() for s in logprob.grouped_logps(model, [p for p, _ in batch], [c for _, c in batch])]


def oracle(model: Any, prompt: list[int], completion: list[int]) -> float:
    """One row alone, fp64, no cache, no padding, one plain log_softmax a token."""
    with torch.no_grad():
        table = torch.log_softmax(model(torch.tensor([prompt + completion]), use_cache=False).logits[0].double(), -1)
    return sum(float(table[len(prompt) - 1 + i, t]) for i, t in enumerate(completion))


@pytest.mark.parametrize("family", FAMILIES)
def test_fp32_sums_over_512_tokens_are_within_1e_4_of_an_fp64_oracle(family: str) -> None:
    """The model's own fp32 arithmetic included: the same weights in fp64, one row alone."""
    rng = random.Random(5)
    batch = [
        ([rng.randrange(3, VOCABULARY) for _ in range(n)], [[rng.randrange(3, VOCABULARY) for _ in range(512)]])
        for n in (1, 20, 60)
    ]
    single, exact = lm(family, torch.float32), copy.deepcopy(lm(family, torch.float32)).double()
    for (prompt, (completion,)), (value,) in zip(batch, sums(single, batch), strict=True):
        assert abs(value - oracle(exact, prompt, completion)) <= 1e-4 * max(1.0, abs(value) / 512)


@settings(max_examples=12)
@given(batches)
def test_alone_is_as_in_any_batch_and_never_positive(batch: list[Group]) -> None:
    model = lm("llama", torch.float32)
    for (prompt, completions), together in zip(batch, sums(model, batch), strict=True):
        for completion, value in zip(completions, together, strict=True):
            ((alone,),) = sums(model, [(prompt, [completion])])
            assert abs(value - alone) <= 1e-5 * max(1, len(completion))
            assert value <= 0


@settings(max_examples=5)
@given(batches)
def test_a_token_that_is_certain_has_no_positive_log_prob(batch: list[Group]) -> None:
    """Logits so large that rounding decides: the log-prob stays at or below 0."""
    model = copy.deepcopy(lm("llama", torch.float32))
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    assert all(value <= 0 for group in sums(model, batch) for value in group)


# ---- order ----

KINDS = ("prompts", "splits", "candidates", "ranks", "drops", "sets", "logps")


def every_table(place: Place) -> dict[str, pl.DataFrame]:
    """Every table of every stage, shards together, sorted; log-probs rounded away."""
    found = {}
    for folder in sorted((place.root / "tables").glob("*/*/*")):
        table, stage, unit = folder.parts[-3:]
        if table not in KINDS:
            continue
        frame = place.table(table, stage, unit)
        if table == "sets":
            own = pl.element().struct.field("candidate_id") + pl.element().struct.field("role").cast(pl.String)
            frame = frame.with_columns(pl.col("candidates").list.eval(own))
        if table == "logps":
            frame = frame.drop("logp")
        key = [
            pl.concat_str(
                [pl.col(c).cast(pl.String).fill_null("") for c in frame.columns if frame[c].dtype in (pl.String, pl.Enum)],
                separator="|",
            )
        ]
        found[f"{table}/{stage}/{unit}"] = frame.sort(*key, maintain_order=True)
    return found


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Good rows and some of each kind that is dropped, by a row, a candidate or a prompt."""
    listed = [good_row(f"order{i}", split=("train", "test")[i % 4 == 3]) for i in range(20)]
    listed += [
        good_row("empty", answers=[("a b", 1), ("", 2), ("c", 3)]),
        good_row("alone", answers=[("a", 1)]),
        good_row("none", answers=[]),
    ]
    listed += [
        good_row("tied", answers=[("a", 1), ("b", 1)]),
        good_row("long", answers=[("a b", 1), ("y " * 700, 2), ("c", 3)]),
    ]
    listed += [good_row("bad", "\n\nAssistant: "), good_row("noise", answers=[("aa", 1), ("b", 2)])]
    return [*listed, {**copy.deepcopy(listed[0]), "id": "again"}, {**copy.deepcopy(listed[5]), "id": "twice"}]


@pytest.fixture(scope="module")
def in_order(good: Place, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One shard, the rows as they are."""
    place = Place(tmp_path_factory.mktemp("order"), rows, good.recipe)
    place.write()
    assert place.run(*chain(last="sets")).code == 0
    return place


@pytest.mark.parametrize(("shards", "seed"), [(2, 2), (5, 3)])
def test_tables_depend_neither_on_the_order_of_rows_nor_on_shards(
    in_order: Place, shards: int, seed: int, tmp_path: Path
) -> None:
    expected, old = every_table(in_order), in_order.table("logps", "score").sort("candidate_id")
    assert {"empty_answer", "no_candidate", "bad_dialogue", "duplicate_prompt"} <= set(expected["drops/sources/all"]["reason"])
    shuffled = list(in_order.rows)
    random.Random(seed).shuffle(shuffled)
    other = Place(tmp_path / "other", shuffled, {**in_order.recipe, "num_shards": shards})
    other.write()
    assert other.run(*chain(last="sets")).code == 0
    found = every_table(other)
    assert set(found) == set(expected)
    for name, frame in expected.items():
        assert found[name].equals(frame), name
    new = other.table("logps", "score").sort("candidate_id")
    assert ((new["logp"] - old["logp"]).abs() <= 1e-5 * new["num_tokens"]).all()


# ---- secrets ----


@pytest.fixture
def hub(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A stand-in for the Hub, and the place pointed at it."""
    state = Hub()
    with Server(state) as url:
        place.environment["HF_ENDPOINT"] = url
        point_at(monkeypatch, url, tmp_path / "hub-cache")
        place.recipe["publish"] = {"repo_id": "owner/set", "attempts": 2}
        yield state


def require_no_secret(folder: Path) -> None:
    """Not in the bytes of a file, nor in what a Parquet file decodes to, nor in its metadata, nor in a name."""
    secrets = [s.encode() for s in CANARIES.values()]
    paths = [p for p in folder.rglob("*") if p.is_file()]
    assert len(paths) > 30
    for path in paths:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data += gzip.decompress(data)
        if path.suffix == ".parquet" and data.endswith(b"PAR1"):
            data += repr(pq.read_table(path).to_pylist()).encode() + repr(pq.read_metadata(path).metadata).encode()
        assert not any(s in data or s in str(path).encode() for s in secrets), path


def test_the_search_would_find_a_secret(place: Place) -> None:
    for stage in ("prompts", "drops"):
        copied = copy.deepcopy(place)
        path = place.paths(stage, "sources")[0]
        table = pq.read_table(path).replace_schema_metadata({"x": next(iter(CANARIES.values()))})
        pq.write_table(table, path, compression="zstd")
        with pytest.raises(AssertionError):
            require_no_secret(copied.folder)


def test_the_good_run_holds_no_secret(good: Place) -> None:
    require_no_secret(good.folder)


def no_dataset(place: Place, name: str) -> None:
    del place.source["path"]
    place.source.update(dataset="not/a/name", revision="0" * 40)


FAILING: dict[str, tuple[str, Fault]] = {
    "a bad row": ("sources", without("prompt")),
    "a data set that cannot be": ("sources", no_dataset),
    "a damaged table": ("split", lambda p, n: p.paths("prompts", "sources")[0].write_bytes(b"x")),
    "a wrong key": ("sources", lambda p, n: p.recipe.update(nose={})),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_failing_run_holds_and_says_no_secret(place: Place, what: str) -> None:
    """Every command checks what it says; with a log and with a traceback too."""
    stage, fault = FAILING[what]
    fault(place, what)
    place.write()
    require_error(place.run(stage, options=["--log", "logs/x.log"]), "error: ")
    assert place.run(stage, options=["--debug"]).code == 1
    require_no_secret(place.folder)


@pytest.mark.parametrize(("known", "write", "status"), [(False, False, 401), (True, False, 403)], ids=["unknown", "read-only"])
def test_a_token_that_may_not_publish_is_not_said(place: Place, hub: Hub, known: bool, write: bool, status: int) -> None:
    if known:
        hub.tokens[CANARIES["HF_TOKEN"]] = ("reader", write)
    place.write()
    said = place.run("publish", options=["--log", "logs/x.log"])
    last = said.err.splitlines(keepends=True)[-1]  # the folder beside the Hub was told of before
    require_error(replace(said, err=last), f"the Hub says {status}: ")
    assert place.run("publish", options=["--debug"]).code == 1
    require_no_secret(place.folder)


def test_a_token_that_publishes_is_in_nothing_published(place: Place, hub: Hub, tmp_path: Path) -> None:
    hub.tokens[CANARIES["HF_TOKEN"]] = ("owner", True)
    place.write()
    said = place.run("publish", options=["--log", "logs/x.log"])
    assert said.code == 0, said.err
    require_no_secret(tmp_path)
    published = b"".join(hub.head("owner/set").files.values())
    assert published
    assert not any(s.encode() in published for s in CANARIES.values())


def test_every_stage_of_the_corpus_is_a_stage(good: Place) -> None:
    """The chain follows the registry: a stage that is added is run."""
    assert chain()[0] == "sources"
    assert chain()[-1] == "publish"
    assert {"split", "rank", "noise", "score", "sets", "report", "card"} <= set(chain()) <= set(STAGES)
