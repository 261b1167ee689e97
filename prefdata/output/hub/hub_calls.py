"""Calls of the Hub's client with a total deadline, its errors sorted into those that will not change and those that may.

What the server says is passed on, without tokens.
"""

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from prefdata.errors import PublishError, printable
from prefdata.output.hub.targets import Busy

T = TypeVar("T")
AGAIN = {408, 409, 412, 423, 425, 429}
"""Of the statuses below 500, those that another try may change."""
LONGEST_WAIT_S = 600.0
"""A server that asks for a longer pause is not waited for."""
BYTES_PER_S = 2**20
"""An upload may be this slow."""
MEANINGS = {
    400: ("the request was refused", "mend what the Hub names"),
    401: ("no valid token", "set HF_TOKEN to a token that may write there, and check publish.repo_id"),
    402: ("payment or more storage is needed", "free storage or change the plan there"),
    403: ("the token may not write here", "set HF_TOKEN to a token that may write there, and check publish.repo_id"),
    404: ("no such repository, or no access", "set HF_TOKEN to a token that may write there, and check publish.repo_id"),
}
_abandoned: set[threading.Thread] = set()
"""Threads of calls that were given up: none of them sends another request."""


class _Abandoned(Exception):
    """Not one that the client tries again after."""


def hub_token() -> str | None:
    """The token that is written with: HF_TOKEN, or that of `hf auth login`. Raises PublishError where HF_TOKEN is none."""
    from huggingface_hub import get_token

    said = os.environ.get("HF_TOKEN")
    if said and said != "".join(said.split()):
        raise PublishError("HF_TOKEN holds a space or a line break: that is no token", "HF_TOKEN", "set it without")
    return said or get_token()


def no_token() -> str:
    """Why there is none."""
    return "HF_TOKEN is empty: that is no token" if "HF_TOKEN" in os.environ else "no token to publish with"


class Calls:
    """Calls about one repository, none of which takes longer than `timeout_s` and a second for each MiB that it sends."""

    def __init__(self, repo_id: str, token: str | None, timeout_s: float) -> None:
        self.repo_id, self.timeout_s, self._token = repo_id, timeout_s, token

    def __call__(self, work: Callable[[], T], size: int = 0) -> T:
        """What `work` gives. `size`: bytes that it may send. Raises PublishError, Busy."""
        from huggingface_hub import is_offline_mode

        if is_offline_mode():
            raise PublishError("offline mode is on, so nothing is sent", self.repo_id, "unset HF_HUB_OFFLINE")
        return self.checked(lambda: self._within(work, self.timeout_s + size / BYTES_PER_S))

    def checked(self, work: Callable[[], T]) -> T:
        """What `work` gives, which asks nobody. Raises PublishError, Busy."""
        try:
            return work()
        except Exception as error:
            if (meant := self.meaning(error)) is None:
                raise
            raise meant from error

    def _within(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` gives, in a thread that is given up when time is over. Raises TimeoutError."""
        _limit_session(self.timeout_s)
        before, box = set(threading.enumerate()), dict[str, Any]()

        def run() -> None:
            try:
                box["value"] = work()
            except BaseException as error:
                box["error"] = error

        thread = threading.Thread(target=run, name="hub-call", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            _abandoned.update(set(threading.enumerate()) - before)
            raise TimeoutError(f"no answer in {seconds:.0f} s")
        if "error" in box:
            raise box["error"]
        value: T = box["value"]
        return value

    def meaning(self, error: BaseException) -> Exception | None:
        """What an error of the client means; None where it is none of the Hub's."""
        import httpx2
        from huggingface_hub.errors import (
            HFValidationError,
            LocalTokenNotFoundError,
            OfflineModeIsEnabled,
            RevisionNotFoundError,
        )

        if isinstance(error, ValueError) and "README.md" in str(error):  # so the client calls a header that the Hub refuses
            return PublishError(self._said(str(error)), f"{self.repo_id}/README.md", "correct the settings of the card")
        for cause in _chain(error):
            if isinstance(cause, PublishError | Busy):
                return cause
            if isinstance(cause, OfflineModeIsEnabled):
                return PublishError("offline mode is on, so nothing is sent", self.repo_id, "unset HF_HUB_OFFLINE")
            if isinstance(cause, LocalTokenNotFoundError | HFValidationError):
                return PublishError(self._said(str(cause)), self.repo_id, "set HF_TOKEN and check publish.repo_id")
            if isinstance(cause, RevisionNotFoundError):  # somebody else removed a branch: the head is read again
                return Busy("the revision is gone")
            if getattr(cause, "response", None) is not None:
                return self._refused(cause)
            if isinstance(cause, httpx2.HTTPError | ConnectionError | TimeoutError | json.JSONDecodeError):
                return Busy(self._said(f"{type(cause).__name__} {cause}".strip()))
        return None

    def _refused(self, error: Any) -> Exception:
        response = error.response
        status = int(response.status_code)
        words = self._said(getattr(error, "server_message", None) or "")
        if status in AGAIN or status >= 500:
            wait_s = _wait_s(response.headers)
            if wait_s > LONGEST_WAIT_S:
                said = f"the Hub says {status} and asks to wait {wait_s:.0f} s ({words or 'no reason given'})"
                return PublishError(said, self.repo_id, "run the same command again then")
            return Busy(f"status {status}{f': {words}' if words else ''}", wait_s)
        meaning, do = MEANINGS.get(status, MEANINGS[400])
        return PublishError(f"the Hub says {status}: {meaning}{f' ({words})' if words else ''}", self.repo_id, do)

    def _said(self, text: str) -> str:
        """The server's words on one line, without tokens."""
        line = " ".join(text.split())
        if self._token:
            line = line.replace(self._token, "***")
        return printable(re.sub(r"\bhf_[A-Za-z0-9]{8,}", "***", line))[:400]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from: the client and `datasets` wrap what went wrong on the way."""
    seen: set[int] = set()
    step: BaseException | None = error
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)


def _wait_s(headers: Any) -> float:
    """The pause that a server asks for: Retry-After in seconds or as a date, or what its rate limit tells."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    said = str(headers.get("retry-after", "")).strip()
    if said.isdigit():
        return float(said)
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    limit = parse_ratelimit_headers(headers)
    return float(limit.reset_in_seconds) if limit is not None and limit.remaining == 0 else 0.0


def _limit_session(timeout_s: float) -> None:
    """Let no step of a request of the client's shared session wait for ever, nor a thread that was given up send another."""
    from huggingface_hub import get_session

    session = get_session()
    session.timeout = timeout_s
    hooks = session.event_hooks
    if _require_wanted not in hooks["request"]:
        session.event_hooks = {**hooks, "request": [*hooks["request"], _require_wanted]}


def _require_wanted(request: object) -> None:
    if threading.current_thread() in _abandoned:
        raise _Abandoned
