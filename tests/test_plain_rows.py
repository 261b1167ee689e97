"""Rows that are told in columns at once become what they become one by one, and what is hashed of them is what it was."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.draws import hex_id, hex_id_of_json
from prefdata.sources import plain, transcripts
from prefdata.sources.row_json import RowJson
from prefdata.sources.rows import Answer, Limits, Shaped
from prefdata.stages import reading
from prefdata.tables import files
from prefdata.tables.ids import candidate_id, source_ids

ODD = [
    "",
    " \n",
    "a\x00b",
    "\ud800",
    "y" * 1001,
    "x\n\nHuman: next",
    "x <|im_end|> y",
    "The Human: no",
    'é"\\\x7f\t\r\n😀',
    "[1]",
]
TEXTS = st.one_of(st.sampled_from(ODD), st.text("ab \n\"'\\", max_size=6), st.text(max_size=4))


def rows() -> list[dict]:
    """Plain rows, each odd text as a prompt and as an answer, and repeated prompts among them."""
    made = [nectar(f"Say {i % 33}", [(f"answer {i}", 1), ("b", 2.5), ("b", 3)]) for i in range(40)]
    made += [nectar(text, [("a", 1), ("b", 2)]) for text in ODD]
    made += [nectar(f"Odd {i}", [("a", 1), (text, 2)]) for i, text in enumerate(ODD)]
    made += [nectar("Say 20", [("a", 1), ("", 2)]), nectar("First", [("x\n\nHuman: next", 1), ("a", 2)])]
    made += [nectar("Say 3", [("c", 1)], split="test"), {**nectar("Left out"), "source": ["truthful_qa"]}]
    made += [{"prompt": "scores", "answers": [{"answer": f"{s}", "model": "m", "score": s} for s in (1, 3, 2, 3)]}]
    made += [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "answers": nectar()["answers"]}]
    random.Random(1).shuffle(made)
    return made


def hashes(run) -> dict[str, str]:
    root = run.root / "tables"
    return {str(p.relative_to(root)): files.manifest(p)["content_hash"] for p in sorted(root.rglob("*.parquet"))}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tables_are_those_of_rows_looked_at_one_by_one(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    else:
        kept = [
            r for r in rows() if r["prompt"] != "scores" and isinstance(r["prompt"], str) and "\\ud800" not in json.dumps(r)
        ]
        pq.write_table(pa.Table.from_pylist(kept), path)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(nectar(f"Say {i}")) + "\n" for i in range(5)))
    sources = [{"name": "a", "path": str(path)}, {"name": "b", "path": str(tmp_path / "b.jsonl"), "license": "mit"}]
    made, said, plainly = [], [], []
    whole = reading.is_plain

    def watched(*asked: object) -> bool:
        plainly.append(whole(*asked))
        return plainly[-1]

    for name, decide in (("plain", watched), ("several", watched), ("lines", lambda *_: False)):
        monkeypatch.setattr(reading, "is_plain", decide)
        monkeypatch.setattr(reading, "PLAIN_CHARS", 3000 if name == "several" else 2**25)
        keys = {"max_reject_rate": 1.0, "max_chars": 1000, "sources": sources}
        run = make_run(name=name, num_shards=3, sources=keys, seed=3)
        run_stages(run, "sources")
        made.append(hashes(run))
        said.append(capsys.readouterr().err)
    assert made[0] == made[1] == made[2]
    assert said[0] == said[1] == said[2]
    assert len(made[0]) == 9
    assert 30 < sum(plainly) < len(plainly), "rows of both kinds"


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), TEXTS)
def test_what_is_plain_is_kept_whole(answers: list[tuple[str, str]], asked: str) -> None:
    shaped = Shaped([{"role": "user", "content": asked}], [Answer(text, who, 1.0) for text, who in answers])
    limits = Limits(1000)
    made = reading.rows.parsed(shaped, {"source": "s"}, limits)
    whole = made.prompt is not None and not made.drops and not any("dropped" in c for c in made.candidates)
    leaks = any(map(transcripts.leaks, (text for text, _ in answers)))
    if plain.is_plain(shaped, limits, ()):
        assert whole or leaks
        finished, drops = reading.rows.finish(made.candidates)
        columns = ("candidate_id", "response", "producer", "sample", "source_rank", "source_score")
        expected = sorted(tuple(c[name] for name in columns) for c in finished)
        assert plain.named(made.prompt["prompt_id"], shaped.answers, RowJson().quoted) == expected
        assert bool(drops) == leaks
    elif whole:  # a producer with a control is looked at one by one; nothing else is
        assert any(c < " " for _, who in answers for c in who)


@given(
    st.recursive(
        st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans()),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    )
)
def test_a_row_is_written_as_json_writes_it(value: object) -> None:
    written = RowJson()
    expected = json.dumps({"a": value}, sort_keys=True, separators=(",", ":"), default=str)
    assert written({"a": value}) == written({"a": value}) == expected
    assert hex_id_of_json(expected) == hex_id(expected)


@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0, 9)), max_size=3))
def test_ids_of_a_sources_answers_are_those_of_candidates(answers: list[tuple[str, str, int]]) -> None:
    expected = [candidate_id("0" * 16, text, "source", who, None, sample) for text, who, sample in answers]
    assert source_ids("0" * 16, answers) == expected


PIECES = [
    "\n\n",
    "\n",
    "Human:",
    "Human: ",
    "Assistant:",
    "Assistant: ",
    "Human",
    "**",
    "#",
    "### ",
    "> ",
    "a",
    " ",
    "\r",
    "\t",
    "é",
    "\u200b",
]


@given(st.lists(st.sampled_from(PIECES), max_size=6).map("".join), st.booleans())
def test_one_turn_is_read_as_any_talk_is(inner: str, around: bool) -> None:
    text = f"\n\nHuman: {inner}\n\nAssistant: " if around else inner
    messages = transcripts.talk(text) if transcripts.is_transcript(text) else [{"role": "user", "content": text}, None]
    broken = not messages or (messages[-1] is not None and (messages[-1]["role"] != "assistant" or messages[-1]["content"]))
    assert transcripts.prompt(text) == (None if broken else messages[:-1])


def test_nothing_of_a_job_that_reads_rows_and_writes_tables_loads_pandas(write_rows, tmp_path: Path) -> None:
    """pyarrow does, where it is installed, to see whether a list is one of its own: longer than many a job's work."""
    words = "'sources', '--settings', 'r.yaml'"
    code = f"import sys; sys.argv = ['prefdata', {words}]; from prefdata.workflow.cli import run_command; run_command()"
    check = "import atexit, sys; atexit.register(lambda: print('pandas' in sys.modules)); "
    settings = {"max_reject_rate": 1.0, "sources": [{"name": "s", "path": write_rows(rows())}]}
    (tmp_path / "r.yaml").write_text(json.dumps({"name": "t", "sources": settings}))
    done = subprocess.run([sys.executable, "-P", "-c", check + code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
