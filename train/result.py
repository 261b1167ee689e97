"""What a finished run leaves: the model as transformers loads it, its card, metrics and curves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prefdata.models.identity import RECEIPT, content_revision
from prefdata.models.tokens import Encoder
from prefdata.output import curves
from prefdata.tables import atomic
from train import card, checkpoint
from train.policy import merged
from train.saving import save_model, save_tensors, weight_hashes


@dataclass(frozen=True)
class Trained:
    """A finished run. `moments` and `kept`: the optimizer's tensors and the state that a run which continues from this one
    starts with."""

    model: Any
    encoder: Encoder
    moments: dict[str, Tensor]
    scratch: Path
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    kept: dict[str, Any]


def save(folder: Path, name: str, trained: Trained, about: card.About) -> None:
    """Write the model, beside it best/ (where the run was evaluated), adapter/ (of LoRA) and optimizer/ (where it is kept),
    metrics, curves, the card and the receipt train.json: all of it appears at once, in the place of what was there."""
    atomic.atomic_folder(folder, lambda part: _write(part, name, trained, about))


def _write(folder: Path, name: str, trained: Trained, about: card.About) -> None:
    rows = trained.rows
    _write_weights(folder, trained)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    curves.draw(rows, name, folder / "metrics.png")
    (folder / "metrics.html").write_text(curves.page_of({name: rows}, f"{name}: {len(rows)} steps"), encoding="utf-8")
    (folder / "README.md").write_text(card.text(name, trained.facts, rows, about), encoding="utf-8")
    made = sorted([*(p.name for p in folder.iterdir()), RECEIPT])
    known = {"revision": content_revision(folder), "weights": weight_hashes(folder)}
    receipt = {**known, "steps": len(rows), "files": made, **trained.facts}
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=1, sort_keys=True), encoding="utf-8")


def _write_weights(folder: Path, trained: Trained) -> None:
    _write_model(folder, trained)
    if trained.facts["settings"]["keep_optimizer"]:
        checkpoint.keep(folder / checkpoint.OPTIMIZER, trained.moments, trained.kept)
    if trained.facts["best"] is not None:
        checkpoint.load_best(trained.scratch, trained.model)
        _write_model(folder / "best", trained)


def _write_model(folder: Path, trained: Trained) -> None:
    model = trained.model
    if trained.facts["settings"]["lora"] is not None:
        _write_adapter(folder / "adapter", trained)
        model = merged(model)
    save_model(model, folder)
    trained.encoder.tokenizer.save_pretrained(folder)


def _write_adapter(folder: Path, trained: Trained) -> None:
    """The adapters alone, as peft loads them."""
    from peft import get_peft_model_state_dict

    (config,) = trained.model.peft_config.values()
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(trained.model)
    # the names that peft's own wrapper would give them
    save_tensors({f"base_model.model.{name}": w for name, w in weights.items()}, folder / "adapter_model.safetensors")
