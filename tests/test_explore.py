"""`prefdata explore`: what the page holds of a set, and that nothing of the data can act in it."""

import base64
import gzip
import html
import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import run_stages
from hub.sets import hub
from hub.standin import Hub
from literal_sets import candidate, frame, put, row
from test_from_file import published
from test_publish import ROWS as ANSWERS
from test_show import HOSTILE, ROWS, run, words_with_marks

from prefdata.draws import FIRST, NEGATIVE, gumbels
from prefdata.errors import ConfigError, PublishError
from prefdata.output.explore import document, gathered, of_set
from prefdata.output.explore.columns import Columns
from prefdata.output.explore.frames import Keyed, frames_of, keyed, only, sample
from prefdata.output.explore.problems import PROBLEMS
from prefdata.output.looking.opened import open_set
from prefdata.recipe import places
from prefdata.recipe.results import Results
from prefdata.stages import page
from prefdata.tables import schema

__all__ = ["hub", "published"]
Facts = dict[str, Any]


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text, validate=True)))


def held(path: Path) -> tuple[Facts, list[Facts]]:
    """What a page holds: its columns, and the texts of its prompts in order."""
    found = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>', path.read_text(encoding="utf-8")))
    data = unpacked(found.pop("data"))
    assert list(found) == [f"texts-{n}" for n in range(data["chunks"])]
    return data, [text for chunk in found.values() for text in unpacked(chunk)]


def explored(folder: Path, to: Path, *words: object) -> tuple[Facts, list[Facts]]:
    run("explore", folder, "-o", to / "page.html", *words)
    return held(to / "page.html")


# ---- what it holds ----


def test_columns_and_texts_are_those_of_the_set(tmp_path: Path) -> None:
    data, texts = explored(put(tmp_path / "set", ROWS, shards=2), tmp_path)
    assert [i[:2] for i in data["prompts"]["id"]] == ["a1", "a2", "b0"]
    assert data["prompts"]["first"] == [0, 4, 6]
    assert [data["names"]["split"][s] for s in data["prompts"]["split"]] == ["train", "test", "train"]
    assert [data["names"]["source"][s] for s in data["prompts"]["source"]] == ["s@local", "t@local", "s@local"]
    assert data["prompts"]["chars"] == [11, 3, 4]
    assert data["prompts"]["margin"] == [pytest.approx(-2.5 + (3.75 + 2.0) / 2), None, pytest.approx(4.0)]
    assert data["candidates"]["rank"] == [1, 2, 3, None, 1, 2, 1, 2]
    assert [data["names"]["role"][r] for r in data["candidates"]["role"][:4]] == ["chosen", *["rejected"] * 3]
    (p, q) = data["references"]
    assert (p["name"], q["name"]) == ("p", "q")
    assert p["logp"] == [-5.0, -4.0, -7.5, -9.0, None, None, -1.0, -9.0]
    assert q["logp"] == [-1.0, -3.0, -0.5, -9.0, None, None, None, None]
    assert p["tokens"] == [2, 2, 2, 2, None, None, 2, 2]
    assert texts[0]["prompt"] == [{"role": "user", "text": "What?"}]
    first, second = texts[0]["candidates"][:2]
    assert (first["text"], first["score"], first["win_prob"]) == ("long answer", 2.5, 0.75)
    assert (second["text"], second["finish"]) == ("nope", "length")
    assert (data["of"], data["tokens"], data["drops"]) == (3, None, [])


def test_a_reference_that_later_prompts_have_is_null_before(tmp_path: Path) -> None:
    rows = [
        row("a", [candidate(1, "chosen", "a", 1), candidate(2, "rejected", "b", 2)]),
        row("b", [candidate(3, "chosen", "a", 1, {"p": -1.0}), candidate(4, "rejected", "b", 2, {"p": -2.0})]),
    ]
    data, _ = explored(put(tmp_path / "set", rows), tmp_path)
    assert data["references"] == [{"name": "p", "logp": [None, None, -1.0, -2.0], "tokens": [None, None, 2, 2]}]


def test_the_noise_is_that_of_the_trainers_first_epoch(tmp_path: Path) -> None:
    folder = put(tmp_path / "set", ROWS)
    (folder / "manifest.json").write_text(json.dumps({"seed": 7, "origins": ["source"], "references": [], "files": {}}))
    data, texts = explored(folder, tmp_path)
    ids = [c["id"] for c in texts[0]["candidates"]]
    assert data["candidates"]["gumbel"][:4] == gumbels(7, NEGATIVE, ids, 0, FIRST).tolist()
    assert (data["seed"], data["pool"]) == (7, ["source"])
    (folder / "manifest.json").write_text("[]")
    assert keyed(open_set(str(folder))) == Keyed(0, ("source", "generated")), "a file that tells nothing"


def gather_of(rows: list[Facts], **beside: list[Facts]) -> tuple[Facts, list[Facts]]:
    """As gathered from a recipe's tables."""
    frames = {"sets": frame(rows), **{name: schema.frame(name, of) for name, of in beside.items()}}
    made = gathered.gather([only(frames, None)], Columns(Keyed()))
    facts = made.facts()
    return facts, [text for chunk in made.chunks for text in unpacked(chunk)]


P, Q = "a" + "0" * 15, "b" + "0" * 15
PAIR = [candidate(1, "chosen", "good", 1, {"p": -1.0}), candidate(2, "rejected", "bad", 2, {"p": -2.0})]
VERDICT: Facts = {
    "prompt_id": P,
    "a": f"{1:016x}",
    "b": f"{2:016x}",
    "order": "ab",
    "judge": "j@1",
    "rubric": "r",
    "outcome": "a",
    "raw": "A is better",
    "round": 0,
}


def test_verdicts_and_drops_stand_with_their_prompt() -> None:
    made = {"prompt_id": P, "candidate_id": f"{9:016x}", "response": "gone", "origin": "source", "producer": "m"}
    facts, texts = gather_of(
        [row("a", PAIR), row("b", [candidate(3, "chosen", "x", 1), candidate(4, "rejected", "y", 2)])],
        verdicts=[{**VERDICT, "reason": "x" * 5000}, {**VERDICT, "prompt_id": "f" * 16, "raw": "of another prompt"}],
        drops=[{"scope": "candidate", "prompt_id": P, "candidate_id": f"{9:016x}", "stage": "prune", "reason": "pruned_rank"}],
        candidates=[{**made, "sample": 0, "finish": "stop"}],
    )
    (said,) = texts[0]["verdicts"]
    assert (said["a"], said["b"], said["outcome"], said["raw"]) == (0, 1, "a", "A is better")
    assert len(said["reason"]) == gathered.REPLY_CHARS
    assert said["cut"]
    assert texts[0]["dropped"] == [{"stage": "prune", "reason": "pruned_rank", "producer": "m", "text": "gone"}]
    assert texts[1]["verdicts"] == texts[1]["dropped"] == []
    assert facts["names"]["reason"] == ["prune: pruned_rank"]
    assert facts["prompts"]["reasons"] == [[0], []]


LONG = candidate(1, "chosen", "good " * 9, 1, {"p": -1.0}, score=1.0)


@pytest.mark.parametrize(
    ("problem", "candidates", "beside"),
    [
        ("chosen_cut", [{**PAIR[0], "finish": "length"}, PAIR[1]], {}),
        ("same_words", [PAIR[0], {**PAIR[1], "response": "Good!"}], {}),
        ("score_against", [{**PAIR[0], "score": 1.0}, {**PAIR[1], "score": 2.0}], {}),
        ("unscored", [PAIR[0], {**PAIR[1], "logps": []}], {}),
        ("orders_differ", PAIR, {"verdicts": [VERDICT, {**VERDICT, "order": "ba", "outcome": "b"}]}),
        ("no_verdict", PAIR, {"verdicts": [{**VERDICT, "outcome": "missing"}]}),
        ("reference_against", [candidate(1, "chosen", "good", 1, {"p": -9.0}), PAIR[1]], {}),
        ("dropped", PAIR, {"drops": [{"scope": "row", "prompt_id": P, "stage": "sources", "reason": "empty_answer"}]}),
        ("chosen_long", [LONG, PAIR[1]], {}),
        ("tied", [*PAIR, candidate(3, "other", "fine", 1, {"p": -1.0})], {}),
        ("one_rejected", PAIR, {}),
    ],
)
def test_each_problem_is_found_and_no_other(problem: str, candidates: list[Facts], beside: dict[str, list[Facts]]) -> None:
    third = candidate(8, "rejected", "worse", 3, {"p": -3.0})
    more = [] if problem == "one_rejected" else [third]
    facts, _ = gather_of([row("a", [*candidates, *more])], **beside)
    assert [facts["problems"][k]["key"] for k in facts["prompts"]["problems"][0]] == [problem]


def test_every_problem_has_a_test() -> None:
    (marks,) = test_each_problem_is_found_and_no_other.pytestmark
    assert [case[0] for case in marks.args[1]] == list(PROBLEMS)


def test_orders_that_agree_and_what_the_recipe_leaves_out_are_no_problem() -> None:
    facts, _ = gather_of(
        [row("a", [*PAIR, candidate(8, "rejected", "worse", 3, {"p": -3.0})])],
        verdicts=[VERDICT, {**VERDICT, "order": "ba"}],
        drops=[{"scope": "candidate", "prompt_id": P, "candidate_id": f"{9:016x}", "stage": "prune", "reason": "pruned_rank"}],
    )
    assert facts["prompts"]["problems"] == [[]]


def test_tokens_are_those_that_are_trained_on_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        row(p, [candidate(3 * n, "chosen", "the cat", 1), candidate(3 * n + 1, "rejected", "dog", 2)], "the cat")
        for n, p in enumerate("abc")
    ]
    folder, model = put(tmp_path / "set", rows), words_with_marks(tmp_path / "t")
    monkeypatch.setattr(gathered, "MOST_TOKENS", 10)
    data, texts = explored(folder, tmp_path, "--tokens", model, "--template", "plain")
    shown = json.loads(run("show", folder, "a", "--tokens", model, "--template", "plain", "--json").stdout)["tokens"]
    own = texts[0]["tokens"]
    assert own["prompt"]["ids"] == [t["id"] for t in shown["prompt"]]
    for mine, theirs in zip(own["candidates"], shown["candidates"], strict=True):
        assert mine["ids"] == [t["id"] for t in theirs["tokens"]]
        assert (mine["ended"], mine["loss"]) == (1, True)
        assert ("gives_back" in mine) == ("gives_back" in theirs)
    assert data["tokens"]["prompts"] == sum("tokens" in t for t in texts) < 3
    with pytest.raises(ConfigError, match="has no effect without --tokens"):
        run("explore", folder, "--tokens-revision", "0" * 40)
    with pytest.raises(ConfigError, match="a folder"):
        run("explore", folder, "-o", tmp_path)


def test_how_answers_were_made_is_told_of_published_sets_and_of_recipes(published: Path, tmp_path: Path) -> None:
    for place in (published, published.parents[1]):
        data, texts = explored(place, tmp_path)
        for prompt, first in zip(texts, data["prompts"]["first"], strict=True):
            origins = [
                data["names"]["origin"][data["candidates"]["origin"][first + k]] for k in range(len(prompt["candidates"]))
            ]
            for origin, own in zip(origins, prompt["candidates"], strict=True):
                assert (origin == "noise") == ("parent" in own)
                assert own["sample"] == 0
                assert "parent" not in own or own["of"] == [c["id"] for c in prompt["candidates"]].index(own["parent"])


# ---- a sample ----


def test_a_larger_set_is_sampled_by_its_ids_alone(tmp_path: Path) -> None:
    rows = [
        row(f"{n:x}", [candidate(2 * n, "chosen", f"a{n}", 1), candidate(2 * n + 1, "rejected", "b", 2)]) for n in range(16)
    ]
    one, other = (put(tmp_path / f"s{k}", rows, shards=k) for k in (1, 3))
    data, texts = explored(one, tmp_path, "--limit", 5)
    again, _ = explored(other, tmp_path, "--limit", 5)
    assert data["prompts"] == again["prompts"]
    assert (data["of"], len(texts), data["drops"]) == (16, 5, [])
    assert [t["candidates"][0]["text"] for t in texts] == [f"a{int(i[0], 16)}" for i in data["prompts"]["id"]]
    ids = [r["prompt_id"] for r in rows]
    assert sample(ids, 3) < sample(reversed(ids), 5) < set(ids)
    many = [f"{n:016x}" for n in range(1000)]
    assert 300 < sum(int(own, 16) for own in sample(many, 100)) / 100 < 700, "not the first ones"
    assert "5 of 16 prompts" in run("explore", one, "-o", tmp_path / "p.html", "--limit", 5).stdout


def test_texts_lie_in_chunks_of_a_few_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathered, "CHUNK_PROMPTS", 2)
    data, texts = explored(put(tmp_path / "set", ROWS), tmp_path)
    assert (data["chunk"], data["chunks"], len(texts)) == (2, 2, 3)


# ---- nothing of it acts ----


def test_no_text_of_the_data_can_leave_its_element(tmp_path: Path) -> None:
    bad = "</script><script>alert(1)</script><!-- --><img src=x onerror=alert(1)>" + HOSTILE
    made = [candidate(1, "chosen", bad, 1, {bad: -1.0}, producer=bad), candidate(2, "rejected", "b\n\tc", 2)]
    folder = put(tmp_path / "</title><script>x", [row("a", made, bad, source=bad)])
    data, texts = explored(folder, tmp_path)
    page_text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)" not in page_text
    assert "<script>x" not in page_text
    assert f"<title>{html.escape('</title><script>x')}</title>" not in page_text, "the name is the folder's last part"
    assert len(re.findall("<script", page_text)) == len(document.SCRIPTS) + 1 + data["chunks"]
    for text in [texts[0]["candidates"][0]["text"], texts[0]["prompt"][0]["text"], *data["names"]["producer"][:1]]:
        assert "</script>" in text, "it is kept as text"
        assert not set("\x1b\u202e\u200b\r\x00\x07") & set(text), "what hides is shown as its code"
        assert "\\u202e" in text
    assert texts[0]["candidates"][1]["text"] == "b\n\\tc"


def test_only_the_scripts_that_the_policy_names_may_run(tmp_path: Path) -> None:
    run("explore", put(tmp_path / "set", ROWS), "-o", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy
    scripts, styles = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S) for tag in ("script", "style"))
    assert len(scripts) == len(document.SCRIPTS)
    for part in scripts + styles:
        assert f"'sha256-{base64.b64encode(sha256(part.encode()).digest()).decode()}'" in policy
    assert not re.findall(r'(?:src|href)="', text.partition('<script type="text/plain"')[0]), "nothing is loaded"


def test_the_front_end_sets_text_alone() -> None:
    for name in document.SCRIPTS:
        if name not in document.LIBRARIES:
            script = (document.FRONT / name).read_text()
            for way in (
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "dangerously",
                "eval(",
                "Function(",
                "fetch(",
            ):
                assert way not in script, (name, way)


# ---- in the workflow ----


def test_the_workflow_writes_the_page_that_the_command_writes(
    make_run: Callable[..., Results], write_rows: Callable[..., str], tmp_path: Path
) -> None:
    source = {"name": "s", "path": write_rows(ANSWERS), "license": "mit"}
    made = make_run(sources={"sources": [source]}, prune={"drop_ranks": [2]}, num_shards=2, seed=5)
    run_stages(made, "sources", "split", "prune", "rank:source", "noise", "sets", "page")
    (made.root / places.SETTINGS).write_text(json.dumps(made.settings.model_dump(mode="json")))
    own, its_texts = held(made.root / places.PAGE)
    data, texts = explored(made.root, tmp_path)
    drops, its_drops = ({(d["stage"], d["reason"]): d["rows"] for d in x.pop("drops")} for x in (own, data))
    assert (own, its_texts) == (data, texts)
    assert drops["prune", "pruned_rank"] == its_drops["prune", "pruned_rank"] == 8
    assert [t["dropped"][0]["text"] for t in texts] == ["b"] * 8
    assert own["seed"] == 5


def test_the_workflow_samples_too(
    make_run: Callable[..., Results], write_rows: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_run(sources={"sources": [{"name": "s", "path": write_rows(ANSWERS)}]}, prune={"drop_ranks": []})
    monkeypatch.setattr(page, "MOST_PROMPTS", 3)
    run_stages(made, "sources", "split", "prune", "rank:source", "noise", "sets", "page")
    data, texts = held(made.root / places.PAGE)
    assert (data["of"], len(texts)) == (8, 3)


def test_ranges_of_a_sample_hold_its_prompts_alone(tmp_path: Path) -> None:
    opened = open_set(str(put(tmp_path / "set", ROWS)), candidates=True)
    kept = {ROWS[1]["prompt_id"]}
    assert pl.concat([f["sets"] for f in frames_of(opened, kept)])["prompt_id"].to_list() == list(kept)
    assert len(of_set.write(opened, tmp_path / "p.html", None, 2).columns.prompts["id"]) == 2


STAGES = ("sources", "split", "prune", "rank:source", "noise", "sets", "report", "card", "page", "publish")


def test_the_page_is_looked_at_before_it_is_pushed(
    hub: Hub, make_run: Callable[..., Results], write_rows: Callable[..., str]
) -> None:
    """An answer that was dropped stands on the page alone."""
    rows = json.loads(json.dumps(ANSWERS).replace('"c"', '"write to joe@corp.io"'))
    keys = {"sources": {"sources": [{"name": "s", "path": write_rows(rows), "license": "mit"}]}, "prune": {"drop_ranks": [3]}}
    asked = {"repo_id": "owner/set", "configs": ["preference"]}
    run_stages(make_run(**keys, publish=asked), *STAGES)
    with pytest.raises(PublishError, match=r"looks like email in 1 rows or files: explore.html"):
        run_stages(make_run(**keys, publish={**asked, "page": True}), *STAGES)
    assert "explore.html" not in hub.head("owner/set").files


def test_a_delta_has_no_page(make_run: Callable[..., Results]) -> None:
    with pytest.raises(ConfigError, match="leave one of both out"):
        make_run(publish={"page": True, "delta": True})


def test_the_page_is_pushed_where_it_is_asked_for_and_taken_back(
    hub: Hub, make_run: Callable[..., Results], write_rows: Callable[..., str]
) -> None:
    source = {"name": "s", "path": write_rows(ANSWERS), "license": "mit"}

    def pushed(**asked: Any) -> tuple[Results, Facts]:
        made = make_run(sources={"sources": [source]}, publish={"repo_id": "owner/set", **asked})
        run_stages(made, *STAGES)
        return made, hub.head("owner/set").files

    made, there = pushed()
    assert "explore.html" not in there
    assert (made.root / places.PAGE).exists(), "it is beside the folder all the same"
    assert not (made.root / "publish" / "t" / "explore.html").exists()
    made, there = pushed(page=True)
    assert there["explore.html"] == (made.root / places.PAGE).read_bytes()
    assert held(made.root / "publish" / "t" / "explore.html")[0]["of"] == 8
    before = len(hub.repos["owner/set"])
    pushed(page=True)
    assert len(hub.repos["owner/set"]) == before, "the same again is no commit"
    (made.root / "publish" / "t" / "explore.html").write_text("<html>")
    pushed(page=True)
    assert held(made.root / "publish" / "t" / "explore.html")[0]["of"] == 8, "a damaged page is put again"
    made, there = pushed()
    assert "explore.html" not in there
    assert not (made.root / "publish" / "t" / "explore.html").exists()
