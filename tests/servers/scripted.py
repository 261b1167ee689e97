"""An OpenAI-compatible server that judges by a rule and misbehaves on cue: a process of its own, or a thread of a test.

A cue stands in the text of a request: `cue:NAME` misbehaves always, `cue:NAME*2` the first two times that this very request
is made. GET /log tells what was asked. `python tests/servers/scripted.py --port 8123 --latency 0.5`.
"""

import argparse
import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

CUE = re.compile(r"cue:([a-z_]+)(?:\*(\d+))?")
SHOWN = re.compile(r"----- (first|second) (\w+)\n(.*?)\n----- end \2", re.DOTALL)


def longer(first: str, second: str) -> str:
    """The verdict of a judge that counts characters."""
    return "C" if len(first) == len(second) else "A" if len(first) > len(second) else "B"


class Scripted:
    """Its `rule` gets both answers as they are shown. `calls` counts finished requests by their hash."""

    def __init__(self, rule: Callable[[str, str], str] = longer, latency_s: float = 0.0) -> None:
        self.rule, self.latency_s = rule, latency_s
        self.tries, self.calls = Counter[str](), Counter[str]()
        self.flying = self.most_flying = 0
        self.arrivals: list[float] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()

    def app(self) -> Starlette:
        routes = [
            Route("/v1/chat/completions", self._asked, methods=["POST"]),
            Route("/v1/models", lambda request: JSONResponse({"data": [{"id": "judge"}]})),
            Route("/log", lambda request: JSONResponse(self.log())),
        ]
        return Starlette(routes=routes)

    def log(self) -> dict[str, Any]:
        return {"calls": dict(self.calls), "tries": self.tries.total(), "most_flying": self.most_flying}

    async def _asked(self, request: Request) -> Response:
        raw = await request.body()
        self.arrivals.append(time.monotonic())
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            return await self._answer(raw, request.headers.get("authorization", ""))
        finally:
            self.flying -= 1

    async def _answer(self, raw: bytes, key: str) -> Response:
        body = json.loads(raw)
        text = "\n".join(m["content"] for m in body["messages"])
        name = hashlib.blake2b(raw, digest_size=8).hexdigest()
        self.tries[name] += 1
        self.bodies.append(body)
        self.keys.add(key)
        await asyncio.sleep(self.latency_s)
        if (cue := CUE.search(text)) and self.tries[name] <= int(cue[2] or 10**9):
            response = await CUES[cue[1]](body)
            if response is not None:
                return response
        self.calls[name] += 1
        return JSONResponse(reply(body, self._verdict(text)))

    def _verdict(self, text: str) -> str:
        shown = {place: answer for place, _, answer in SHOWN.findall(text)}
        return self.rule(shown.get("first", ""), shown.get("second", ""))


def reply(body: dict[str, Any], verdict: str, **changes: Any) -> dict[str, Any]:
    """A chat completion: a verdict on the last line, or one token with its alternatives."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    if body.get("logprobs"):
        others = [label for label in "ABC" if label != verdict]
        listed = [{"token": verdict, "logprob": -0.1}, *({"token": f" {o}", "logprob": -3.0} for o in others)]
        choice["logprobs"] = {"content": [{"token": verdict, "logprob": -0.1, "top_logprobs": listed}]}
        choice["message"] = {"role": "assistant", "content": verdict}
    else:
        choice["message"] = {"role": "assistant", "content": f"One of them is better.\n[[{verdict}]]"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [{**choice, **changes}], "usage": usage}


# ---- what it does on cue: a response, or None to answer after all ----

Cue = Callable[[dict[str, Any]], Awaitable[Response | None]]


def _status(code: int, **headers: str) -> Cue:
    async def make(body: dict[str, Any]) -> Response:
        return JSONResponse({"error": {"message": "no"}}, code, {k.replace("_", "-"): v for k, v in headers.items()})

    return make


async def _too_long(body: dict[str, Any]) -> Response:
    said = "This model's maximum context length is 256 tokens. However, you requested 300 tokens."
    return JSONResponse({"error": {"message": said, "code": 400}}, 400)


def _raw(text: str, kind: str = "application/json") -> Cue:
    async def make(body: dict[str, Any]) -> Response:
        return PlainTextResponse(text, media_type=kind)

    return make


def _changed(**changes: Any) -> Cue:
    async def make(body: dict[str, Any]) -> Response:
        return JSONResponse(reply(body, "A", **changes))

    return make


def _said(text: str, **changes: Any) -> Cue:
    return _changed(message={"role": "assistant", "content": text}, **changes)


def _logprobs(entries: Any) -> Cue:
    async def make(body: dict[str, Any]) -> Response:
        made = reply(body, "A", logprobs={"content": entries})
        return Response(json.dumps(made), media_type="application/json")  # NaN and -Infinity as they are

    return make


def _top(*logps: Any, tokens: str = "ABC") -> Cue:
    listed = [{"token": t, "logprob": v} for t, v in zip(tokens, logps, strict=False)]
    return _logprobs([{"token": "A", "logprob": -1.0, "top_logprobs": listed}])


async def _date(body: dict[str, Any]) -> Response:
    return JSONResponse({}, 429, {"retry-after": formatdate(time.time() + 1, usegmt=True)})


async def _hang(body: dict[str, Any]) -> None:
    await asyncio.sleep(3600)


async def _drip(body: dict[str, Any]) -> Response:
    async def drops() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(drops(), media_type="application/json")


async def _reset(body: dict[str, Any]) -> Response:
    return Response(b"{", headers={"content-length": "1000"}, media_type="application/json")


CUES: dict[str, Cue] = {
    "wait": _status(429, retry_after="0.4"),
    "wait_date": _date,
    "wait_bare": _status(429),
    "wait_long": _status(429, retry_after="600"),
    "wait_odd": _status(429, retry_after="soon"),
    "down": _status(503),
    "key": _status(401),
    "forbidden": _status(403),
    "nowhere": _status(404),
    "bad": _status(400),
    "too_long": _too_long,
    "hang": _hang,
    "drip": _drip,
    "reset": _reset,
    "html": _raw("<html>proxy error</html>", "text/html"),
    "empty": _raw(""),
    "cut": _raw('{"choices": [{"mess'),
    "deep": _raw("[" * 100_000),
    "list": _raw("[1, 2]"),
    "no_choices": _raw('{"choices": []}'),
    "null": _changed(message={"role": "assistant", "content": None}),
    "thinking": _changed(message={"role": "assistant", "content": None}, finish_reason="length"),
    "surrogate": _raw('{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}'),
    "credit": _status(402),
    "refusal": _changed(message={"role": "assistant", "content": None, "refusal": "I cannot"}),
    "filtered": _changed(finish_reason="content_filter"),
    "length": _said("It is a long story", finish_reason="length"),
    "both": _said("[[A]]\n[[B]]"),
    "both_in_line": _said("[[A]] or [[B]]"),
    "lower": _said("[[a]]"),
    "wide": _said("［［Ａ］］"),
    "trailing": _said("[[A]]\nI hope this helps."),
    "quoted": _said('The second answer says "[[A]]", which is no reason.\n[[B]]'),
    "null_logprob": _top(None),
    "nan": _top(float("nan"), -1.0),
    "minus_inf": _top(float("-inf"), -9999.0),
    "above": _top(0.5, -1.0),
    "abyss": _top(-(10**400), -1.0, tokens="AB"),
    "no_label": _top(-0.1, -0.2, tokens="XY"),
    "two_tokens": _logprobs([{"top_logprobs": []}] * 2),
    "no_logprobs": _logprobs(None),
}


class Server:
    """A scripted server on a free port of this machine, for a `with` block: its address."""

    def __init__(self, scripted: Scripted) -> None:
        config = uvicorn.Config(scripted.app(), host="127.0.0.1", port=0, log_level="critical", ws="none")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/v1"

    def __exit__(self, *error: object) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency", type=float, default=0.0)
    asked = parser.parse_args()
    app = Scripted(latency_s=asked.latency).app()
    uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="critical", ws="none")


if __name__ == "__main__":
    main()
