"""TRL's own DPOTrainer behind a line protocol, in TRL's own environment (`make bench-env`): JSON in, JSON out.

{"do": "load", "model": folder, "loss": "sigmoid", "beta": 0.1, ...}   a trainer with these settings
{"do": "loss", "pairs": [...], "gradient": name}                       its loss and a weight's gradient
{"do": "step", "batches": [[...]]}                                     one optimizer step; seconds
{"do": "score", "batches": [[...]]}                                    its reference pass; seconds and log-probs
{"do": "cpo", "loss": "simpo", "chosen": [...], "rejected": [...]}     the loss of its CPO trainer, from log-probs
{"do": "kto", "model": folder, "reference": folder, "rows": [...]}     its KTO trainer's loss, z and a weight's gradient

A pair is {"prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps"}, a row {"prompt_ids",
"completion_ids", "label"}.
"""

import json
import os
import sys
import tempfile
import time
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

Pair = dict[str, Any]


class Worker:
    """Holds one trainer at a time."""

    def load(self, model: str, loss: str, beta: float, learning_rate: float = 1e-6, **options: Any) -> dict[str, Any]:
        config = DPOConfig(
            output_dir=tempfile.mkdtemp(),
            loss_type=[loss],
            beta=beta,
            max_length=None,
            precompute_ref_log_probs=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            disable_dropout=True,
            **options,
        )
        lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        text = {"prompt": "w3 w4", "chosen": " w5", "rejected": " w6"}
        self.trainer = DPOTrainer(
            model=lm,
            args=config,
            train_dataset=Dataset.from_list([text] * 2),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        self.model = self.trainer.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, fused=True)
        import trl

        return {"version": trl.__version__}

    def loss(self, pairs: list[Pair], gradient: str) -> dict[str, Any]:
        self.model.zero_grad()
        loss = self.trainer.compute_loss(self.model, self.trainer.data_collator(pairs))
        loss.backward()
        found = dict(self.model.named_parameters())[gradient].grad
        return {"loss": float(loss.detach()), "gradient": found.flatten().tolist()}

    def step(self, batches: list[list[Pair]]) -> dict[str, Any]:
        inputs = [self.trainer.data_collator(b) for b in batches]
        total = sum(map(len, batches))
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        for some, given in zip(inputs, batches, strict=True):
            (self.trainer.compute_loss(self.model, some) * len(given) / total).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"seconds": time.perf_counter() - started}

    def score(self, batches: list[list[Pair]]) -> dict[str, Any]:
        inputs = [self.trainer.data_collator(b) for b in batches]
        started = time.perf_counter()
        made = [self.trainer.compute_ref_log_probs(self.model, some) for some in inputs]
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "logps": [[c.tolist(), r.tolist()] for c, r in made]}

    def cpo(self, loss: str, beta: float, gamma: float, chosen: list[float], rejected: list[float]) -> dict[str, Any]:
        from trl.experimental.cpo import CPOTrainer

        knobs = {"alpha": 0.0, "loss_type": loss, "beta": beta, "simpo_gamma": gamma, "label_smoothing": 0.0}
        own = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **knobs)
        given = (torch.tensor(v, dtype=torch.float64) for v in (chosen, rejected))
        return {"losses": CPOTrainer.cpo_loss(own, *given)[0].tolist()}

    def kto(self, model: str, reference: str, rows: list[Pair], gradient: str, **knobs: Any) -> dict[str, Any]:
        from trl import KTOConfig, KTOTrainer

        quiet = {"bf16": False, "use_cpu": True, "report_to": [], "disable_tqdm": True, "gradient_checkpointing": False}
        config = KTOConfig(output_dir=tempfile.mkdtemp(), max_length=None, disable_dropout=True, **quiet, **knobs)
        text = {"prompt": "w3 w4", "completion": " w5", "label": True}
        policy, frozen = (AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in (model, reference))
        trainer = KTOTrainer(
            model=policy,
            ref_model=frozen,
            args=config,
            train_dataset=Dataset.from_list([text, {**text, "label": False}]),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        before = [rows[-1], *rows[:-1]]  # as its preparation turns a batch's completions
        given = [{**r, "KL_completion_ids": b["completion_ids"]} for r, b in zip(rows, before, strict=True)]
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(given))
        loss.backward()
        found = dict(trainer.model.named_parameters())[gradient].grad
        return {"loss": float(loss.detach()), "z": trainer._metrics["eval"]["kl"][-1], "gradient": found.flatten().tolist()}


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    worker, out = Worker(), os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked.pop("do"))(**asked)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
