"""Attention of packed rows: many token sequences in one row without padding, each seeing itself and its own prefix.

The model runs over one row [1, T] that holds every sequence (a "segment") behind the other; everything but attention works
on single tokens and needs to know nothing. Attention comes here: a segment sees itself causally, and a completion's segment
also sees its prompt, whose keys and values an earlier packed row left. They are read in place, whatever the number of
completions. Three exact ways, one chosen by what the model and the device can do:

- split_attention.py: attention within the segment and attention to the prefix, each by a fused kernel, joined by their
  log-sum-exp. Plain scaled dot products on a CPU.
- flex.py: one kernel under a block mask. Plain scaled dot products on a GPU that computes it rightly.
- `_joined`: segments padded, prefixes repeated, and the model's own attention under a mask. Anything else.

Shapes: T tokens in the row, N segments, C tokens in the longest, P in the longest prefix, h heads, d head width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from sys import modules
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from prefdata.models.forward import flash_attention, flex_attention, split_attention
from prefdata.models.forward.norms import norming
from prefdata.models.forward.rotary import rotating

NAME = "prefdata_packed"
KeysValues = tuple[Tensor, Tensor]
"""A layer's keys and values after position embedding: [1, h, tokens, d] each."""
EXTRAS = ("softcap", "s_aux", "position_bias", "head_mask")
"""What attention functions of transformers take beyond scaled dot products; the fused kernels know none of them."""


@dataclass(frozen=True)
class Prefixes:
    """Keys and values of packed prompts by layer, and how many tokens each prompt has."""

    layers: dict[int, KeysValues]
    lengths: Sequence[int]


@dataclass(frozen=True)
class Packed:
    """One packed row: tokens of each segment, and which of `prefixes` each one sees (in ascending order).

    `layers` collects the row's own keys and values as the model comes by. `own` names the model's own attention. In the layer
    `ends_only` nobody reads what any but a segment's last token attends to.
    """

    lengths: Sequence[int]
    own: str
    device: torch.device
    owners: Sequence[int] = ()
    prefixes: Prefixes | None = None
    layers: dict[int, KeysValues] = field(default_factory=dict)
    ends_only: int | None = None

    @cached_property
    def spans(self) -> list[slice]:
        """Where each segment lies."""
        return _spans(self.lengths)

    @cached_property
    def split_places(self) -> split_attention.Places:
        """For the kernels of all layers."""
        return split_attention.places(self.lengths, self.owners, self.prefixes.lengths if self.prefixes else ())

    @cached_property
    def block_mask(self) -> Any:
        """What each token sees, for all layers."""
        return flex_attention.block_mask(self.lengths, self.owners, self.prefixes.lengths if self.prefixes else (), self.device)

    @cached_property
    def flash_places(self) -> flash_attention.Places:
        """For the kernels of all layers."""
        prompts = self.prefixes.lengths if self.prefixes else ()
        return flash_attention.places(self.lengths, self.owners, prompts, self.device)

    @cached_property
    def places(self) -> Tensor:
        """Where in the row each segment's tokens lie: [N, C]; at padding some token's."""
        return _index(self.spans, self.device)

    @cached_property
    def before(self) -> Tensor:
        """Where in the packed prompts each segment's prefix lies: [N, P]; at padding some token's."""
        assert self.prefixes is not None
        places = _spans(self.prefixes.lengths)
        return _index([places[o] for o in self.owners], self.device)

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        """Segment and column of the row's tokens in [N, C]: [T] each."""
        lengths = torch.tensor(self.lengths, device=self.device)
        columns = torch.arange(self.places.shape[1], device=self.device)
        found = (columns < lengths[:, None]).nonzero(as_tuple=True)
        return found[0], found[1]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """What each token sees, additive: its prefix, and its segment up to itself: [N, 1, C, P + C]."""
        width = self.places.shape[1]
        seen = torch.ones(width, width, dtype=torch.bool, device=self.device).tril().expand(len(self.lengths), 1, -1, -1)
        if self.prefixes is not None:
            lengths = torch.tensor([self.prefixes.lengths[o] for o in self.owners], device=self.device)
            known = torch.arange(self.before.shape[1], device=self.device) < lengths[:, None]
            seen = torch.cat([known[:, None, None, :].expand(-1, 1, width, -1), seen], 3)
        return torch.zeros(seen.shape, dtype=dtype, device=self.device).masked_fill_(~seen, torch.finfo(dtype).min)


class Carried:
    """A packed row among the arguments of a model's call. Sharded modules look for tensors in dicts, lists and dataclasses
    among theirs and hand copies on: what a layer leaves in a copy is lost, so this is none of these."""

    __slots__ = ("row",)

    def __init__(self, row: Packed) -> None:
        self.row = row


def _spans(lengths: Sequence[int]) -> list[slice]:
    return [slice(stop - length, stop) for length, stop in zip(lengths, accumulate(lengths), strict=True)]


def _index(spans: Sequence[slice], device: torch.device) -> Tensor:
    """Places of each span's tokens, the last one's again where it is shorter: [spans, longest]."""
    longest = max(s.stop - s.start for s in spans)
    starts, stops = (torch.tensor(v, device=device) for v in zip(*[(s.start, s.stop) for s in spans], strict=True))
    return torch.minimum(starts[:, None] + torch.arange(longest, device=device), stops[:, None] - 1)


@contextmanager
def packing(model: Any) -> Iterator[str]:
    """Within: the model's attention is this module's, for calls that pass `packed`, and its positions and norms run by
    rotary.py and norms.py; gives the name of its own attention."""
    config = model.config.get_text_config()
    own = config._attn_implementation
    config._attn_implementation = NAME
    try:
        with rotating(model), norming(model):
            yield own
    finally:
        config._attn_implementation = own


def run(model: Any, rows: Sequence[Sequence[int]], starts: Sequence[int], packed: Packed) -> Any:
    """The model's output over the packed rows; row n's positions begin at starts[n]."""
    device = packed.device
    ids = torch.tensor([i for row in rows for i in row], device=device)
    positions = torch.cat([torch.arange(s, s + len(row), device=device) for s, row in zip(starts, rows, strict=True)])
    return model(
        input_ids=ids.unsqueeze(0),
        position_ids=positions.unsqueeze(0),
        # four dimensions: transformers makes no mask of its own; of no width: whoever used it would fail, not err
        attention_mask=torch.empty(1, 1, 1, 0, device=device),
        use_cache=False,
        packed=Carried(packed),
    )


@torch.compiler.disable  # type: ignore[untyped-decorator]  # segments differ from row to row
def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, packed: Carried, **options: Any
) -> tuple[Tensor, None]:
    """Attention of a packed row, as transformers calls it: query [1, h, T, d] -> [1, T, h, d]."""
    row = packed.row
    if torch.is_autocast_enabled(query.device.type):  # positions are added in fp32, values never see them
        query, key, value = (x.to(torch.get_autocast_dtype(query.device.type)) for x in (query, key, value))
    # a layer computed again (activation checkpointing) leaves what completions already read
    row.layers.setdefault(module.layer_idx, (key, value))
    prefix = row.prefixes.layers[module.layer_idx] if row.prefixes is not None else None
    way = _way(query, key) if _plain(query, value, row.own, options) else _joined
    return way(module, query, key, value, prefix, row, **options), None


def _plain(query: Tensor, value: Tensor, own: str, options: dict[str, Any]) -> bool:
    """Whether this is nothing but scaled dot products, of heads as wide as their values."""
    extras = any(options.get(name) is not None for name in EXTRAS) or options.get("dropout")
    return own == "sdpa" and query.shape[-1] == value.shape[-1] and not extras


def _way(query: Tensor, key: Tensor) -> Callable[..., Tensor]:
    """For plain scaled dot products, the fastest that this device has."""
    device = query.device
    if device.type == "cpu":
        return _split
    if device.type != "cuda":
        return _joined
    shape = (query.shape[1], key.shape[1], query.shape[3], query.dtype, device)
    if flash_attention.works(*shape):
        return _flashed
    return _flexed if flex_attention.works(*shape) else _joined


def _flashed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, prefix: KeysValues | None, packed: Packed, **options: Any
) -> Tensor:
    """Two kernels, within the segments and to the prompts."""
    return flash_attention.attend(query, key, value, prefix, packed.flash_places, options.get("scaling"))


def _flexed(
    module: Any, query: Tensor, key: Tensor, value: Tensor, prefix: KeysValues | None, packed: Packed, **options: Any
) -> Tensor:
    """One kernel over the prompts' keys and the row's own."""
    if prefix is not None:
        key, value = torch.cat([prefix[0], key], 2), torch.cat([prefix[1], value], 2)
    return flex_attention.attend(query, key, value, packed.block_mask, options.get("scaling")).transpose(1, 2)


def _split(
    module: Any, query: Tensor, key: Tensor, value: Tensor, prefix: KeysValues | None, packed: Packed, **options: Any
) -> Tensor:
    """A kernel for each segment and each prompt's segments."""
    scale = options.get("scaling")
    if prefix is None and module.layer_idx == packed.ends_only:
        return split_attention.last_only(query, key, value, packed.lengths, scale)
    return split_attention.attend(query, key, value, prefix, packed.split_places, scale)


def _joined(
    module: Any, query: Tensor, key: Tensor, value: Tensor, prefix: KeysValues | None, packed: Packed, **options: Any
) -> Tensor:
    """Padded segments behind their repeated prefixes under a mask, by the model's own attention."""
    q, k, v = (x[0][:, packed.places].transpose(0, 1) for x in (query, key, value))
    if prefix is not None:
        old = [x[0][:, packed.before].transpose(0, 1) for x in prefix]
        k, v = torch.cat([old[0], k], 2), torch.cat([old[1], v], 2)
    out, _ = _own(module, packed.own)(module, q, k, v, packed.mask(query.dtype), **options)
    return out[packed.real].unsqueeze(0)


def _own(module: Any, name: str) -> Callable[..., tuple[Tensor, Any]]:
    """The attention function that the model would call: each file of transformers' models has its own eager one."""
    if name == "eager":
        return modules[type(module).__module__].eager_attention_forward  # type: ignore[no-any-return]
    return ALL_ATTENTION_FUNCTIONS[name]  # type: ignore[no-any-return]


AttentionInterface.register(NAME, attend)
