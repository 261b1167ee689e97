"""quality.html: what a set is like, the verdict first."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefdata.output import examples
from prefdata.output.checks import COUNTED, ENOUGH, STATES
from prefdata.output.examples import OF_CHECKS, Link, address
from prefdata.output.page import document, drawn, paragraph, section, table
from prefdata.output.quality import MERGED

Facts = Mapping[str, Any]


OPENS = (
    "What is underlined, and each bar, opens the prompts behind it in the page of the set (publish/explore.html). "
    "That page holds at most 10,000 prompts, and of what was dropped only where the prompt itself is in the set."
)


def render(title: str, facts: Facts, stages: Sequence[Facts], drawings: Mapping[str, str], warnings: Sequence[str] = ()) -> str:
    """The page. `drawings`: SVG texts by the name of their chart; `warnings`: what drops a large share."""
    body = [
        paragraph(f"{facts['prompts']} prompts. Every figure of this page is in quality.json."),
        paragraph(OPENS),
        _verdict(facts["checks"], warnings),
        section(
            "The judges", "What their verdicts say about them; docs/judges.md says how to read it.", _judges(facts["judges"])
        ),
        section("Figures of each prompt", "They are what sets.filters may limit.", _figures(facts["figures"])),
        drawn(
            drawings,
            "length_ratio",
            "Length of the chosen answer against the rejected ones, by prompts. Right of the dashed line: it is longer.",
        ),
        drawn(
            drawings,
            "reference_margin",
            "What the primary reference prefers already, by prompts. Right of the dashed line: the chosen answer.",
        ),
        section(
            "Agreement between rankings",
            "Of the pairs of answers of one prompt that neither ranking ties: the share that both order alike. "
            "0.5 is chance; agreement with length is length bias.",
            table(
                ("ranking", "and", "agree", "pairs", "tied"),
                [(a["one"], a["other"], a["agree"], a["pairs"], a["tied"]) for a in facts["agreement"]],
                texts=("and",),
            ),
        ),
        drawn(drawings, "agreement", "The same as a matrix: each two rankings once."),
        section(
            "Models against models",
            "Adjusted win rate (wins + ties / 2) of the model against the other, by the source's ranks.",
            table(
                ("model", "against", "wins", "ties", "losses", "rate"),
                [(w["model"], w["against"], w["wins"], w["ties"], w["losses"], _both(w)) for w in facts["wins"]],
                texts=("against",),
            ),
        ),
        drawn(drawings, "wins", "The row's model against the column's: each two models once, the strongest model on top."),
        *_counts(facts, stages),
        drawn(drawings, "drops", "Removed rows, prompts and answers by stage and reason."),
    ]
    return document(f"{title}: quality of the set", body)


def _counts(facts: Facts, stages: Sequence[Facts]) -> list[str]:
    return [
        section(
            "Ranks of the source",
            "Over all prompts that were read, those of other splits than the set's included.",
            table(("what", "prompts"), list(facts["source_ranks"].items())),
        ),
        section(
            "Whose answers",
            "What is dropped is not dropped evenly.",
            table(("producer", "made", "in the set", "chosen"), map(_producer, facts["producers"])),
        ),
        section("Prompts to look at", "", table(("what", "prompts"), map(_to_look_at, facts["degenerate"].items()))),
        section(
            "Swap noise",
            "How much less likely a reference finds the swapped answer than the chosen one.",
            table(
                ("reference", "answers", "mean nats", "noise at least as likely"),
                [
                    (n["reference"], Link(n["n"], address(origin="noise")), n["mean_nats"], n["noise_likelier"])
                    for n in facts["noise"]
                ],
            ),
        ),
        section(
            "What was dropped",
            "",
            table(
                ("stage", "reason", "count"),
                [(s["stage"], r, Link(n, address(reason=f"{s['stage']}: {r}"))) for s in stages for r, n in s["drops"].items()],
                texts=("reason",),
            ),
        ),
    ]


def _both(pair: Facts) -> Any:
    """The win rate, with the prompts that both models answered."""
    return Link(pair["rate"], address(model=pair["model"], rival=pair["against"]))


def _producer(row: Facts) -> tuple[Any, ...]:
    name = row["producer"]
    own = {"in the set": address(model=name), "chosen": address(chosenBy=name)}
    return (name, *(Link(row[what], own[what]) if what in own else row[what] for what in ("made", "in the set", "chosen")))


def _dropped(stage: str, reason: str, count: int) -> tuple[str, str, Any]:
    return stage, reason, Link(count, address(reason=f"{stage}: {reason}"))


def _to_look_at(counted: tuple[str, int]) -> tuple[str, Any]:
    """A count of prompts: those of the checks that it belongs to, or that have merged answers."""
    what, count = counted
    checks = {said: OF_CHECKS[check] for check, said in COUNTED.items()} | {MERGED: {"copies": "1.0.."}}
    return what, Link(count, address(**checks[what])) if what in checks else count


def in_short(checks: Sequence[Facts]) -> str:
    """The verdict in a sentence."""
    states = [c["state"] for c in checks]
    counts = dict(zip(STATES, map(states.count, STATES), strict=True))
    if not checks or counts["too few"] == len(checks):
        return "Too few rows to say anything."
    said = f"{counts['suspicious']} of {len(checks)} checks are suspicious"
    return f"{said}; for {counts['too few']} there is too little data." if counts["too few"] else f"{said}."


def _verdict(checks: Sequence[Facts], warnings: Sequence[str]) -> str:
    head = ("", "whose", "what", "value", "good between", "of", "what that means")
    rows = [(c["state"], c["about"], c["what"], examples.of_check(c), limits(c), c["n"], meaning(c)) for c in checks]
    shown = table(head, rows, texts=("whose", "what", "what that means"), classes=STATES[:2])
    notes = "The limits are rules of thumb: beyond them a figure is to be looked at; within them nothing is proven. "
    notes += f"Figures of fewer than {ENOUGH} are not judged."
    large = "".join(paragraph(w) for w in warnings)
    return section("The verdict", "", paragraph(in_short(checks), "verdict") + paragraph(notes) + shown + large)


def limits(check: Facts) -> str:
    """The limits of a check, as one text."""
    return f"{check['low']:g} and {check['high']:g}"


def meaning(check: Facts) -> str:
    """What a figure beyond its limits means; nothing of one within them."""
    return str(check["means"]) if check["state"] == "suspicious" else ""


def _judges(judges: Sequence[Facts]) -> str:
    if not judges:
        return "<p>none: the ranks are the source's own</p>"
    head = ("judge", "procedure", "calls", "consistent", "first read wins", "ties", "missing", "longer wins", "cycles")
    return table(head, [(j["judge"], j["procedure"], j["calls"], *map(_share, figures_of(j))) for j in judges])


FIGURES_OF_JUDGE = ("consistency", "first_place", "ties", "missing", "longer_won", "cycles")


def figures_of(judge: Facts) -> list[Facts | None]:
    """A judge's shares, in the order of FIGURES_OF_JUDGE; None where there is no such figure."""
    flat = {**judge, "missing": judge["missing"]["verdicts"]}
    return [flat.get(name) for name in FIGURES_OF_JUDGE]


def _share(figure: Facts | None) -> str:
    return "n/a" if not figure or figure["share"] is None else f"{figure['share']:.3f} ± {figure['se']:.3f}"


def _figures(rows: Iterable[Facts]) -> str:
    names = ("n", "mean", "p5", "p25", "p50", "p75", "p95")
    return table(
        ("figure", *names, "what it is"),
        [(r["figure"], *(examples.of_figure(r, n) for n in names), r["what"]) for r in rows],
        texts=("what it is",),
    )
