"""The segments of online runs, one row each: for the card and the summary."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from prefdata.output.escape import markdown

COLUMNS = (
    "run",
    "segment",
    "made by",
    "prompts",
    "answers",
    "characters",
    "cut",
    "consistent",
    "rows",
    "best beats greedy",
    "log-ratio",
    "ESS",
)
HEAD = """## Online runs

Each run is cut into segments: equal parts of its steps, and of the training prompts by a keyed draw. At the start of a segment
the checkpoint of that moment (made by: a hash of its files) answered the segment's own prompts, and a judge ranked the answers.
Config `online-<run>` has the rows of all segments, column `segment`, and `online-<run>.candidates` the answers with temperature
and sample.

"""
NOTES = """
Characters: mean length of an answer; cut: share that the length limit ended; consistent: share of pairs that the judge ordered
alike in both orders; rows: prompts with a chosen and a rejected answer. Best beats greedy: how often the judge puts the best
sample before the greedy answer, on a keyed sample of prompts, a tie counted half. Log-ratio: nats that the segment's start
gives these greedy answers beyond what the run's first policy gives them; greedy answers are the start's own mode, so this is
no unbiased KL. ESS: effective number of rejected answers in the kernel's weights, mean over the segment's steps.

"""
Facts = Mapping[str, Any]


def section(online: Sequence[Facts], table: Callable[[list[tuple[Any, ...]], int], str]) -> str:
    """The card's section; nothing where no run is online. `table` escapes its cells."""
    if not online:
        return ""
    head = "| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS) + "\n"
    rows = table([row(f) for f in online], len(COLUMNS))
    return "\n".join([HEAD + "\n".join(map(_who, _by_run(online))), "", head + rows, NOTES])


def _by_run(online: Sequence[Facts]) -> list[list[Facts]]:
    runs = dict.fromkeys(f["run"] for f in online)
    return [[f for f in online if f["run"] == run] for run in runs]


def _who(own: Sequence[Facts]) -> str:
    """Judge and references of a run, of each segment in turn where they change."""
    judges = [name for name, _ in groupby(f["judge"]["judge"] for f in own)]
    named = (", ".join(f"{r['name']} ({r['made_with']})" for r in f["references"]) for f in own)
    references = [text for text, _ in groupby(named)]
    by, compared = markdown(", then ".join(judges)), markdown("; then ".join(references))
    return f"- {markdown(own[0]['run'])}: judged by {by}; references {compared}."


def row(facts: Facts) -> tuple[str, ...]:
    """The cells of one segment."""
    best, ratio, consistent = facts["best_against_greedy"], facts["log_ratio"], facts["judge"].get("consistency")
    return (
        facts["run"],
        f"{facts['segment']} of {facts['of']}",
        facts["made_with"][:12],
        str(facts["prompts"]),
        str(facts["answers"]),
        _number(facts["mean_characters"], 0),
        _share(facts["truncated"]),
        _share(consistent["share"] if consistent else None),
        str(facts["rows"]),
        "n/a" if not best or best["win_rate"] is None else f"{best['win_rate']:.1%}" + _error(best["se"], "{:.1%}"),
        "n/a" if not ratio else f"{ratio['mean']:.2f}" + _error(ratio["se"], "{:.2f}"),
        _number(facts["training"].get("ess"), 2),
    )


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}"


def _number(value: float | None, places: int) -> str:
    return "n/a" if value is None else f"{value:.{places}f}"


def _error(value: float | None, shown: str) -> str:
    return "" if value is None else f" ± {shown.format(value)}"
