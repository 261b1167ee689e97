"""A real Chromium for the tests of the page of `prefdata explore`; tests that use it are skipped where there is none."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}


TRIES = 600
"""Of 50 ms: a wait ends a test that hangs."""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield made
        made.close()


class Visit:
    """A page that is open, with what it asked for, said and tried."""

    def __init__(self, browser: Any, file: Path, hash_: str = "", **how: Any) -> None:
        self.page = browser.new_context(**{"viewport": WIDE, **how}).new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.on("console", lambda m: self.said.append(m.text))
        self.page.on("pageerror", lambda e: self.said.append(str(e)))
        self.page.on("dialog", lambda d: (self.said.append(f"dialog {d.message}"), d.dismiss()))
        self.file = file
        self.page.goto(file.as_uri() + hash_)
        self.page.wait_for_selector(".row, .prompt, .chart", state="attached")

    def of(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())

    def opened(self) -> str:
        """The id of the open prompt."""
        self.page.wait_for_selector(".prompt h2")
        return str(self.page.locator(".prompt h2").inner_text())

    def wait(self, script: str) -> None:
        """Until it is true: the page draws in the next frame. (Playwright's own waiting needs eval, which the policy forbids.)"""
        for _ in range(TRIES):
            if self.of(script):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"still not: {script}")

    def close(self) -> None:
        self.page.context.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """visit(file, hash, ...) -> Visit; at the end: nothing was asked for but the file, nothing was said."""
    made: list[Visit] = []

    def go(file: Path, hash_: str = "", **how: Any) -> Visit:
        made.append(Visit(browser, file, hash_, **how))
        return made[-1]

    yield go
    for each in made:
        each.close()
        assert {u.partition("#")[0] for u in each.asked} == {each.file.as_uri()}
        assert each.said == []
