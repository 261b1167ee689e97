"""Our losses and gradients against TRL's, from the same weights and rows: what both have.

TRL's pair losses run through its DPOTrainer, forward and all; those of its CPO trainer from the same log-probs. Its bco_pair
has no running mean, so ours is compared with its delta at 0; its sft is per token of the batch, as ours. Its KTO trainer, on
labelled answers, takes z from the answer before where ours takes it from the next: it gets the batch in the other order.

make bench-env && python benchmarks/oracle_trl.py >> benchmarks/results/oracle_trl.jsonl && python benchmarks/render.py
"""

import sys
import tempfile
from dataclasses import replace

import llama
import torch
from figures import line
from transformers import LlamaForCausalLM
from trl_peer import Peer, pairs, peer

from prefdata.models.forward import logprob
from train.batch_statistics import RunningMean
from train.examples import Example
from train.metrics import Metrics
from train.objectives.compared import Compared
from train.objectives.losses import LOSSES
from train.objectives.registry import OBJECTIVES, ON_LABELS
from train.settings import TrainingSettings, with_defaults
from train.step import Step

TRL = {
    "dpo": ("sigmoid", {}),
    "ipo": ("ipo", {}),
    "exo": ("exo_pair", {"label_smoothing": 1e-3}),
    "nca": ("nca_pair", {}),
    "bco": ("bco_pair", {}),
    "sppo": ("sppo_hard", {}),
    "apo_zero": ("apo_zero", {}),
    "apo_down": ("apo_down", {}),
    "sft": ("sft", {}),
}
"""Ours: TRL's loss_type and what else it is told."""
WEIGHT = "model.layers.0.self_attn.k_proj.weight"
"""Its gradient passes the prompts' keys: what a step without the prompts' gradient would get wrong first."""
VOCABULARY = 64
BETA = 0.3


def tiny() -> LlamaForCausalLM:
    """Grouped keys and values, as real models have them."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return llama.llama(
        vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, **shape
    ).eval()


def rows() -> list[Example]:
    """Six prompts with two answers each, of many lengths; log-probs of a reference that is another model."""
    draw = torch.Generator().manual_seed(1)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high, (1,), generator=draw))
        return [int(i) for i in torch.randint(3, VOCABULARY, (length,), generator=draw)]

    made = []
    for number in range(6):
        completions = [ids(1, 9), ids(1, 9)]
        logps = [[-4.5 * len(c) for c in completions]]
        made.append(Example(f"{number:016x}", ids(2, 20), completions, ["a", "b"], ["source"] * 2, logps, []))
    return made


def ours(model: LlamaForCausalLM, name: str, data: list[Example]) -> tuple[float, torch.Tensor]:
    objective = OBJECTIVES[name]
    settings = with_defaults(TrainingSettings.model_validate({"loss": {"beta": BETA}}), objective)
    step = Step(objective, settings, 0)
    model.zero_grad()
    counts = {"prompt": len(data), "token": sum(len(e.completions[0]) for e in data)}
    given = [replace(e, completions=e.completions[:1], candidate_ids=["a"]) for e in data] if name == "sft" else data
    loss = sum(values.sum() / counts[per] for per, values in step.values(model, given, 0, Metrics(), 0.0).items())
    loss.backward()
    return float(loss.detach()), dict(model.named_parameters())[WEIGHT].grad.flatten().clone()


def compare(trl: Peer, folder: str, model: LlamaForCausalLM, data: list[Example]) -> None:
    for name, (loss_type, options) in TRL.items():
        version = trl.ask("load", model=folder, loss=loss_type, beta=BETA, **options)["version"]
        theirs = trl.ask("loss", pairs=pairs(data), gradient=WEIGHT)
        loss, gradient = ours(model, name, data)
        line(f"trl_loss_{name}", abs(loss - theirs["loss"]) / max(abs(loss), 1.0), "relative difference", "<= 1e-5")
        apart = (gradient - torch.tensor(theirs["gradient"])).norm() / gradient.norm()
        line(f"trl_gradient_{name}", float(apart), "relative difference", "<= 1e-5")
    print(f"TRL {version}", file=sys.stderr)


def compare_cpo(trl: Peer) -> None:
    """SimPO and CPO without its NLL term, whose scaling differs: TRL's takes means over tokens for simpo."""
    draw = torch.Generator().manual_seed(2)
    sums = torch.rand(2, 8, generator=draw, dtype=torch.float64) * -40
    tokens = torch.randint(1, 30, (2, 8), generator=draw).double()
    for name, loss_type, gamma in (("simpo", "simpo", 1.0), ("cpo", "sigmoid", 0.0)):
        seen = sums / tokens if name == "simpo" else sums
        knobs = {"beta": 2.0, "margin": gamma, "nll_weight": 0.0}
        settings = TrainingSettings.model_validate({"loss": knobs}).loss
        zeros = torch.zeros(1, 8, 1, dtype=torch.float64)
        compared = Compared(
            sums[0], sums[1].unsqueeze(1), zeros, zeros, zeros + 1, torch.ones(8, 1).double(), tokens[0], tokens[1].unsqueeze(1)
        )
        mine = LOSSES[OBJECTIVES[name].loss].function(compared, settings)["prompt"]
        theirs = trl.ask("cpo", loss=loss_type, beta=2.0, gamma=gamma, chosen=seen[0].tolist(), rejected=seen[1].tolist())
        apart = (mine - torch.tensor(theirs["losses"], dtype=torch.float64)).abs().max()
        line(f"trl_loss_{name}", float(apart), "largest difference", "<= 1e-5")


def labelled(data: list[Example]) -> list[Example]:
    """The same rows as answers with a label, each of a prompt of its own: two of three are desirable."""
    return [
        replace(e, completions=e.completions[:1], candidate_ids=[e.prompt_id], desirable=i % 3 > 0) for i, e in enumerate(data)
    ]


def compare_kto(trl: Peer, folder: str, model: LlamaForCausalLM, data: list[Example]) -> None:
    """KTO on labelled answers, its reference another model: less sure of itself, so that z is above 0."""
    reference = tiny()
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.2)
    llama.write(reference, f"{folder}/reference")
    knobs = {"beta": BETA, "desirable_weight": 1.0, "undesirable_weight": 1.5}
    settings = with_defaults(TrainingSettings.model_validate({"loss": knobs}), ON_LABELS["kto"])
    step = Step(ON_LABELS["kto"], settings, 0, reference)
    with torch.no_grad():
        sums = logprob.grouped_logps(reference, [e.prompt for e in data], [e.completions for e in data])
    data = [replace(e, logps=[s.tolist()]) for e, s in zip(data, sums, strict=True)]
    z = step.shift(model, data, 0, RunningMean())
    assert z is not None
    assert z > 0, "at 0 it would be compared with nothing"
    model.zero_grad()
    loss = step.values(model, data, 0, Metrics(), z)["prompt"].mean()
    loss.backward()
    gradient = dict(model.named_parameters())[WEIGHT].grad.flatten().clone()
    rows = [{"prompt_ids": e.prompt, "completion_ids": e.completions[0], "label": e.desirable} for e in reversed(data)]
    theirs = trl.ask("kto", model=folder, reference=f"{folder}/reference", rows=rows, gradient=WEIGHT, **knobs)
    line("trl_z_kto_labelled", abs(z - theirs["z"]) / max(z, 1.0), "relative difference", "<= 1e-5")
    line("trl_loss_kto_labelled", abs(float(loss) - theirs["loss"]) / max(float(loss), 1.0), "relative difference", "<= 1e-5")
    apart = (gradient - torch.tensor(theirs["gradient"])).norm() / gradient.norm()
    line("trl_gradient_kto_labelled", float(apart), "relative difference", "<= 1e-5")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, peer() as trl:
        if trl is None:
            sys.exit(1)
        model = tiny()
        llama.write(model, folder)
        compare(trl, folder, model, rows())
        compare_cpo(trl)
        compare_kto(trl, folder, model, labelled(rows()))


if __name__ == "__main__":
    main()
