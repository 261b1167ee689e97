"""A trained model to the Hub: files, card and a receipt without paths of this machine, in one commit that was read back."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefdata.errors import PublishError
from prefdata.models.identity import RECEIPT, WEIGHTS
from prefdata.output import gates
from prefdata.output.hub.commit import Facts, Wanted, plan, publish
from prefdata.output.hub.hub import Hub
from prefdata.output.hub.manifest import CARD, MANIFEST, MODEL, stored_of
from prefdata.recipe import places
from prefdata.recipe.results import Results
from prefdata.recipe.settings.output import PublishedModel
from prefdata.recipe.settings.whole import Settings
from prefdata.tables import atomic
from train import card
from train.hub_models import base_of
from train.resolve import of_set, resolve

NOT_LOOKED_AT = ("tokenizer.json", "vocab.json", "merges.txt", "metrics.html")
"""Texts that no gate reads: words of a tokenizer, which came with its model, and a page made of metrics.jsonl."""


def push(results: Results, repo_id: str) -> None:
    """Push a model of publish.models and write publish/models/<repo_id>.json. Raises PublishError."""
    with _files(results, repo_id) as (hub, wanted):
        done = publish(hub, wanted, results.settings.publish.attempts)
    print(done.told(), file=sys.stderr)
    receipt = {**done.facts(), "files": dict(wanted.hashes)}
    atomic.atomic_text(results.path(places.model_receipt(repo_id)), json.dumps(receipt, indent=1, sort_keys=True))


def foretell(results: Results, repo_id: str) -> None:
    """Say what pushing it would change, and change nothing. Raises PublishError."""
    with _files(results, repo_id) as (hub, wanted):
        print(plan(hub, wanted).foretold(repo_id))


@contextmanager
def _files(results: Results, repo_id: str) -> Iterator[tuple[Hub, Wanted]]:
    """The repository, and the files for it, which are there as long as the block runs."""
    (model,) = (m for m in results.settings.publish.models if m.repo_id == repo_id)
    built = results.path(f"publish/models/.built/{repo_id}")
    try:
        shutil.rmtree(built, ignore_errors=True)
        built.mkdir(parents=True)
        wanted = _wanted(results.settings, model, Path(results.model_path(f"run:{model.run}")), built)
        _require_clean(results, model, wanted)
        yield Hub(results.settings.publish.of(model), MODEL), wanted
    finally:
        atomic.remove_folder(built)


def _wanted(settings: Settings, model: PublishedModel, folder: Path, built: Path) -> Wanted:
    """The files in `built`: links to those of the run's folder, and those of which this machine's paths are taken out."""
    facts = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    base = base_of(settings, resolve(settings, model.run))
    chosen = _chosen(folder, model.weights)
    for name, path in chosen.items():
        (built / name).symlink_to(path.resolve())
    known = facts.get("weights", {})  # which earlier versions did not write
    weights = {n: known.get(p.relative_to(folder).as_posix()) for n, p in chosen.items() if p.suffix == WEIGHTS}
    _rewrite(built / RECEIPT, {**_public(facts), "weights": weights})
    if model.weights == "adapter":
        adapter = json.loads((built / "adapter_config.json").read_text(encoding="utf-8"))
        _rewrite(built / "adapter_config.json", {**adapter, "base_model_name_or_path": base})
    about = card.About.of(of_set(settings, facts["settings"]["set"]))
    text = card.text(model.run, facts, rows, about, card.Place(model.repo_id, model.weights, base, model.license))
    hashes = {path.name: str(stored_of(path).sha256) for path in sorted(built.iterdir())}
    _require_as_trained(folder, weights, hashes)
    return Wanted(built, hashes, text, _identity(model, facts))


def _chosen(folder: Path, weights: str) -> dict[str, Path]:
    """The files of a run's folder that are pushed, by the name that they get."""
    whole = {p.name: p for p in folder.iterdir() if p.is_file() and MODEL(p.name)}
    if weights == "last":
        return whole
    inner = {p.name: p for p in (folder / weights).iterdir() if p.is_file() and MODEL(p.name)}
    of_model = ("model", "config.json", "generation_config.json")  # what an adapter's base has
    return {n: p for n, p in whole.items() if not n.startswith(of_model)} | inner


def _require_as_trained(folder: Path, weights: Mapping[str, str | None], hashes: Mapping[str, str]) -> None:
    """Raise PublishError where a file of weights is not the one that the run wrote."""
    if other := sorted(name for name, known in weights.items() if known != hashes[name]):
        raise PublishError(f"{other[0]} is not what the run wrote", str(folder), "remove the folder, and train it again")


def _public(facts: Facts) -> Facts:
    """The receipt as strangers may read it: which files lay in the folder is nobody's business."""
    return {**{k: v for k, v in facts.items() if k != "files"}, "settings": card.public(facts["settings"])}


def _identity(model: PublishedModel, facts: Facts) -> Facts:
    return {"run": model.run, "weights": model.weights, "content": facts["revision"], "data": facts["data"]}


def _rewrite(path: Path, value: Mapping[str, Any]) -> None:
    """A file of its own in the place of a link."""
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")


def _require_clean(results: Results, model: PublishedModel, wanted: Wanted) -> None:
    """Raise PublishError where a secret, an address or a path of this machine would be pushed."""
    suffixes = (".json", ".jsonl", ".jinja")
    files = [n for n in wanted.hashes if n.endswith(suffixes) and n not in NOT_LOOKED_AT]
    texts = {name: (wanted.built / name).read_text(encoding="utf-8") for name in files}
    texts |= {CARD: wanted.card, MANIFEST: json.dumps(wanted.facts, ensure_ascii=False)}
    local = gates.local_paths(results.settings, [results.root, Path.cwd()])
    started = Path(resolve(results.settings, model.run).model or "").expanduser()
    local += [str(started)] if started.is_absolute() else []
    if found := gates.contents(wanted.built, texts, results.settings.publish.allow, local):
        raise PublishError(found, f"publish.models ({model.repo_id})")
