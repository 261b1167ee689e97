"""HTML files of tables and charts, nothing loaded from elsewhere, no script, all data escaped; the quality report is one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefdata.output.escape import html_text

Facts = dict[str, Any]
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 0 0 1.5rem; } p { max-width: 50rem; }
"""


def render(title: str, facts: Facts, stages: Sequence[Facts], drawings: Mapping[str, str]) -> str:
    """The page. `drawings` are SVG texts by the name of their chart."""
    body = [
        f"<h1>{html_text(title)}: quality of the set</h1>",
        f"<p>{facts['prompts']} prompts. Every figure of this page is in <code>quality.json</code>.</p>",
        _section("Figures of each prompt", "They are what sets.filters may limit.", _figures(facts["figures"])),
        _drawn(drawings, "length_ratio", "Length of the chosen answer against the rejected ones. Right of 0: it is longer."),
        _drawn(drawings, "reference_margin", "What the primary reference prefers already. Right of 0: the chosen answer."),
        _section(
            "Agreement between rankings",
            "Of the pairs of answers of one prompt that neither ranking ties: the share that both order alike. "
            "0.5 is chance; agreement with length is length bias.",
            table(
                ("ranking", "and", "agree", "pairs", "tied"),
                [(a["one"], a["other"], a["agree"], a["pairs"], a["tied"]) for a in facts["agreement"]],
            ),
        ),
        _drawn(drawings, "agreement", ""),
        _section(
            "Models against models",
            "Adjusted win rate (wins + ties / 2) of the row's model by the source's ranks.",
            table(
                ("model", "against", "wins", "ties", "losses", "rate"),
                [(w["model"], w["against"], w["wins"], w["ties"], w["losses"], w["rate"]) for w in facts["wins"]],
            ),
        ),
        _drawn(drawings, "wins", ""),
        _section("Ranks of the source", "", table(("what", "prompts"), list(facts["source_ranks"].items()))),
        _section(
            "Whose answers",
            "What is dropped is not dropped evenly.",
            table(("producer", "made", "in the set", "chosen"), [tuple(p.values()) for p in facts["producers"]]),
        ),
        _section("Prompts to look at", "", table(("what", "prompts"), list(facts["degenerate"].items()))),
        _section(
            "Swap noise",
            "How much less likely a reference finds the swapped answer than the chosen one.",
            table(
                ("reference", "answers", "mean nats", "noise at least as likely"),
                [(n["reference"], n["n"], n["mean_nats"], n["noise_likelier"]) for n in facts["noise"]],
            ),
        ),
        _section(
            "What was dropped",
            "",
            table(("stage", "reason", "count"), [(s["stage"], r, n) for s in stages for r, n in s["drops"].items()]),
        ),
        _drawn(drawings, "drops", ""),
    ]
    return _html(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """A page of its own: a heading, then the parts (HTML)."""
    return _html(title, [f"<h1>{html_text(title)}</h1>", *body])


def _html(title: str, body: Sequence[str]) -> str:
    head = f'<meta charset="utf-8"><title>{html_text(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _section(title: str, said: str, shown: str) -> str:
    return f"<h2>{html_text(title)}</h2>" + (f"<p>{html_text(said)}</p>" if said else "") + shown


def _figures(rows: Iterable[Facts]) -> str:
    names = ("n", "mean", "p5", "p25", "p50", "p75", "p95")
    return table(("figure", *names, "what it is"), [(r["figure"], *[r.get(n) for n in names], r["what"]) for r in rows])


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as an HTML table."""
    listed = [f"<tr>{''.join(f'<td>{html_text(_shown(v))}</td>' for v in row)}</tr>" for row in rows]
    if not listed:
        return "<p>none</p>"
    return f"<table><tr>{''.join(f'<th>{html_text(h)}</th>' for h in head)}</tr>{''.join(listed)}</table>"


def _shown(value: Any) -> str:
    return "n/a" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _drawn(drawings: Mapping[str, str], name: str, said: str) -> str:
    if name not in drawings:
        return ""
    return f"<figure>{drawings[name]}" + (f"<figcaption>{html_text(said)}</figcaption>" if said else "") + "</figure>"
