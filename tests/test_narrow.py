"""Modules that work at some positions only: the values are those of whole rows, and the work is really left out."""

from typing import Any

import pytest
import torch
import transformers
from models import FAMILIES, config, model
from test_logprob import COMPLETIONS, PROMPTS, oracle

from prefdata.models.forward import logprob, read_positions

FLAT = [(p, c) for p, group in zip(PROMPTS, COMPLETIONS, strict=True) for c in group]


def places_seen(lm: Any, part: str) -> list[int]:
    """How many places of a row each layer's part came to see, in order."""
    seen = list[int]()
    for name, module in lm.named_modules():
        if name.endswith(part):
            module.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[1]))
    return seen


def test_the_last_layer_of_prompts_works_at_their_ends_alone() -> None:
    lm = model()
    mlp, queries, keys = (places_seen(lm, part) for part in (".mlp", ".q_proj", ".k_proj"))
    logprob.prefix(lm, PROMPTS)
    tokens = sum(map(len, PROMPTS))
    assert mlp == queries == [tokens, len(PROMPTS)]
    assert keys == [tokens, tokens], "completions read the keys of every token"
    lm(input_ids=torch.tensor([[3, 4, 5]]))
    assert mlp[2:] == [3, 3], "afterwards the model is itself"


def test_rows_that_share_nothing_work_in_the_last_layer_where_tokens_are_predicted() -> None:
    lm = model()
    mlp = places_seen(lm, ".mlp")
    logprob.packed_logps(lm, [p for p, _ in FLAT], [c for _, c in FLAT])
    assert mlp == [sum(len(p) + max(len(c) - 1, 0) for p, c in FLAT), sum(len(c) for _, c in FLAT)]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_equal_single_rows(family: str) -> None:
    """fp64: log-probs to 1e-9, gradients to 1e-6 of their norm."""
    lm = model(family)
    parameters, weights = list(lm.parameters()), torch.arange(1.0, len(FLAT) + 1, dtype=torch.float64)
    ours = logprob.packed_logps(lm, [p for p, _ in FLAT], [c for _, c in FLAT])
    exact = torch.stack([oracle(lm, p, c) for p, c in FLAT])
    assert (ours - exact).abs().max() < 1e-9
    mine, plain = (torch.autograd.grad((v * weights).sum(), parameters) for v in (ours, exact))
    for a, b in zip(mine, plain, strict=True):
        assert (a - b).norm() <= 1e-6 * (1 + b.norm())


def test_completions_without_tokens_have_no_log_prob() -> None:
    assert logprob.packed_logps(model(), [[1, 2], [3]], [[], []]).tolist() == [0.0, 0.0]


def test_a_mixture_of_experts_gives_its_routing_beside() -> None:
    """Its MLP returns a tuple or a tensor, by version; the values are those of single rows."""
    torch.manual_seed(0)
    shape = {k: v for k, v in config("llama").to_dict().items() if k in ("vocab_size", "hidden_size", "intermediate_size")}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    lm = transformers.MixtralForCausalLM(transformers.MixtralConfig(**shape, initializer_range=0.3)).double().eval()
    lm.set_experts_implementation("eager")
    with torch.no_grad():
        ours = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
        exact = torch.stack([oracle(lm, p, c) for p, c in FLAT])
    assert (ours - exact).abs().max() < 1e-9


def test_a_module_that_is_called_in_another_way_does_all_the_work() -> None:
    """By keyword, or with tokens in one dimension less, as some experts are."""
    linear, row = torch.nn.Linear(4, 3), torch.randn(1, 5, 4)
    whole = linear(row)
    with read_positions._at(linear, torch.tensor([1, 3])):
        assert torch.equal(linear(row[0]), whole[0])
        assert torch.equal(linear(input=row), whole)
        assert torch.allclose(linear(row)[:, [1, 3]], whole[:, [1, 3]])
        assert not linear(row)[:, [0, 2, 4]].any()


def test_modules_in_modules_are_narrowed_once() -> None:
    lm = model()
    expected = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))

    class Outer(torch.nn.Module):
        def __init__(self, mlp: torch.nn.Module) -> None:
            super().__init__()
            self.mlp = mlp

        def forward(self, hidden: torch.Tensor) -> Any:
            return self.mlp(hidden)

    lm.model.layers[-1].mlp = Outer(lm.model.layers[-1].mlp)
    found = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
    assert (found - expected).abs().max() < 1e-9


def test_a_model_whose_last_layer_cannot_be_told_does_all_the_work() -> None:
    lm = model()
    expected = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
    mlp, lm.config.num_hidden_layers = places_seen(lm, ".mlp"), 3
    assert not list(read_positions.last_layer(lm).children())
    found = torch.cat(logprob.grouped_logps(lm, PROMPTS, COMPLETIONS))
    assert mlp[:2] == [sum(map(len, PROMPTS))] * 2
    assert (found - expected).abs().max() < 1e-9
