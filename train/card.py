"""The card of a trained model: what it was trained on, how, from where, what was measured, and how to use it. Computed facts
only; of local models and files no path."""

import json
from dataclasses import dataclass
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

import prefdata
from prefdata.models.identity import public_name
from prefdata.output.card.card_merge import BEGIN, END
from prefdata.output.curves import METRICS
from prefdata.output.escape import markdown, visible
from prefdata.recipe.settings.whole import Settings
from train.objectives.losses import LOSSES
from train.objectives.registry import objective_of
from train.settings import UNPAIRED

Facts = dict[str, Any]
LAST = ("loss", "accuracy", "margin", "eval_loss", "eval_accuracy", "eval_margin")
OF_BASE = "of-the-base-model-and-the-data"
"""The name of a licence that is not ours to state: that of the model a run started from binds too."""


@dataclass(frozen=True)
class About:
    """What the run was trained on and compared with: names of the references, (name@revision, licence, data set on the Hub) of
    the sources, which part of an online run it is, and the set: its name, and where it is published on the Hub."""

    references: tuple[str, ...] = ()
    sources: tuple[tuple[str, str, str | None], ...] = ()
    online: str | None = None
    set_name: str = "rows given in memory"
    published: str | None = None

    @classmethod
    def of(cls, recipe: Settings) -> "About":
        """Of the recipe that the run's set was made by: a segment's names the segment."""
        sources = tuple((s.revisioned, s.license, s.dataset) for s in recipe.sources.sources)
        made = recipe.segment
        online = (
            f"segment {made.number} of {made.count} of {made.run}: trained on answers of {public_name(made.start)}"
            if made
            else None
        )
        references = tuple(f"{r.name} ({public_name(r.model)})" for r in recipe.score.references)
        return cls(references, sources, online, recipe.name, recipe.publish.repo_id)

    @property
    def datasets(self) -> list[str]:
        """Data sets on the Hub: the published set where there is one, else those of the sources."""
        return [self.published] if self.published else [dataset for _, _, dataset in self.sources if dataset is not None]


@dataclass(frozen=True)
class Place:
    """Where the model lies: the folder of the card, or a repository. `weights`: which of the run's; `base`: what it was trained
    from, on the Hub, where that is known; `license`: as its owner states it."""

    repo_id: str = "."
    weights: Literal["last", "best", "adapter"] = "last"
    base: str | None = None
    license: str | None = None


def text(name: str, facts: Facts, rows: list[Facts], about: About, place: Place = Place()) -> str:
    """README.md of the model's folder or repository, front matter included."""
    if place.weights == "best":
        rows = rows[: facts["best"]["step"]]
    settings = public(facts["settings"])
    objective = objective_of(name.partition("/")[0], settings["set"] == UNPAIRED)
    lines = [
        f"# {markdown(name)}",
        "",
        f"A causal LM trained by prefdata {prefdata.__version__} (`prefdata train`). {markdown(objective.paper)}.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {markdown(str(value))} |" for key, value in _rows(objective, settings, facts, rows, about, place)),
        "",
        "## Use",
        "",
        *(["`.` is the folder of this card; on the Hub it is the repository's name.", ""] if place.repo_id == "." else []),
        "```python",
        _usage(settings, place),
        "```",
        "",
        "## Settings",
        "",
        "All of them, defaults included; the same settings, data and start give the same losses on the same machine.",
        "",
        "```json",
        json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=True),
        "```",
        "",
        "`metrics.html` has the curves and what each metric is, `metrics.jsonl` the numbers, `train.json` what identifies it.",
        "",
    ]
    return f"---\n{_front(name, settings, rows, about, place)}\n---\n\n{BEGIN}\n" + "\n".join([*lines, END, ""])


def _usage(settings: Facts, place: Place) -> str:
    """Python that loads the model and samples from it."""
    loads = LOADS_ADAPTER if place.weights == "adapter" else LOADS
    prompt = CHAT if settings["template"] == "chat" else PLAIN
    return f"{loads.replace('PLACE', json.dumps(place.repo_id))}\n{prompt}\n{SAMPLES}"


LOADS = """from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained(PLACE), AutoTokenizer.from_pretrained(PLACE)"""
LOADS_ADAPTER = """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model, tokenizer = AutoPeftModelForCausalLM.from_pretrained(PLACE), AutoTokenizer.from_pretrained(PLACE)"""
SAMPLES = """output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
CHAT = """messages = [{"role": "user", "content": "What do you say to this?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")"""
PLAIN = """inputs = tokenizer("What do you say to this?", return_tensors="pt", return_token_type_ids=False)"""


def public(settings: Facts) -> Facts:
    """A run's settings without paths of this machine: of a local model or tokenizer the folder's name."""
    init = settings["init"]
    named = {"model": settings["model"] and public_name(settings["model"])}
    tokenizer = {"tokenizer": public_name(init["tokenizer"])} if init and init["tokenizer"] else {}
    return {**settings, **named, "init": init and {**init, **tokenizer}}


def _front(name: str, settings: Facts, rows: list[Facts], about: About, place: Place) -> str:
    """What the Hub reads. A model or set is named where it is one on the Hub, by its pinned revision."""
    license = place.license or _licence(settings, about)
    data = ModelCardData(
        library_name="peft" if place.weights == "adapter" else "transformers",
        pipeline_tag="text-generation",
        tags=["prefdata", "preference", name.partition("/")[0]],
        base_model=place.base or (settings["model"] if settings["revision"] is not None else None),
        datasets=about.datasets or None,
        model_name=name,
        eval_results=_results(settings, rows, about) or None,
        license=license,
        **({"license_name": OF_BASE} if license == "other" else {}),  # type: ignore[arg-type]
    )
    return str(data.to_yaml()).strip()


def _licence(settings: Facts, about: About) -> str:
    """Of a fresh model the licence that its sources share; one that started from another is bound by that one's too."""
    known = {licence for _, licence, _ in about.sources}
    return known.pop() if settings["init"] and len(known) == 1 and known != {"unknown"} else "other"


def _results(settings: Facts, rows: list[Facts], about: About) -> list[EvalResult]:
    """The last evaluation on held-out rows, which is of these weights; none where the run was not evaluated."""
    last = rows[-1] if rows else {}
    split = settings["evaluation"]["split"]
    return [
        EvalResult(
            task_type="text-generation",
            task_name="preference",
            dataset_type=about.published or about.set_name,
            dataset_name=f"{about.set_name}, held-out rows",
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric}: {visible(METRICS[metric])}",
            metric_value=round(last[f"eval_{metric}"], 6),
        )
        for metric in METRICS
        if last.get(f"eval_{metric}") is not None
    ]


def _best(step: int, place: Place) -> str:
    where = ", in best/" if place.repo_id == "." else ": these weights" if place.weights == "best" else ""
    return f"step {step}{where}"


def _rows(
    objective: Any, settings: Facts, facts: Facts, rows: list[Facts], about: About, place: Place
) -> list[tuple[str, Any]]:
    start = "a fresh model" if settings["init"] else f"{settings['model']} ({settings['revision'] or facts['start']})"
    last = {k: rows[-1][k] for k in LAST if rows and rows[-1].get(k) is not None}
    return [
        ("loss", LOSSES[objective.loss].formula),
        ("negatives", objective.negatives),
        ("references", ", ".join(about.references) if objective.references != "none" else "none"),
        ("started from", start),
        *([("online", about.online)] if about.online else []),
        ("data", f"{', '.join(source for source, _, _ in about.sources) or 'rows given in memory'}; rows {facts['data']}"),
        *([("published set", about.published)] if about.published else []),
        *([("labels", facts["labels"])] if facts.get("labels") else []),
        ("left out", facts["left_out"]),
        ("licences of the sources", ", ".join(sorted({licence for _, licence, _ in about.sources})) or "unknown"),
        ("optimizer steps", len(rows)),
        ("seed", facts["seed"]),
        ("last step", ", ".join(f"{k} {v:.4f}" for k, v in last.items()) or "n/a"),
        *([("best evaluation", _best(facts["best"]["step"], place))] if facts["best"] else []),
    ]
