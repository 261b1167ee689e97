"""Log-probs without all logits, inside a model's own call: every family against single rows, and what the head may be."""

from typing import Any

import pytest
import torch
import transformers
from allocated import Wide
from models import FAMILIES, VOCABULARY, config, model
from test_forwards import gradients
from test_logprob import COMPLETIONS, PROMPTS, oracle
from test_train import run_settings
from torch import nn

from prefdata.errors import EngineError
from prefdata.models.forward import chunked_head, head, log_softmax, logprob
from prefdata.models.forward.chunked_head import Tail
from train.policy import adapted
from train.settings import LoraSettings

WEIGHTS = torch.tensor([1.0, -2.0, 3.0, 0.5, 7.0, -1.0], dtype=torch.float64)
SCALED = {
    "cohere": (transformers.CohereConfig, {"logit_scale": 0.0625}),
    "granite": (transformers.GraniteConfig, {"logits_scaling": 4.0}),
    "hyperclovax": (transformers.HyperCLOVAXConfig, {"logits_scaling": 0.25}),
}
"""Models that multiply their logits, divide them, and multiply them by a key of the same name."""


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of logits at a time."""
    monkeypatch.setattr(head, "LOGITS_BYTES", 0)


def scaled(family: str) -> Any:
    kind, keys = SCALED[family]
    torch.manual_seed(0)
    shape = config("llama").to_dict()
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
    )
    ends = ("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range")
    made = kind(**{n: shape[n] for n in names + ends}, **keys)
    return transformers.AutoModelForCausalLM.from_config(made).double().eval()


def assert_single_rows(lm: Any, sums: torch.Tensor) -> None:
    """Log-probs of COMPLETIONS to 1e-9, their gradients to 1e-6."""
    exact = torch.stack([oracle(lm, p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group])
    assert (sums - exact).abs().max() < 1e-9
    trained = [p for p in lm.parameters() if p.requires_grad]
    mine = torch.autograd.grad((sums * WEIGHTS).sum(), trained)
    plain = torch.autograd.grad((exact * WEIGHTS).sum(), trained)
    gap = sum(((a - b) ** 2).sum() for a, b in zip(mine, plain, strict=True)) ** 0.5
    assert gap / sum((b**2).sum() for b in plain) ** 0.5 < 1e-6


def flat() -> tuple[list[list[int]], list[list[int]]]:
    """A prompt for each completion, and the completions."""
    pairs = [(p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group]
    return [p for p, _ in pairs], [c for _, c in pairs]


@pytest.mark.parametrize("forward", ["shared", "packed", "rows"])
@pytest.mark.parametrize("family", [*FAMILIES, *SCALED])
def test_log_probs_and_gradients_equal_single_rows(family: str, forward: str, no_room: None) -> None:
    lm = model(family) if family in FAMILIES else scaled(family)
    if forward == "shared":
        sums = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
    else:
        sums = {"packed": logprob.packed_logps, "rows": logprob.row_logps}[forward](lm, *flat())
    assert_single_rows(lm, sums)


def test_tied_embeddings(no_room: None) -> None:
    lm = model(tie_word_embeddings=True)
    assert lm.get_output_embeddings().weight is lm.get_input_embeddings().weight
    assert_single_rows(lm, torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS)))


@pytest.mark.parametrize("modules", [["lm_head"], ["lm_head", "q_proj"], ["q_proj"]])
def test_adapters(modules: list[str], no_room: None) -> None:
    """On the head too, whose own weight is frozen then."""
    lm = adapted(model(), LoraSettings(rank=2, alpha=3.0, modules=modules), 0)
    with torch.no_grad():
        for name, weight in lm.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    assert head.chunkable(lm)
    assert_single_rows(lm, torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS)))


def test_another_kind_of_head_gives_all_logits(no_room: None) -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    lm = model()
    own, lm.lm_head = lm.lm_head, Doubled(32, VOCABULARY, bias=False).double()
    lm.lm_head.weight = own.weight
    assert not head.chunkable(lm)
    assert_single_rows(lm, torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS)))


@pytest.mark.parametrize("done", ["shifted", "squared", "capped"])
def test_a_model_that_does_something_else_to_its_logits_is_refused(done: str, no_room: None) -> None:
    other = {"shifted": lambda x: x + torch.arange(VOCABULARY), "squared": torch.square, "capped": torch.tanh}

    class Own(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **keys: Any) -> Any:
            out = super().forward(*args, **keys)
            out.logits = other[done](out.logits)
            return out

    lm = Own(config("llama")).double().eval()
    with pytest.raises(EngineError, match="Own makes of its head's products something other"):
        logprob.row_logps(lm, *flat())
    assert not lm._forward_hooks
    assert not lm.lm_head._forward_pre_hooks


def test_what_is_no_number_is_none_here_too(no_room: None) -> None:
    """Whoever asked says which weights are none."""
    lm = model()
    with torch.no_grad():
        lm.lm_head.weight.fill_(torch.nan)
        assert torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))[[0, 1, 2]].isnan().all()


def test_what_a_config_names_but_its_model_does_not_do() -> None:
    """One candidate each: multiplied, divided, or left."""
    lm = model()
    lm.config.logits_scaling = 8.0
    assert head.tails(lm) == [Tail(8.0), Tail(0.125), Tail()]
    lm.config.final_logit_softcapping = 30.0
    assert head.tails(lm)[0] == Tail(8.0, 30.0)
    assert Tail() in head.tails(lm)


def test_where_all_logits_fit_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit the log softmax of the model's own logits."""
    monkeypatch.setattr(head, "answering", None)
    lm = model(dtype=torch.float32)
    row = [*PROMPTS[0], *COMPLETIONS[0][0]]
    ours = logprob.row_token_logps(lm, [PROMPTS[0]], [COMPLETIONS[0][0]])[0]
    logits = lm(torch.tensor([row[:-1]]), attention_mask=torch.ones(1, len(row) - 1), use_cache=False).logits[0, 4:]
    assert torch.equal(ours, log_softmax.log_softmax_at(logits, torch.tensor(COMPLETIONS[0][0])))


@pytest.mark.parametrize("name", ["dpo", "mcpo", "sft"])
def test_a_step_is_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, settings = model(), run_settings(negatives={"count": 2, "replacement": True})
    loss, plain = gradients(lm, name, settings)
    monkeypatch.setattr(head, "LOGITS_BYTES", 0)
    again, found = gradients(lm, name, settings)
    assert again == pytest.approx(loss, rel=1e-12)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(found, plain, strict=True))


def test_a_step_in_bf16_with_weights_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products are the same; what is made of them in fp32 differs by the gradient's rounding."""
    lm, settings = model(dtype=torch.float32), run_settings(precision="bfloat16")
    loss, plain = gradients(lm, "dpo", settings)
    monkeypatch.setattr(head, "LOGITS_BYTES", 0)
    again, found = gradients(lm, "dpo", settings)
    assert again == pytest.approx(loss, rel=2**-7)
    assert all(g.dtype == torch.float32 for g in found)
    whole, other = (torch.cat([g.flatten() for g in some]) for some in (plain, found))
    assert torch.cosine_similarity(whole, other, dim=0) > 0.999


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("prompts", "answers"), [(40, 3), (3, 40), (4, 90), (120, 2)])
def test_all_that_is_as_wide_as_the_vocabulary_stays_within_its_room(
    prompts: int, answers: int, grad: bool, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts' logits and their completions', values and gradients, at any number of tokens, near the limit and beyond."""
    columns, most = 1009, 2**20
    monkeypatch.setattr(head, "LOGITS_BYTES", most)
    for blocks in (chunked_head.BLOCK, log_softmax.BLOCK):
        monkeypatch.setitem(blocks, "cpu", 2**12)
    keys = {"final_logit_softcapping": cap, "attn_logit_softcapping": None} if cap else {}
    lm = model("gemma2" if cap else "llama", torch.float32, vocab_size=columns, **keys)
    questions = [[3 + n, 4] for n in range(prompts)]
    completions = [[[5 + n, 6, 7]] * max(1, answers // prompts) + [[8, 9]] for n in range(prompts)]
    with Wide(columns) as wide, torch.set_grad_enabled(grad):
        sums = torch.cat(logprob.grouped_logps(lm, questions, completions))
        if grad:
            sums.sum().backward()
    assert 0 < wide.most <= most
    del sums
    assert wide.held == 0
