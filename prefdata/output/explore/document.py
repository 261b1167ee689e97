"""The page as one HTML file: nothing is loaded from elsewhere, and nothing runs but the scripts whose hashes it names.

Data lies in elements that are no scripts, compressed and in base64; the scripts put it on the page as text alone.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from prefdata.output.escape import html_text
from prefdata.output.explore.gathered import Gathered, packed, unpacked
from prefdata.tables import atomic

FRONT = Path(__file__).parent / "front"
LIBRARIES = ("vendor/preact.min.umd.js", "vendor/htm.umd.js", "vendor/diff.min.js")
SCRIPTS = (
    *LIBRARIES,
    "kernel.js",
    "data.js",
    "state.js",
    "overview.js",
    "list.js",
    "candidates.js",
    "prompt.js",
    "page.js",
)
"""In the order in which they run: each knows those before it."""
STYLE = "page.css"
HELD = re.compile(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>')


def write(path: Path, title: str, gathered: Gathered, more: dict[str, Any]) -> None:
    """Write the page of what was gathered, whole or not at all. `more`: what else it says, as JSON. Raises DataError."""
    data = {"title": title, **more, **gathered.facts()}

    def put(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            _fill(file, title, {"data": packed(data), **{f"texts-{i}": chunk for i, chunk in enumerate(gathered.chunks)}})

    atomic.atomic_write(path, put)


def _fill(file: TextIO, title: str, held: dict[str, str]) -> None:
    style, scripts = _read(STYLE), [_read(name) for name in SCRIPTS]
    before, _, after = _read("page.html").partition("<!-- data and scripts -->")
    head = before.replace("<!-- policy -->", f'<meta http-equiv="Content-Security-Policy" content="{policy(style, scripts)}">')
    file.write(head.replace("<!-- title -->", f"<title>{html_text(title)}</title>").replace("<!-- style -->", style_of(style)))
    for name, text in held.items():
        file.write(f'<script type="text/plain" id="{name}">{text}</script>\n')
    file.writelines(f"<script>{script}</script>\n" for script in scripts)
    file.write(after)


def held(path: Path) -> str:
    """All that a page holds of the data, as its JSON says it: what is looked at before it is published."""
    found = HELD.findall(path.read_text(encoding="utf-8"))
    return "\n".join(json.dumps(unpacked(text), ensure_ascii=False) for _, text in found)


def style_of(style: str) -> str:
    return f"<style>{style}</style>"


def policy(style: str, scripts: list[str]) -> str:
    """What the browser may run and show: these scripts and this style, nothing from anywhere."""
    return (
        f"default-src 'none'; script-src {' '.join(_hashes(scripts))}; style-src {' '.join(_hashes([style]))}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashes(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"


def _read(name: str) -> str:
    return (FRONT / name).read_text(encoding="utf-8")
