"""HTML files of tables and charts: nothing loaded from elsewhere, no script, all data escaped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefdata.output.escape import html_text
from prefdata.output.examples import Link

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.8rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
figure { margin: 0 0 1.5rem; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } td:not(.text) { white-space: nowrap; }
figcaption { color: #555; max-width: 50rem; } p { max-width: 50rem; }
.suspicious { color: #a33c00; font-weight: 600; } .good { color: #1b6b35; }
td a { color: inherit; text-decoration: underline dotted; } figure a path:hover { opacity: 0.6; }
.verdict { border-left: 0.3rem solid #888; padding: 0.2rem 1rem; background: #f6f6f6; }
"""


def document(title: str, body: Sequence[str]) -> str:
    """A page of its own: a heading, then the parts (HTML)."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html_text(title)}</title><style>{STYLE}</style>"
    )
    parts = "\n".join([f"<h1>{html_text(title)}</h1>", *body])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{parts}\n</body></html>\n'


def section(title: str, said: str, shown: str) -> str:
    """A heading, a sentence or none, and what is shown (HTML)."""
    return f"<h2>{html_text(title)}</h2>" + paragraph(said) + shown


def paragraph(said: str, of: str = "") -> str:
    """A text of its own, of a class of STYLE; nothing where there is none."""
    return f"<p{f' class={of}' if of else ''}>{html_text(said)}</p>" if said else ""


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], texts: Sequence[str] = (), classes: Sequence[str] = ()) -> str:
    """Rows as an HTML table. `texts`: headings of columns that are read, not compared; a cell that is one of `classes` is
    shown as that class; a Link opens its examples."""
    of = [' class="text"' if h in texts else "" for h in head]
    listed = []
    for row in rows:
        cells = [
            f'<td class="{value}">{value}</td>' if value in classes else f"<td{kind}>{_cell(value)}</td>"
            for kind, value in zip(of, row, strict=True)
        ]
        listed.append(f"<tr>{''.join(cells)}</tr>")
    if not listed:
        return "<p>none</p>"
    heads = "".join(f"<th{kind}>{html_text(h)}</th>" for kind, h in zip(of, head, strict=True))
    return f'<div class="wide"><table><tr>{heads}</tr>{"".join(listed)}</table></div>'


def _cell(value: Any) -> str:
    if isinstance(value, Link):
        return f'<a href="{html_text(value.address)}">{html_text(number(value.value))}</a>'
    return html_text(number(value))


def number(value: Any) -> str:
    """A cell's text: three decimals, or three digits where these would show nothing, as of a learning rate."""
    if value is None:
        return "n/a"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0 or 1e-2 <= abs(value) < 1e5 else f"{value:.3g}"


def drawn(drawings: Mapping[str, str], name: str, said: str = "") -> str:
    """A chart (SVG) with its caption; nothing where it could not be drawn."""
    if name not in drawings:
        return ""
    return f"<figure>{drawings[name]}" + (f"<figcaption>{html_text(said)}</figcaption>" if said else "") + "</figure>"
