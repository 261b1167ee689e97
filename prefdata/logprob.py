"""THE log-prob forward: shared-prefix and differentiable; scoring calls it without grad, training with.

A prompt runs once with its K/V cache; its candidates run against that cache, positions restarting at the prompt's
length. The last prompt token predicts the first token of every candidate. Shapes: B prompts, P prompt tokens
(left-padded), N candidates, C completion tokens (right-padded), V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Prefix:
    """Prompts after their forward: per layer keys and values [B, heads, P, d], mask [B, P], lengths [B], the final
    logits [B, V] that predict each candidate's first token."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    lengths: Tensor
    logits: Tensor

    def detached(self) -> "Prefix":
        """The same prefix without graph, for forwards whose gradient is not wanted."""
        layers = tuple((k.detach(), v.detach()) for k, v in self.layers)
        return Prefix(layers, self.mask, self.lengths, self.logits.detach())


def shares_prefix(model: Any, longest: int) -> bool:
    """Whether this model's attention can share a prefix for rows of `longest` tokens: full attention in every layer,
    or a sliding window that no row reaches; no recurrent state."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    if any(k not in ("full_attention", "sliding_attention") for k in kinds):
        return False
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    return not (sliding and window is not None and window < longest) and not getattr(model, "_is_stateful", False)


def pad(rows: Ids, side: str, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Rows of ids as [rows, longest] int64 (pad id 0, masked) and their mask, padded on the left or the right."""
    longest = max((len(r) for r in rows), default=0)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.int64)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)


def prefix(model: Any, prompts: Ids) -> Prefix:
    """Run the prompts once. Every prompt holds at least one token."""
    if any(len(p) == 0 for p in prompts):
        raise ValueError("an empty prompt predicts nothing: give the tokenizer a bos token or the prompt a text")
    ids, mask = pad(prompts, "left", model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=_new_cache(),
        use_cache=True,
        logits_to_keep=1,
    )
    if out.past_key_values is None:
        raise RuntimeError("the model returned no K/V cache (gradient checkpointing of the library drops it)")
    layers = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
    return Prefix(layers, mask, mask.sum(1), out.logits[:, -1])


def _new_cache() -> Any:
    """A cache of full layers only (sliding ones would cut the prefix; `shares_prefix` has excluded short windows)."""
    from transformers import DynamicCache

    return DynamicCache()


def candidate_logps(model: Any, shared: Prefix, owner: Sequence[int], completions: Ids) -> Tensor:
    """Log-probs of completions against their prompts' prefix: fp64 sums over the scored ids, [N].

    `owner[n]` is the prompt (0..B-1) of completion n. An empty completion has log-prob 0. log-softmax in fp32 (fp64
    where the model is fp64), sums in fp64.
    """
    return token_logps(model, shared, owner, completions).double().sum(1)


def token_logps(model: Any, shared: Prefix, owner: Sequence[int], completions: Ids) -> Tensor:
    """As `candidate_logps`, per token: [N, C], 0 at padding."""
    ids, mask = pad(completions, "right", model.device)
    if ids.shape[1] == 0:
        return torch.zeros(len(completions), 0, device=model.device)
    rows = torch.as_tensor(owner, dtype=torch.int64, device=model.device)
    first = shared.logits[rows].unsqueeze(1)
    logits = torch.cat([first, _suffix_logits(model, shared, rows, ids, mask)], 1) if ids.shape[1] > 1 else first
    return _gather(logits, ids) * mask


def expand(shared: Prefix, rows: Tensor) -> tuple[Any, Tensor]:
    """A cache and mask with one row of the prefix for each entry of `rows` [N], gradients flowing to the prefix."""
    cache = _new_cache()
    for index, (keys, values) in enumerate(shared.layers):
        cache.update(keys.index_select(0, rows), values.index_select(0, rows), index)
    return cache, shared.mask[rows]


def _suffix_logits(model: Any, shared: Prefix, rows: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits after each completion token but the last: [N, C-1, V]."""
    cache, prompt_mask = expand(shared, rows)
    steps = torch.arange(ids.shape[1] - 1, device=ids.device)
    out = model(
        input_ids=ids[:, :-1],
        attention_mask=torch.cat([prompt_mask, mask[:, :-1]], 1),
        position_ids=shared.lengths[rows].unsqueeze(1) + steps,
        past_key_values=cache,
        use_cache=True,
    )
    return torch.as_tensor(out.logits)


def _gather(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits)[ids], in fp32 at least: [N, C]."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(2, ids.unsqueeze(2)).squeeze(2) - wide.logsumexp(2)


def row_logps(model: Any, prompts: Ids, completions: Ids) -> Tensor:
    """Log-probs by plain padded rows of prompt + completion, one prompt per completion: the fallback and the check.

    fp64 sums, [N].
    """
    return row_token_logps(model, prompts, completions).double().sum(1)


def row_token_logps(model: Any, prompts: Ids, completions: Ids) -> Tensor:
    """As `row_logps`, per token: [N, C], 0 at padding. Rows are right-padded, logits kept for the tail only."""
    longest = max((len(c) for c in completions), default=0)
    if longest == 0:
        return torch.zeros(len(completions), 0, device=model.device)
    ids, mask = pad([[*p, *c] for p, c in zip(prompts, completions, strict=True)], "right", model.device)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    targets, real = pad(completions, "right", model.device)
    starts = torch.tensor([len(p) - 1 for p in prompts], device=model.device)
    places = (starts.unsqueeze(1) + torch.arange(longest, device=model.device)).clamp(max=ids.shape[1] - 1)
    picked = logits.gather(1, places.unsqueeze(2).expand(-1, -1, logits.shape[2]))
    return _gather(picked, targets) * real


def grouped_logps(model: Any, prompts: Ids, completions: Sequence[Ids]) -> list[Tensor]:
    """Log-probs of each prompt's completions: one fp64 tensor a prompt. Shares the prefix where the model can."""
    owner = [b for b, group in enumerate(completions) for _ in group]
    flat = [c for group in completions for c in group]
    longest = max((len(prompts[b]) + len(c) for b, c in zip(owner, flat, strict=True)), default=0)
    if shares_prefix(model, longest):
        sums = candidate_logps(model, prefix(model, prompts), owner, flat)
    else:
        sums = row_logps(model, [prompts[b] for b in owner], flat)
    return list(torch.split(sums, [len(group) for group in completions]))
