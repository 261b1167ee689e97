"""The card's sections on use: snippets that run as they are, licence and citation."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefdata.output.card.card_making import HUB
from prefdata.output.escape import markdown, visible
from prefdata.recipe.settings.whole import Settings

Facts = Mapping[str, Any]
PAPERS = {
    "hard negatives that follow the policy (MC-PO)": "2502.04567",
    "several references (MRPO)": "2405.16388",
}
"""What sets of candidates with log-probs are made for."""


def snippets(settings: Settings, configs: Sequence[str]) -> str:
    """How to load the set, train on it with TRL, and with prefdata. `configs`: the names that are published."""
    place = settings.publish.repo_id or settings.name
    where = "MODEL is a model of yours, a Hub id or a folder."
    where += "\n\n" if settings.publish.repo_id else f" `{place}` is the folder of this card: put its path there.\n\n"
    parts = [_block("python", f"import datasets\n\n{_loads(place, configs)}")]
    if "preference" in configs:
        parts.append(f"With TRL, on the pairs:\n\n{_block('python', TRL.replace('PLACE', place))}")
    if "sets" in configs:
        data = f"dataset: {place}, revision: COMMIT" if settings.publish.repo_id else f"path: {place}"
        asked = TRAIN.replace("DATA", data)
        commit = " `COMMIT` is the hash of the revision that you use." if settings.publish.repo_id else ""
        parts.append(
            "With prefdata, on all candidates (`pip install prefdata`, then `prefdata train mcpo.yaml`);"
            f" its references are read from the set.{commit}\n\n{_block('yaml', asked)}"
        )
    return where + "\n\n".join(parts)


def _loads(place: str, configs: Sequence[str]) -> str:
    width = max(map(len, configs), default=0)
    return "\n".join(f'{_variable(c):{width}} = datasets.load_dataset("{place}", "{c}")' for c in configs)


def _variable(config: str) -> str:
    return re.sub(r"\W", "_", config)


TRL = """from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

pairs = load_dataset("PLACE", "preference", split="train")
trainer = DPOTrainer("MODEL", args=DPOConfig(output_dir="dpo"), train_dataset=pairs)
trainer.train()"""
TRAIN = """objective: mcpo
data: {DATA, format: sets}
model: MODEL
output: mcpo
epochs: 1"""


def _block(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def licence(settings: Settings, facts: Facts, header: Mapping[str, Any]) -> str:
    """The licence of the whole, and those of the sources."""
    named, link = header.get("license_name"), header.get("license_link")
    said = f"Licence of this set: {markdown(header['license'])}" + (f" ({markdown(named)})" if named else "")
    said += f", {markdown(link)}." if link else "."
    sources = "; ".join(f"{s['source']}: {s['license']} ({s['prompts']} prompts)" for s in facts["sources"])
    return f"{said} Licences of the sources, whose terms hold for their prompts and answers: {markdown(sources) or 'none'}."


def citation(settings: Settings) -> str:
    """BibTeX of the set, and the papers that it goes by."""
    card, place = settings.card, settings.publish.repo_id
    fields = {
        "title": "{" + _plain(card.title) + "}",
        "author": " and ".join(_plain(a) for a in card.authors),
        "howpublished": f"\\url{{{HUB}/{place}}}" if place else "",
        "note": "Preference data set, made by prefdata",
    }
    listed = "\n".join(f"  {name} = {{{value}}}," for name, value in fields.items() if value)
    key = re.sub(r"[^a-z0-9]+", "-", (place or settings.name).lower()).strip("-")
    papers = [*(f"- [arXiv {p}](https://arxiv.org/abs/{p})" for p in card.papers)]
    papers += [
        f"- sets of candidates with log-probs are for {what}: [arXiv {p}](https://arxiv.org/abs/{p})"
        for what, p in PAPERS.items()
    ]
    return f"{_block('bibtex', f'@misc{{{key},{chr(10)}{listed}{chr(10)}}}')}\n\nPapers:\n\n" + "\n".join(papers)


def _plain(text: str) -> str:
    """A text inside a BibTeX entry: without the signs that end one, or a fence."""
    return re.sub(r"[{}\\`%$#~^&<>\"]", "", visible(text))
