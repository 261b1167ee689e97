"""The server engine against a server that misbehaves on cue (FAULTS D): retries, pauses, deadlines, what stops a run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from servers.scripted import Scripted, Server

from prefdata.errors import EngineError
from prefdata.models.engines.protocol import Completion, Request, in_order
from prefdata.models.engines.registry import LanguageModelSettings
from prefdata.models.engines.replies import retry_after, usage_of
from prefdata.models.engines.server import AHEAD, PAUSES, ServerEngine
from prefdata.models.engines.server_settings import ServerSettings

PATIENT = {"backoff_s": 0.02, "timeout_s": 20.0, "deadline_s": 60.0, "pause_s": 0.6}
"""However slow the machine is, no request that is answered times out."""
HASTY = {"timeout_s": 0.4, "deadline_s": 2.0}


@contextmanager
def engine(scripted: Scripted | None = None, spent: float = 0.0, **keys: Any) -> Iterator[ServerEngine]:
    with Server(scripted or Scripted()) as url:
        made = ServerEngine("judge", ServerSettings(url=url, **{**PATIENT, **keys}), url, spent)
        try:
            yield made
        finally:
            made.close()


def asks(*texts: str, **keys: Any) -> list[Request]:
    return [Request(f"{i:016x}", ({"role": "user", "content": t},), **keys) for i, t in enumerate(texts)]


def one(text: str, **keys: Any) -> Completion:
    with engine(**keys) as made:
        return in_order(made.complete(asks(text)))[0]


def test_replies_stand_at_their_places_and_carry_tokens_and_cost() -> None:
    with engine(price_in=2.0, price_out=5.0) as made:
        replies = in_order(made.complete(asks("hello", "cue:wait*1", "there")))
    assert [r.text.splitlines()[-1] for r in replies] == ["[[C]]"] * 3
    assert {(r.prompt_tokens, r.num_tokens, r.finish) for r in replies} == {(100, 10, "stop")}
    assert replies[0].cost == pytest.approx((100 * 2 + 10 * 5) / 1e6)


@pytest.mark.parametrize(
    "cue", ["wait", "wait_date", "wait_bare", "wait_odd", "down", "reset", "hang", "drip", "html", "cut", "null"]
)
def test_what_passes_is_tried_again(cue: str) -> None:
    assert one(f"cue:{cue}*2", timeout_s=0.4 if cue in ("hang", "drip") else 20.0).finish == "stop"


@pytest.mark.parametrize("cue", ["down", "hang", "drip", "reset"])
def test_what_does_not_pass_ends_at_the_deadline_and_may_be_asked_again_by_a_later_run(cue: str) -> None:
    """The cues hang and drip for an hour: that this test ends is the total deadline."""
    reply = one(f"cue:{cue}", **HASTY)
    assert (reply.finish, reply.transient) == ("error", True)
    assert reply.reason.startswith("deadline: ")


@pytest.mark.parametrize(
    ("cue", "reason"),
    [
        ("html", "parse: not"),
        ("empty", "parse: not"),
        ("cut", "parse: not JSON"),
        ("deep", "parse: not"),
        ("list", "parse: not an object"),
        ("no_choices", "parse: no choices"),
        ("null", "parse: no content"),
        ("refusal", "refusal"),
        ("filtered", "refusal"),
        ("thinking", "truncated"),
        ("surrogate", "parse: no content"),
        ("too_long", "no_room"),
    ],
)
def test_what_cannot_be_read_is_data_with_a_reason(cue: str, reason: str) -> None:
    scripted = Scripted()
    with engine(scripted) as made:
        replies = in_order(made.complete(asks("before", f"cue:{cue}", "after")))
    assert [r.finish for r in replies] == ["stop", "error", "stop"]
    assert replies[1].reason.startswith(reason)
    assert not replies[1].transient
    assert max(scripted.tries.values()) == (3 if reason.startswith("parse") else 1), "two retries, then missing"


def test_what_the_servers_settings_may_mend_is_asked_again_by_a_later_run_and_says_why() -> None:
    reply = one("cue:bad")
    assert (reply.finish, reply.transient) == ("error", True)
    assert reply.reason == "status 400: 'no'"


def test_replies_that_cannot_be_read_cost_too() -> None:
    with engine(price_in=1e4) as made:
        reply = in_order(made.complete(asks("cue:null")))[0]
    assert (reply.cost, made.spent) == (3, 3)


def test_numbers_that_no_server_means_are_none() -> None:
    assert usage_of({"usage": {"prompt_tokens": 10**11, "completion_tokens": True}}) == (0, 0)
    assert usage_of({"usage": [1]}) == (0, 0)
    with engine() as made:
        reply = in_order(made.choose(asks("cue:abyss"), ["A", "B"]))[0]
    assert reply.logps == (-float("inf"), pytest.approx(-1.0))


def test_a_429_that_never_ends_does() -> None:
    """It asks for ten minutes each time; pauses are no part of the deadline, so their number is bounded."""
    scripted = Scripted()
    with engine(scripted, pause_s=0.05) as made:
        assert in_order(made.complete(asks("cue:wait_long")))[0].reason == "deadline: 429"
    assert PAUSES <= scripted.tries.total() <= PAUSES + 2


def test_a_cut_reply_is_told() -> None:
    assert one("cue:length").finish == "length"


def test_a_429_pauses_everybody() -> None:
    scripted = Scripted()
    with engine(scripted, concurrency=1) as made:
        in_order(made.complete(asks("cue:wait*1", "a", "b")))
    gaps = [b - a for a, b in zip(scripted.arrivals, scripted.arrivals[1:], strict=False)]
    assert gaps[0] >= 0.35
    scripted = Scripted(latency_s=0.05)
    with engine(scripted, concurrency=2) as made:
        in_order(made.complete(asks("cue:wait*1", *(f"t{i}" for i in range(8)))))
    gaps = [b - a for a, b in zip(scripted.arrivals, scripted.arrivals[1:], strict=False)]
    assert max(gaps) >= 0.3, "no request, not even another one's, is sent in the pause"


def test_a_pause_is_bounded_and_does_not_count_against_the_deadline() -> None:
    started = time.monotonic()
    reply = one("cue:wait_long*3", pause_s=1.2, deadline_s=3.0)
    assert reply.finish == "stop"
    assert time.monotonic() - started >= 3.5, "three pauses of pause_s, none of ten minutes"


@pytest.mark.parametrize("cue", ["key", "forbidden", "nowhere", "credit"])
def test_what_no_retry_mends_stops_the_run_at_once_and_names_no_key(cue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-1234")
    scripted = Scripted(latency_s=0.02)
    with engine(scripted, concurrency=2) as made, pytest.raises(EngineError) as told:
        in_order(made.complete(asks(f"cue:{cue}", *(f"t{i}" for i in range(50)))))
    assert "the server says 40" in str(told.value)
    assert "canary" not in str(told.value)
    assert scripted.keys == {"Bearer sk-canary-1234"}
    assert scripted.tries.total() <= 6


def test_the_number_in_flight_is_bounded_and_requests_are_taken_a_little_ahead() -> None:
    scripted, taken = Scripted(latency_s=0.02), 0

    def requests() -> Iterator[Request]:
        nonlocal taken
        for request in asks(*map(str, range(90))):
            taken += 1
            yield request

    with engine(scripted, concurrency=7) as made:
        for done, _ in enumerate(made.complete(requests()), 1):
            assert taken <= done + 7 + AHEAD
    assert scripted.most_flying == 7
    assert set(scripted.calls.values()) == {1}


def test_the_cost_cap_stops_the_run_and_counts_what_was_spent_before() -> None:
    scripted, kept = Scripted(), []
    price = {"price_in": 1e4, "max_cost": 5.0, "concurrency": 2}  # 1 a call
    with engine(scripted, spent=2.0, **price) as made, pytest.raises(EngineError, match="the cost cap is reached: .* of 5.0"):
        for _, reply in made.complete(asks(*map(str, range(20)))):
            kept.append(reply)
    assert 3 <= len(kept) <= 4, "what was in flight is kept"
    assert scripted.calls.total() == len(kept)


@pytest.mark.parametrize(
    ("cue", "reason"),
    [
        ("null_logprob", "logprobs: not a number"),
        ("nan", "logprobs: above 0"),
        ("above", "logprobs: above 0"),
        ("no_label", "no label among"),
        ("two_tokens", "logprobs: one token's expected"),
        ("no_logprobs", "logprobs: one token's expected"),
        ("minus_inf", "no label among"),
    ],
)
def test_log_probs_that_are_none_are_a_missing_row(cue: str, reason: str) -> None:
    with engine() as made:
        replies = in_order(made.choose(asks("x", f"cue:{cue}"), ["A", "B", "C"]))
    assert replies[0].logps == pytest.approx((-3.0, -3.0, -0.1))
    assert (replies[1].finish, replies[1].logps) == ("error", None)
    assert replies[1].reason.startswith(reason)


def test_a_request_says_what_it_asks_for() -> None:
    scripted = Scripted()
    with engine(scripted, top_logprobs=5) as made:
        in_order(made.complete(asks("x", temperature=0.7, seed=11, max_tokens=9, template_kwargs='{"enable_thinking": false}')))
        in_order(made.choose(asks("x", temperature=0.7), ["A"]))
    sampled, chosen = scripted.bodies
    assert {k: sampled[k] for k in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "judge",
        "temperature": 0.7,
        "seed": 11,
        "max_tokens": 9,
    }
    assert sampled["chat_template_kwargs"] == {"enable_thinking": False}
    assert (chosen["max_tokens"], chosen["temperature"], chosen["logprobs"], chosen["top_logprobs"]) == (1, 0.0, True, 5)
    assert "seed" not in chosen


def test_the_limits_name_and_the_temperature_follow_the_server() -> None:
    with engine(scripted := Scripted(), max_tokens_field="max_completion_tokens", send_temperature=False) as made:
        in_order(made.complete(asks("x", temperature=0.7, max_tokens=9)))
        in_order(made.choose(asks("x"), ["A"]))
    for body, limit in zip(scripted.bodies, (9, 1), strict=True):
        assert body["max_completion_tokens"] == limit
        assert not {"max_tokens", "temperature"} & body.keys()
    plain, fixed = (LanguageModelSettings(id="m", server={"send_temperature": sent}) for sent in (True, False))
    assert plain.identity() != fixed.identity(), "answers under another temperature are other answers"


def test_a_run_whose_first_requests_all_fail_alike_stops_and_one_that_got_answers_goes_on() -> None:
    with engine() as made, pytest.raises(EngineError, match="the first 8 requests all failed .status 400"):
        in_order(made.complete(asks(*["cue:bad"] * 20)))
    for many in (["fine", *["cue:bad"] * 20], ["cue:bad"] * 7):
        with engine(concurrency=1) as made:
            assert [r.finish for r in in_order(made.complete(asks(*many)))].count("error") == many.count("cue:bad")
    with engine() as made:  # an earlier run of the same work got answers
        made._alike.answered = True
        assert len(in_order(made.complete(asks(*["cue:bad"] * 20)))) == 20


def test_retry_after_reads_seconds_and_dates() -> None:
    assert retry_after("2.5", 0) == 2.5
    assert retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 40) == 60
    assert retry_after("Thu, 01 Jan 1970 00:00:10 GMT", 40) == 0
    assert [retry_after(h, 0) for h in (None, "soon", "nan", "inf", "")] == [None] * 5
