"""THE log-prob forward: shared-prefix and differentiable; scoring calls it without grad, training with.

Prompts run once, packed in one row without padding, and leave their keys and values; their completions run packed against
those (attention.py), positions restarting at the prompt's length. The last prompt token predicts the first token of every
completion. Shapes: B prompts, N completions, C tokens in the longest completion, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prefdata.errors import EngineError
from prefdata.models.forward import head
from prefdata.models.forward.chunked_head import Asked
from prefdata.models.forward.packed_attention import Packed, Prefixes, packing, run
from prefdata.models.forward.read_positions import head_at, last_layer_at
from prefdata.models.forward.shared_prefix import Prefix, first_ids

Ids = Sequence[Sequence[int]]
TOKEN_NATS, LOW_PRECISION_TOKEN_NATS = 1e-4, 0.1
"""How far a token's log-prob may be from another forward's: at most in fp32, on average in bf16 and fp16, where a logit of 16
to 32 is a multiple of 1/8 (bf16), so that a single token may well differ by that."""


def shares_prefix(model: Any, longest: int) -> bool:
    """Whether this model's attention can share a prefix for rows of `longest` tokens: full attention in every layer,
    or a sliding window that no row reaches; no recurrent state."""
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    if any(k not in ("full_attention", "sliding_attention") for k in kinds):
        return False
    if not getattr(model, "_supports_attention_backend", True) or getattr(model, "_is_stateful", False):
        return False
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in kinds or getattr(config, "layer_types", None) is None
    return not (sliding and window is not None and window < longest)


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


def prefix(model: Any, prompts: Ids, completions: Sequence[Ids] | None = None) -> Prefix:
    """Run the prompts once. Every prompt holds at least one token. `completions`: each prompt's, the only ones that may be
    asked for afterwards; None: any may be, and all logits are kept, however many."""
    if any(len(p) == 0 for p in prompts):
        raise ValueError("an empty prompt predicts nothing: give the tokenizer a bos token or the prompt a text")
    if model.training and getattr(model, "is_gradient_checkpointing", False):
        # recomputed layers would leave other keys and values than those the completions saw
        raise RuntimeError("the model's own gradient checkpointing loses the prompts' gradient: disable it")
    lengths = [len(p) for p in prompts]
    with packing(model) as own:
        last = torch.tensor(lengths, device=model.device).cumsum(0) - 1
        packed = Packed(lengths, own, model.device, ends_only=model.config.get_text_config().num_hidden_layers - 1)
        call = partial(run, model, prompts, [0] * len(prompts), packed)
        with head_at(model, torch.zeros_like(last), last), last_layer_at(model, last):
            if completions is None or head.prefix_fits(model, len(prompts)):
                return Prefix(packed.layers, lengths, call().logits.squeeze(0))
            places, ids = first_ids(completions)
            with head.answering(model, Asked([b for b, _ in places], torch.tensor(ids, device=model.device))):
                return Prefix(packed.layers, lengths, None, call().logits, places)


def candidate_logps(model: Any, shared: Prefix, owner: Sequence[int], completions: Ids) -> Tensor:
    """Log-probs of completions against their prompts' prefix: fp64 sums over the scored ids, [N].

    `owner[n]` is the prompt (0..B-1) of completion n, in ascending order. An empty completion has log-prob 0. log-softmax
    in fp32 (fp64 where the model is fp64), sums in fp64.
    """
    return token_logps(model, shared, owner, completions).double().sum(1)


def token_logps(model: Any, shared: Prefix, owner: Sequence[int], completions: Ids) -> Tensor:
    """As `candidate_logps`, per token: [N, C], 0 at padding."""
    if list(owner) != sorted(owner):
        raise ValueError("owners in ascending order: a prompt's completions lie together")
    ids, mask = pad(completions, "right", model.device)
    if ids.shape[1] == 0:
        return torch.zeros(len(completions), 0, device=model.device)
    first = shared.first_logps(owner, completions, ids[:, 0], mask[:, 0])
    later = first.new_zeros(ids.shape[0], ids.shape[1] - 1)
    row, place = _places([len(c) - 1 for c in completions], model.device)
    if len(row):
        values = _suffix_logps(model, shared, owner, completions, ids[row, place + 1])
        later = later.index_put((row, place), values)
    return torch.cat([first.unsqueeze(1), later], 1)


def _places(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every real position of right-padded rows: [K] each, K the sum of the (positive) lengths."""
    counts = torch.tensor([max(n, 0) for n in lengths], dtype=torch.int64)
    row = torch.repeat_interleave(torch.arange(len(counts)), counts, output_size=sum(max(n, 0) for n in lengths))
    place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return row.to(device), place.to(device)


def _suffix_logps(model: Any, shared: Prefix, owner: Sequence[int], completions: Ids, ids: Tensor) -> Tensor:
    """Log-probs of the completions' tokens but their first ones, which are `ids`: [K], in the completions' order."""
    longer = [(b, c[:-1]) for b, c in zip(owner, completions, strict=True) if len(c) > 1]
    owners, rows = [b for b, _ in longer], [c for _, c in longer]
    with packing(model) as own:
        prefixes = Prefixes(shared.layers, shared.lengths)
        packed = Packed([len(c) for c in rows], own, model.device, owners, prefixes)
        call = partial(run, model, rows, [shared.lengths[b] for b in owners], packed)
        return head.log_probs(model, call, ids, held=shared.logits_bytes)


def sharing_pays(completions: Sequence[Ids]) -> bool:
    """Whether prompts should run once: where some prompt has two completions. The second forward that this takes costs as much
    as some 100 tokens: a batch that saves fewer is within 8 % either way (docs/benchmarks.md: sharing_speed)."""
    return any(len(group) > 1 for group in completions)


def separate_logps(model: Any, prompts: Ids, completions: Ids) -> Tensor:
    """Log-probs of completions with one prompt each, nothing shared: fp64 sums, [N]. One packed forward where the model can,
    else padded rows."""
    longest = max((len(p) + len(c) for p, c in zip(prompts, completions, strict=True)), default=0)
    return (packed_logps if shares_prefix(model, longest) else row_logps)(model, prompts, completions)


def packed_logps(model: Any, prompts: Ids, completions: Ids) -> Tensor:
    """Log-probs by one packed row of all prompt + completion: fp64 sums, [N]."""
    rows = [[*p, *c[:-1]] for p, c in zip(prompts, completions, strict=True)]
    ids = torch.tensor([i for c in completions for i in c], dtype=torch.int64, device=model.device)
    if not len(ids):
        return torch.zeros(len(completions), dtype=torch.float64, device=model.device)
    row, place = _places([len(c) for c in completions], model.device)
    starts = torch.tensor([len(r) for r in rows], device=model.device).cumsum(0)
    read = starts[row] - torch.tensor([len(c) for c in completions], device=model.device)[row] + place
    with packing(model) as own:
        packed = Packed([len(r) for r in rows], own, model.device)
        with last_layer_at(model, read):
            call = partial(run, model, rows, [0] * len(rows), packed)
            values = head.log_probs(model, call, ids, (torch.zeros_like(read), read)).double()
    return values.new_zeros(len(completions)).index_add(0, row, values)


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
    call = partial(model, input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=False)
    values = head.log_probs(model, call, ids[row, inside + 1], (row, inside))
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


def runs(lengths: Sequence[int], most: int | None) -> list[list[int]]:
    """Indices of rows in their order, cut so that a run holds at most `most` tokens or one row (None: one run)."""
    made: list[list[int]] = []
    room = 0
    for k, length in enumerate(lengths):
        if made and (most is None or length <= room):
            made[-1].append(k)
        else:
            made.append([k])
            room = most or 0
        room -= length
    return made


def grouped_logps(model: Any, prompts: Ids, completions: Sequence[Ids], batch_tokens: int | None = None) -> list[Tensor]:
    """Log-probs of each prompt's completions: one fp64 tensor a prompt. Shares the prefix where the model can.

    The prompts run together; then their completions, as many at once as hold `batch_tokens` tokens with their prompts.
    """
    longest = max((len(p) + len(c) for p, group in zip(prompts, completions, strict=True) for c in group), default=0)
    if sharing_pays(completions) and shares_prefix(model, longest):
        return pool_logps(model, prefix(model, prompts, completions), completions, batch_tokens)
    owner, flat = _flat(completions)
    lengths = [len(prompts[b]) + len(c) for b, c in zip(owner, flat, strict=True)]
    cut = batches(lengths, batch_tokens)
    made = [separate_logps(model, [prompts[owner[k]] for k in some], [flat[k] for k in some]) for some in cut]
    return _regrouped(made, cut, completions, model.device)


def pool_logps(model: Any, shared: Prefix, completions: Sequence[Ids], batch_tokens: int | None = None) -> list[Tensor]:
    """Log-probs of each prompt's completions against its prefix: one fp64 tensor a prompt, at most `batch_tokens` tokens at
    once, the prompt counted for each of its completions."""
    owner, flat = _flat(completions)
    cut = runs([shared.lengths[b] + len(c) for b, c in zip(owner, flat, strict=True)], batch_tokens)
    made = [candidate_logps(model, shared, [owner[k] for k in some], [flat[k] for k in some]) for some in cut]
    return _regrouped(made, cut, completions, model.device)


def _flat(completions: Sequence[Ids]) -> tuple[list[int], list[Sequence[int]]]:
    """Each completion's prompt, and the completions."""
    return [b for b, group in enumerate(completions) for _ in group], [c for group in completions for c in group]


def _regrouped(
    made: Sequence[Tensor], cut: Sequence[Sequence[int]], completions: Sequence[Ids], device: torch.device
) -> list[Tensor]:
    """Sums by batch, where batch `cut[i]` holds these completions, as one tensor a prompt."""
    sums = torch.zeros(sum(map(len, completions)), dtype=torch.float64, device=device)
    for some, values in zip(cut, made, strict=True):
        sums = sums.index_put((torch.tensor(some, device=device),), values)
    return list(torch.split(sums, [len(group) for group in completions]))


def token_tolerance(exact: bool) -> float:
    """What `require_equal_rows` allows a token's log-prob to differ by, nats; `exact`: products in fp32 or fp64."""
    return TOKEN_NATS if exact else LOW_PRECISION_TOKEN_NATS


@torch.no_grad()
def require_equal_rows(model: Any, prompts: Ids, completions: Sequence[Ids], exact: bool = True) -> None:
    """Compare the shared-prefix log-probs of a few completions with plain rows, token by token.

    Raises EngineError where one differs by more than TOKEN_NATS: this model's code then does something that packed rows do
    not carry, and nothing it gives can be trusted. In bf16 and fp16 the mean difference may be LOW_PRECISION_TOKEN_NATS;
    `exact`: products are not narrower than the weights.
    Models that share no prefix have nothing to compare.
    """
    owner = [b for b, group in enumerate(completions) for _ in group]
    flat = [c for group in completions for c in group]
    if not shares_prefix(model, max((len(prompts[b]) + len(c) for b, c in zip(owner, flat, strict=True)), default=0)):
        return
    ours = token_logps(model, prefix(model, prompts), owner, flat)
    rows = row_token_logps(model, [prompts[b] for b in owner], flat)
    if not rows.numel():
        return
    if not rows.isfinite().all():  # nothing to compare: whoever asked sees it in the sums
        return
    apart = (ours - rows).abs()
    exact = exact and model.dtype in (torch.float32, torch.float64)
    gap, limit = float(apart.max() if exact else apart.sum() / sum(map(len, flat))), token_tolerance(exact)
    if not gap <= limit:
        raise EngineError(
            f"shared-prefix log-probs differ from plain rows by {gap:.2e} nats on a token (limit {limit})",
            "start-up check",
        )
