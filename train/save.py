"""What a finished run leaves: the model as transformers loads it, its card, metrics and curves."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prefdata import files
from prefdata.models import RECEIPT, content_revision
from prefdata.run import Run
from prefdata.tokens import Encoder
from train import card, checkpoint, curves
from train.policy import merged


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


def save(run: Run, name: str, trained: Trained) -> Path:
    """Write the model, beside it best/ (where the run was evaluated), adapter/ (of LoRA) and optimizer/ (where it is kept),
    then metrics, curves and the card; the receipt train.json last."""
    folder = Path(run.model_path(f"run:{name}"))
    (folder / RECEIPT).unlink(missing_ok=True)  # an old receipt vouches for no new weights
    files.atomic_folder(folder, lambda part: _write(part, trained))
    rows = trained.rows
    files.atomic_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    files.atomic_write(folder / "metrics.png", lambda path: curves.draw(rows, name, path))
    files.atomic_text(folder / "metrics.html", curves.page_of(rows, name))
    files.atomic_text(folder / "README.md", card.text(name, trained.facts, rows, run.settings))
    receipt = {"revision": content_revision(folder), "steps": len(rows), **trained.facts}
    files.atomic_text(folder / RECEIPT, json.dumps(receipt, indent=1, sort_keys=True))
    return folder


def _write(folder: Path, trained: Trained) -> None:
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
    model.save_pretrained(folder, max_shard_size="1TB")
    trained.encoder.tokenizer.save_pretrained(folder)


def _write_adapter(folder: Path, trained: Trained) -> None:
    """The adapters alone, as peft loads them."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    (config,) = trained.model.peft_config.values()
    config.save_pretrained(folder)
    weights = get_peft_model_state_dict(trained.model)
    # the names that peft's own wrapper would give them
    save_file({f"base_model.model.{name}": w for name, w in weights.items()}, folder / "adapter_model.safetensors")
