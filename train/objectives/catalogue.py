"""The objectives for people: formula, what each needs, settings of its own, paper."""

from collections.abc import Callable
from typing import Any

from train.objectives.losses import LOSSES
from train.objectives.negatives import NEGATIVES
from train.objectives.references import REFERENCES
from train.objectives.registry import OBJECTIVES, ON_LABELS, Objective

NEEDS = {
    "score": "a score of every candidate (ranks by the source's scores or by a pointwise judge)",
    "win_prob": "a win probability of every candidate",
    "same_tokenizer": "a primary reference with the policy's tokenizer",
    "smoothing": "loss.label_smoothing above 0",
    "mean_reward": "one more forward of each batch, without gradient",
    "mismatched": "a start from the primary reference, batches of 2 rows; one more forward of each batch, by both",
}


def text(name: str) -> str:
    """One objective, a line each."""
    row = OBJECTIVES[name]
    parts = [
        ("loss", LOSSES[row.loss].formula),
        ("negatives", "" if row.negatives == "none" else f"{row.negatives}: {_first(NEGATIVES[row.negatives].select)}"),
        ("references", "" if row.references == "none" else f"{row.references}: {_first(REFERENCES[row.references].views)}"),
        ("needs", "; ".join(_needs(row)) or "prompts and chosen answers"),
        ("defaults", ", ".join(f"{s}.{k} {v}" for s, keys in row.defaults.items() for k, v in keys.items())),
        ("reads", _read(row)),
        ("labels", _on_labels(ON_LABELS[name]) if name in ON_LABELS else ""),
        ("paper", row.paper),
    ]
    return "\n".join([name, *(f"  {label:<11} {value}" for label, value in parts if value)])


def _needs(row: Objective) -> list[str]:
    needs = []
    if row.negatives != "none":
        needs.append("rejected candidates of origin noise" if row.negatives == "noise" else "rejected candidates")
    if row.references != "none":
        needs.append("log-probs of " + ("one reference" if row.references == "primary" else "two references or more"))
    if (need := LOSSES[row.loss].needs) is not None:
        needs.append(NEEDS[need])
    return needs


def _on_labels(row: Objective) -> str:
    return f"{LOSSES[row.loss].formula}, on the set unpaired; reads {_read(row)}"


def _read(row: Objective) -> str:
    """The keys of a run's settings that count, by section, with their conditions."""
    shown = {
        section: ", ".join(key.name + (f" ({key.where})" if key.where else "") for key in declared)
        for section, declared in row.reads.items()
    }
    return "; ".join(f"{section}: {keys}" for section, keys in shown.items() if keys) or "no key of " + ", ".join(shown)


def _first(function: Callable[..., Any]) -> str:
    """The first sentence of its docstring."""
    return " ".join((function.__doc__ or "").split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
