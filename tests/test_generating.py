"""The generate stage: samples by a server, failed and over-long ones, reasoning, seeds of their own, one start for all shards."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st
from servers import scripted as module
from servers.scripted import Scripted, Server
from starlette.responses import JSONResponse

from prefdata.errors import EngineError
from prefdata.models.engines.protocol import Request
from prefdata.recipe.results import Results
from prefdata.recipe.units import Part
from prefdata.stages.generate import answer_of, seed_of
from prefdata.tables import files

Generated = Callable[..., Results]


@pytest.fixture
def generated(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> Generated:
    """generated(url, prompts, ...) -> a run whose prompts a server answered."""

    def make(url: str, prompts: list[str], model: dict[str, Any] | None = None, shards: int = 1, **keys: Any) -> Results:
        rows = [nectar(p, [("source", 1), ("other", 2)]) for p in prompts]
        server = {"url": url, "backoff_s": 0.02, "timeout_s": 20, "deadline_s": 60}
        asked = {"name": "gen", "id": "policy", "server": server, **(model or {})}
        run = make_run(
            sources={"sources": [{"name": "s", "path": write_rows(rows), "split": "train"}], "max_reject_rate": 1},
            generate={"models": [asked], "max_tokens": 9, **keys},
            num_shards=shards,
        )
        run_stages(run, "sources", "split", "generate")
        return run

    return make


def made(run: Results, table: str) -> list[dict[str, Any]]:
    unit = run.units("generate")[0]
    return [r for s in run.shards for r in files.read_table(run.table(Part(table, "generate", unit), s), table).to_dicts()]


def says(monkeypatch: pytest.MonkeyPatch, text: Callable[[dict[str, Any]], str], finish: str = "stop") -> None:
    """The cue `say` answers what `text` makes of the request."""

    async def answer(body: dict[str, Any]) -> JSONResponse:
        message = {"role": "assistant", "content": text(body)}
        return JSONResponse(module.reply(body, "A", message=message, finish_reason=finish))

    monkeypatch.setitem(module.CUES, "say", answer)


def test_every_sample_has_its_own_seed_and_place(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, lambda body: f"{body['temperature']} {body.get('seed')}")
    prompts = [f"cue:say {i}" for i in range(5)]
    with Server(Scripted()) as url:
        run = generated(url, prompts, shards=3)
        rows = made(run, "candidates")
        assert generated(url, prompts, shards=1).settings.num_shards == 1
    assert len(rows) == 5 * 3 * 2
    assert Counter(r["temperature"] for r in rows) == {0.6: 10, 0.8: 10, 1.0: 10}
    assert sorted({r["sample"] for r in rows}) == list(range(6))
    assert all(r["response"] == f"{r['temperature']} {r['seed']}" for r in rows)
    assert len({r["seed"] for r in rows}) == 30
    assert all(0 <= r["seed"] < 2**63 for r in rows)
    assert {r["producer"].partition("@")[0] for r in rows} == {"gen"}


def test_a_seed_is_a_function_of_prompt_model_temperature_and_sample() -> None:
    request = Request("p", (), 0.6, 1)
    base = seed_of(0, "m@1", request)
    others = [
        seed_of(1, "m@1", request),
        seed_of(0, "m@2", request),
        seed_of(0, "m@1", Request("q", (), 0.6, 1)),
        seed_of(0, "m@1", Request("p", (), 0.8, 1)),
        seed_of(0, "m@1", Request("p", (), 0.6, 2)),
    ]
    assert len({base, *others}) == 6
    assert base == seed_of(0, "m@1", Request("p", (), 0.6, 1, max_tokens=3))


def test_failed_answers_are_drops_of_their_own_and_prompts_without_room_are_dropped(generated: Generated) -> None:
    prompts = [*(f"fine {i}" for i in range(8)), "cue:refusal", "cue:too_long"]
    with Server(Scripted()) as url:
        run = generated(url, prompts, temperatures=[1.0], max_failed=0.2)
        with pytest.raises(EngineError, match="2 of 20 answers failed: .'refusal': 2"):
            generated(url, prompts, temperatures=[1.0])
    assert len(made(run, "candidates")) == 16
    drops = Counter((d["scope"], d["reason"], d["detail"]) for d in made(run, "drops"))
    assert drops == {("row", "failed_answer", "refusal"): 2, ("prompt", "too_long:gen", "no_room"): 1}


def test_an_answer_that_was_cut_says_so(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, lambda body: "half a sent", finish="length")
    with Server(Scripted()) as url:
        rows = made(generated(url, ["cue:say"], temperatures=[0.0], per_temperature=1), "candidates")
    assert [(r["finish"], r["response"], r["raw"]) for r in rows] == [("length", "half a sent", None)]


def test_reasoning_is_kept_in_raw_and_is_no_part_of_the_answer(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "done": "<think>12 + 30\nis 42</think>\n\n42",
        "cut": "<think>well, let me",
        "none": "</think>",
        "twice": "a</think>b</think>c",
    }
    says(monkeypatch, lambda body: texts[body["messages"][-1]["content"].split()[-1]])
    with Server(Scripted()) as url:
        model = {"reasoning_end": "</think>"}
        run = generated(url, [f"cue:say {k}" for k in texts], model, temperatures=[0.0], per_temperature=1, max_failed=1)
    assert {(r["response"], r["raw"]) for r in made(run, "candidates")} == {
        ("42", texts["done"]),
        ("b</think>c", texts["twice"]),
    }
    assert [(d["scope"], d["detail"]) for d in made(run, "drops")] == [("row", "unended_reasoning")] * 2


@given(st.text(), st.text())
def test_what_follows_the_end_of_reasoning_is_the_answer(reasoning: str, answer: str) -> None:
    assert answer_of(answer, None) == answer
    if "</t>" not in reasoning:
        assert answer_of(f"{reasoning}</t>{answer}", "</t>") == (answer.lstrip() or None)


def test_failures_of_the_server_are_asked_again_and_answers_are_not(
    generated: Generated, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["fine", "cue:down"]
    with Server(Scripted()) as url, pytest.raises(EngineError, match="deadline: 503"):
        hasty = {"server": {"url": url, "backoff_s": 0.02, "deadline_s": 3}}
        generated(url, prompts, hasty, temperatures=[0.0], per_temperature=1)

    async def up(body: dict[str, Any]) -> None:
        return None

    monkeypatch.setitem(module.CUES, "down", up)
    with Server(scripted := Scripted()) as url:
        run = generated(url, prompts, temperatures=[0.0], per_temperature=1)
    assert scripted.calls.total() == 1
    assert len(made(run, "candidates")) == 2


def test_what_was_paid_for_is_kept_when_the_cap_is_reached(generated: Generated) -> None:
    prompts = [f"fine {i}" for i in range(8)]
    price = {"backoff_s": 0.02, "price_in": 1e4, "concurrency": 2}  # 1 a call, 16 calls
    keys = {"temperatures": [1.0]}
    with Server(scripted := Scripted()) as url:
        with pytest.raises(EngineError, match="the cost cap is reached"):
            generated("", prompts, {"server": {**price, "url": url, "max_cost": 5}}, **keys)
        assert 5 <= scripted.calls.total() <= 6
        run = generated("", prompts, {"server": {**price, "url": url, "max_cost": 50}}, **keys)
    assert set(scripted.calls.values()) == {1}
    assert len(made(run, "candidates")) == 16


def test_a_server_is_started_for_the_job_and_stopped_after(generated: Generated, tmp_path: Path) -> None:
    import psutil

    command = ["{python}", str(Path(module.__file__)), "--port={port}"]
    server = {"url": "http://127.0.0.1:{port}/v1", "command": command, "start_s": 30}
    run = generated("", ["one", "two"], {"server": server}, temperatures=[0.0], per_temperature=1)
    assert len(made(run, "candidates")) == 2
    ours = [p for p in psutil.Process().children(recursive=True) if "scripted.py" in " ".join(p.cmdline())]
    assert ours == []
    log = run.root / "logs" / "generate" / run.units("generate")[0] / "server.log"
    assert log.exists()
    dying = {**server, "command": ["{python}", "-c", "print('no such model'); raise SystemExit(3)"]}
    with pytest.raises(EngineError, match="ended with code 3 before it answered; read .*server.log"):
        generated("", ["three"], {"server": dying}, temperatures=[0.0], per_temperature=1)
    assert "no such model" in log.read_text()
    hanging = {**server, "command": ["{python}", "-c", "import time; time.sleep(60)"], "start_s": 1}
    with pytest.raises(EngineError, match="did not answer within 1 s"):
        generated("", ["four"], {"server": hanging}, temperatures=[0.0], per_temperature=1)
