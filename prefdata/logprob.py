"""THE log-prob forward: shared-prefix and differentiable; scoring calls it without grad, training with.

A prompt runs once with its K/V cache; its candidates run against that cache, positions restarting at the prompt's
length. The last prompt token predicts the first token of every candidate. Shapes: B prompts, P prompt tokens
(left-padded), N candidates, C completion tokens (right-padded), V vocabulary.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
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
    wide = _wide(shared.logits)
    first = (wide[rows, ids[:, 0]] - wide.logsumexp(1)[rows]) * mask[:, 0]
    later = first.new_zeros(ids.shape[0], ids.shape[1] - 1)
    row, place = _places([len(c) - 1 for c in completions], model.device)
    if len(row):
        values = _log_softmax_at(_suffix_logits(model, shared, rows, ids, mask, row, place), ids[row, place + 1])
        later = later.index_put((row, place), values)
    return torch.cat([first.unsqueeze(1), later], 1)


def _places(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every real position of right-padded rows: [K] each, K the sum of the (positive) lengths."""
    counts = torch.tensor([max(n, 0) for n in lengths], dtype=torch.int64)
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return row.to(device), place.to(device)


@contextmanager
def _head_at(model: Any, row: Tensor, place: Tensor) -> Iterator[None]:
    """Within: the model's head sees its hidden states at these positions alone, as one row of K, and gives [1, K, V].

    Logits of padding and prompts are the largest tensors of a forward and nobody needs them. The model's own forward
    still runs to its end, so soft caps and scales of its logits apply.
    """

    def picked(head: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][row, place].unsqueeze(0), *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(picked)
    try:
        yield
    finally:
        handle.remove()


def expand(shared: Prefix, rows: Tensor) -> tuple[Any, Tensor]:
    """A cache and mask with one row of the prefix for each entry of `rows` [N], gradients flowing to the prefix."""
    cache = _new_cache()
    for index, (keys, values) in enumerate(shared.layers):
        cache.update(keys.index_select(0, rows), values.index_select(0, rows), index)
    return cache, shared.mask[rows]


def _joined(old: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """The rows of `old` [B, heads, P, d], each followed by its `new` [N, heads, C, d]; without graph, in one copy."""
    if torch.is_grad_enabled():
        return torch.cat([old.index_select(0, rows), new], 2)
    made = new.new_empty(new.shape[0], new.shape[1], old.shape[2] + new.shape[2], new.shape[3])
    torch.index_select(old, 0, rows, out=made[:, :, : old.shape[2]])
    made[:, :, old.shape[2] :] = new
    return made


def _seen(prompt_mask: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What each completion token sees, additive: its prompt and the completion up to itself, [N, 1, width, P + width].

    Made once instead of once a layer. Padding on the right needs no mask: nothing real comes after it.
    """
    before = prompt_mask.bool()[:, None, None, :].expand(-1, 1, width, -1)
    own = torch.ones(width, width, dtype=torch.bool, device=prompt_mask.device).tril().expand(len(prompt_mask), 1, -1, -1)
    hidden = ~torch.cat([before, own], 3)
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, torch.finfo(dtype).min)


def _borrowed(shared: Prefix, rows: Tensor) -> Any:
    """A cache for one forward: each layer joins the prefix to its new keys and values when it comes to it, and keeps
    nothing, where `expand` holds every layer's copy at once."""
    from transformers import Cache
    from transformers.cache_utils import DynamicLayer

    class Borrowed(DynamicLayer):  # type: ignore[misc]
        def __init__(self, keys: Tensor, values: Tensor) -> None:
            super().__init__()
            self.keys, self.values, self.is_initialized = keys, values, True

        def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            k, v = (_joined(old, rows, new) for old, new in ((self.keys, keys), (self.values, values)))
            return k, v

    return Cache(layers=[Borrowed(keys, values) for keys, values in shared.layers])


def _suffix_logits(model: Any, shared: Prefix, rows: Tensor, ids: Tensor, mask: Tensor, row: Tensor, place: Tensor) -> Tensor:
    """Logits after the completion tokens at (row, place): [K, V]."""
    steps = torch.arange(ids.shape[1] - 1, device=ids.device)
    with _head_at(model, row, place):
        out = model(
            input_ids=ids[:, :-1],
            attention_mask=_seen(shared.mask[rows], ids.shape[1] - 1, shared.logits.dtype),
            position_ids=shared.lengths[rows].unsqueeze(1) + steps,
            past_key_values=_borrowed(shared, rows),
            use_cache=True,
        )
    return torch.as_tensor(out.logits)[0]


def _wide(logits: Tensor) -> Tensor:
    """In fp32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_softmax_at(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits [K, V])[ids [K]]: [K]; one fused pass over the logits."""
    return -F.cross_entropy(_wide(logits), ids, reduction="none")


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
    row, place = _places([len(c) for c in completions], model.device)
    inside = place + torch.tensor([len(p) - 1 for p in prompts], device=model.device)[row]
    with _head_at(model, row, inside):
        logits = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits[0]
    values = _log_softmax_at(logits, ids[row, inside + 1])
    return values.new_zeros(len(completions), longest).index_put((row, place), values)


def batches(lengths: Sequence[int], most: int | None) -> list[list[int]]:
    """Indices of rows, the shortest first, so that a batch's rows times its longest are at most `most` (None: one)."""
    made: list[list[int]] = []
    for k in sorted(range(len(lengths)), key=lambda k: lengths[k]):
        if made and (most is None or (len(made[-1]) + 1) * lengths[k] <= most):
            made[-1].append(k)
        else:
            made.append([k])
    return made


def grouped_logps(model: Any, prompts: Ids, completions: Sequence[Ids], batch_tokens: int | None = None) -> list[Tensor]:
    """Log-probs of each prompt's completions: one fp64 tensor a prompt. Shares the prefix where the model can.

    The prompts run together; their completions run by length, at most `batch_tokens` tokens (the prompts' share and
    padding included) at once, whichever prompt they belong to: hardly any padding.
    """
    owner = [b for b, group in enumerate(completions) for _ in group]
    flat = [c for group in completions for c in group]
    lengths = [len(prompts[b]) + len(c) for b, c in zip(owner, flat, strict=True)]
    sums = torch.zeros(len(flat), dtype=torch.float64, device=model.device)
    if shares_prefix(model, max(lengths, default=0)):
        shared, width = prefix(model, prompts), max(len(p) for p in prompts)
        for some in batches([width + len(c) for c in flat], batch_tokens):
            made = candidate_logps(model, shared, [owner[k] for k in some], [flat[k] for k in some])
            sums = sums.index_put((torch.tensor(some, device=sums.device),), made)
    else:
        for some in batches(lengths, batch_tokens):
            made = row_logps(model, [prompts[owner[k]] for k in some], [flat[k] for k in some])
            sums = sums.index_put((torch.tensor(some, device=sums.device),), made)
    return list(torch.split(sums, [len(group) for group in completions]))
