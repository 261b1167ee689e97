"""The server engine: any OpenAI-compatible endpoint, with a bounded number of requests in flight.

The client's own retries are off; ours have a total deadline a request. A 429 pauses every request, not only its own, and
a pause does not count against a deadline. What comes back is untrusted: it is read strictly, and what cannot be read is
asked again twice, then data with a reason. The key is read from the environment and is in no message.
"""

import asyncio
import json
import os
import queue
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from prefdata.errors import EngineError, snippet
from prefdata.models.engines.protocol import NO_ROOM, Completion, Replies, Request
from prefdata.models.engines.replies import (
    Alike,
    SameFailure,
    Unreadable,
    choice_of,
    completion_of,
    message_of,
    retry_after,
    usage_of,
)
from prefdata.models.engines.server_settings import ServerSettings

UNREADABLE_TRIES = 3
AHEAD = 32
"""Requests made before a place is free for them."""
POOL = 4
"""Connections of one client: its pool looks at each of them for every request, most of a request's time where 256 share it."""
PAUSES = 10
"""Pauses of full length that one request may spend, whoever caused them; they are not in its deadline."""
MENDS = {
    "max_completion_tokens": "set server.max_tokens_field: max_completion_tokens",
    "temperature": "set server.send_temperature: false",
    "logprobs": "set verdicts: text",
}
"""Words of servers' errors, and the key that mends them."""
MEANINGS = {
    401: "the key is not valid",
    402: "the account has no credit",
    403: "the key may not use this model",
    404: "no such model or address",
}


class Refused(Exception):
    """The server will answer no request of ours: the run stops."""


class Bad(Exception):
    """The server will not answer this one request; `transient`: unless it is mended."""

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


class Later(Exception):
    """Worth another try; `pause_known`: after a pause that the server asked for."""

    def __init__(self, reason: str, pause_known: bool = False) -> None:
        super().__init__(reason)
        self.pause_known = pause_known


class ServerEngine:
    """Talks to one model at one address. `spent` is what earlier runs of the same work have cost,
    `answered`: whether they got any answer."""

    def __init__(self, model: str, settings: ServerSettings, url: str, spent: float = 0.0, answered: bool = False) -> None:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self.model, self.settings, self.spent, self.url = model, settings, spent, url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server-engine", daemon=True)
        self._thread.start()
        self._key = key = os.environ.get(settings.api_key_env, "none")
        trusted = ssl.create_default_context()  # reading the certificates once, not for every client
        self._clients = [
            AsyncOpenAI(
                api_key=key,
                base_url=url,
                max_retries=0,
                timeout=settings.timeout_s,
                http_client=DefaultAsyncHttpxClient(verify=trusted),
            )
            for _ in range(-(-settings.concurrency // POOL))
        ]
        self._turns = cycle(self._clients)
        self._paused_until = 0.0
        self._alike = Alike(answered)

    def complete(self, requests: Iterable[Request]) -> Replies:
        """Chat completions, as they arrive."""
        return self._each(requests, self._body, completion_of)

    def choose(self, requests: Iterable[Request], labels: Sequence[str]) -> Replies:
        """One token and its likeliest alternatives; a label that is not among them gets -inf."""

        def body(request: Request) -> dict[str, Any]:
            return {
                **self._body(replace(request, temperature=0.0)),
                self.settings.max_tokens_field: 1,
                "logprobs": True,
                "top_logprobs": self.settings.top_logprobs,
            }

        return self._each(requests, body, lambda reply: choice_of(reply, labels))

    def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            self.settings.max_tokens_field: request.max_tokens,
        }
        if self.settings.send_temperature:
            body["temperature"] = request.temperature
        if request.seed is not None and request.temperature > 0:
            body["seed"] = request.seed
        if request.tools:
            body["tools"] = json.loads(request.tools)
        if request.template_kwargs:
            body["chat_template_kwargs"] = json.loads(request.template_kwargs)
        return body

    def _each(
        self,
        requests: Iterable[Request],
        body: Callable[[Request], dict[str, Any]],
        read: Callable[[dict[str, Any]], Completion],
    ) -> Replies:
        """Keep `concurrency` requests in flight, and a few more ready: a place is free when its reply has been taken in."""
        finished: queue.SimpleQueue[tuple[int, Completion | BaseException | None]] = queue.SimpleQueue()
        waiting: dict[int, Any] = {}
        places, unsent = asyncio.Semaphore(self.settings.concurrency), 0

        def take() -> Replies:
            nonlocal unsent
            place, reply = finished.get()
            waiting.pop(place)
            if isinstance(reply, BaseException):
                raise reply
            if reply is None:
                unsent += 1
            else:
                yield place, reply
                self._alike.add(reply)
            # whoever asks for the next reply has committed this one: a kill then repeats what was in flight, no more
            self._loop.call_soon_threadsafe(places.release)

        async def one(place: int, request: Request) -> None:
            try:
                await places.acquire()
                reply = None if self._over_cap() else await self._answered(body(request), read)
                finished.put((place, reply))
            except BaseException as error:
                finished.put((place, error))

        try:
            for place, request in enumerate(requests):
                waiting[place] = asyncio.run_coroutine_threadsafe(one(place, request), self._loop)
                while len(waiting) >= self.settings.concurrency + AHEAD or (waiting and not finished.empty()):
                    yield from take()
                if unsent:
                    break
            while waiting:
                yield from take()
        except SameFailure as error:
            mend = next((do for word, do in MENDS.items() if word in str(error)), "mend that")
            raise EngineError(str(error), self.url, f"{mend}, and run again: what failed is asked again") from None
        except Refused as error:
            raise EngineError(str(error), self.url, f"set {self.settings.api_key_env}, check server.url and model") from None
        finally:
            for future in waiting.values():
                future.cancel()
        if unsent:
            raise EngineError(
                f"the cost cap is reached: {self.spent:.4f} of {self.settings.max_cost}",
                self.url,
                "raise server.max_cost and run again; no finished call is repeated",
            )

    def _over_cap(self) -> bool:
        return self.settings.max_cost is not None and self.spent >= self.settings.max_cost

    async def _answered(self, body: dict[str, Any], read: Callable[[dict[str, Any]], Completion]) -> Completion:
        """One request with its retries, inside its deadline. Raises Refused."""
        import tenacity

        started, paused, unreadable, cost = time.monotonic(), 0.0, 0, 0.0
        backoff = tenacity.wait_random_exponential(multiplier=self.settings.backoff_s, max=60)

        def waited() -> float:
            return time.monotonic() - started - paused

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            return 0.0 if isinstance(error, Later) and error.pause_known else backoff(state)

        def over(state: tenacity.RetryCallState) -> bool:
            return waited() + state.upcoming_sleep >= self.settings.deadline_s or paused > PAUSES * self.settings.pause_s

        async def attempt() -> Completion:
            nonlocal paused, unreadable, cost
            paused += await self._unpaused()
            try:
                reply = await self._sent(body, self.settings.deadline_s - waited())
                prompt, made = usage_of(reply)
                price = self._price(prompt, made)
                cost += price
                self.spent += price  # whether or not the reply can be read
                completion = read(reply)
                return replace(completion, prompt_tokens=prompt, num_tokens=made or completion.num_tokens, cost=cost)
            except Unreadable as error:
                unreadable += 1
                if unreadable >= UNREADABLE_TRIES:
                    return Completion("", "error", 0, f"parse: {error}", cost=cost)
                raise Later(f"parse: {error}") from error
            except Bad as error:
                return Completion("", "error", 0, str(error), cost=cost, transient=error.transient)

        try:
            async for tried in tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type(Later),
                wait=wait,
                stop=over,
                reraise=True,
            ):
                with tried:
                    return await attempt()
        except Later as error:
            return Completion("", "error", 0, f"deadline: {error}", cost=cost, transient=True)
        raise AssertionError("a retry loop ends with a reply or an error")

    async def _sent(self, body: dict[str, Any], left_s: float) -> dict[str, Any]:
        """One HTTP exchange, whole within its time however slowly it drips. Raises Later, Refused, Unreadable."""
        import openai

        try:
            async with asyncio.timeout(min(self.settings.timeout_s, max(left_s, 0.01))):
                client = next(self._turns)
                reply = await client.post("/chat/completions", cast_to=object, body=body, options={"max_retries": 0})
        except TimeoutError as error:
            raise Later("timeout") from error
        except openai.APIStatusError as error:
            raise self._sorted(error) from None
        except openai.APIConnectionError as error:
            raise Later("connection") from error
        except (openai.OpenAIError, ValueError, RecursionError) as error:  # 200 with something that is no JSON
            raise Unreadable("not JSON") from error
        if not isinstance(reply, dict):
            raise Unreadable("not an object")
        return reply

    def _sorted(self, error: Any) -> Exception:
        """A status as what it means for the request or the run."""
        status = int(error.status_code)
        if status in MEANINGS:
            return Refused(f"the server says {status}: {MEANINGS[status]}")
        if status == 429:
            wait = retry_after(error.response.headers.get("retry-after"), time.time())
            self._pause(self.settings.backoff_s if wait is None else min(wait, self.settings.pause_s))
            return Later("429", pause_known=wait is not None)
        if status >= 500 or status in (408, 409, 425):
            return Later(str(status))
        # every server says it in its own words; the code is OpenAI's, the sentence vLLM's
        no_room = "context_length_exceeded" in error.response.text or "maximum context length" in error.response.text
        said = snippet(message_of(error.response.text.replace(self._key, "***")), 160)
        return Bad(NO_ROOM, transient=False) if no_room else Bad(f"status {status}: {said}", transient=True)

    def _pause(self, seconds: float) -> None:
        """Nobody sends before then. Called on the loop's thread only."""
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    async def _unpaused(self) -> float:
        """Wait for the end of the pause, if there is one; the seconds waited."""
        started = time.monotonic()
        while (left := self._paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left)
        return time.monotonic() - started

    def _price(self, prompt: int, made: int) -> float:
        return (prompt * self.settings.price_in + made * self.settings.price_out) / 1e6

    def close(self) -> None:
        """Stop the loop and the client."""
        for client in self._clients:
            asyncio.run_coroutine_threadsafe(client.close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
