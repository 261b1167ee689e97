"""TRL's trainers on a published set, in an environment that has TRL: the lines of docs/consumers.md, then one step.

python trl_reader.py LINES.json MODEL: {"DPO": "...", ...}, the lines of each; prints the losses as JSON.
"""

import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
import trl

KINDS = {name: (getattr(trl, f"{name}Trainer"), getattr(trl, f"{name}Config")) for name in ("DPO", "Reward", "KTO", "SFT")}


def loss_of(name: str, lines: str, model: str) -> float:
    """Run the lines, which make `trainer`, then train for a step."""
    trainer, config = KINDS[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    kind = transformers.AutoModelForSequenceClassification if name == "Reward" else transformers.AutoModelForCausalLM
    extra = {"num_labels": 1} if name == "Reward" else {}
    lm = kind.from_pretrained(model, dtype=torch.float32, **extra)
    lm.config.pad_token_id = tokenizer.pad_token_id
    made: dict[str, Any] = {
        f"{name}Trainer": trainer,
        "model": lm,
        "tokenizer": tokenizer,
        "args": config(
            output_dir=tempfile.mkdtemp(),
            max_steps=1,
            per_device_train_batch_size=2,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
            save_strategy="no",
        ),
    }
    exec(lines, made)
    return float(made["trainer"].train().training_loss)


def main() -> None:
    """Run all that are asked for."""
    asked = json.loads(Path(sys.argv[1]).read_text())
    losses = {name: loss_of(name, lines, sys.argv[2]) for name, lines in asked.items()}
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
