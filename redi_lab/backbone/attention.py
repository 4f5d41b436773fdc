"""Exact attention over packed rows, through transformers' attention registry.

transformers' own packed path builds a dense T × T mask for SDPA, and leaks across sequences when an attention mask is
passed or the cache is left on. Here each sequence attends to itself alone. Rows of short sequences on a GPU, in half
precision, take one call of torch's flash attention for sequences of different lengths. Elsewhere it is either one call
over an (n × longest) grid, where causality alone keeps padding out of every real token's sight, or one call per
sequence, whichever is the cheaper.

Models that this does not fit are fed padded grids and use transformers' own attention (`to_grid`, `from_grid`).
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from redi_lab.backbone.attention_blocks import blocked_causal_attention
from redi_lab.data.packing import MicroBatch
from redi_lab.errors import UserError

PACKED_SDPA = "packed_sdpa"
PADDED = "padded"
"""Not the name of an attention: the model is fed grids instead of rows, and uses its own."""
CELLS_OF_A_CALL = {"cpu": 10_000, "other": 1_000_000}
"""What one more call costs, in cells of the score matrix that could be computed in the same time."""
LONG = 2048
"""Mean tokens of a row's sequences from which calls of cuDNN's kernel outrun one call of the flash kernel.

Forward and backward on one H100, torch 2.11: 0.74 of the flash kernel's time for 1 × 19,800 tokens, 0.78 for
10 × 3,960, and 3.5 times as long for 60 × 660, where the calls themselves take the time.
"""
_FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


def packed_arguments(batch: MicroBatch) -> dict[str, Any]:
    """What `packed_sdpa` needs to know, as keyword arguments of a transformers model."""
    return {name: getattr(batch, name) for name in ("boundaries", "segment_lengths", "dense_slots")}


def own_attention(config: Any) -> str:
    """The fastest attention of transformers that computes what a model's configuration means."""
    # SDPA has no soft-capping of scores, and transformers does not say so.
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else "sdpa"


def packed_sdpa(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...] | None = None,
    dense_slots: Tensor | None = None,
    boundaries: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row.

    Args:
        module: the attention layer, which is not used (grouped heads are seen from the shapes).
        query: (1, heads, T, d).
        key: (1, kv_heads, T, d).
        value: (1, kv_heads, T, d).
        attention_mask: must be None; transformers makes none for an attention without a mask function.
        segment_lengths: lengths of the n sequences, adding up to T.
        dense_slots: (T,) where each token lies in the (n × longest) grid.
        boundaries: (n + 1,) int32, where sequences begin and end.
        scaling: factor of the scores; default 1/√d.
        dropout: attention dropout.
        sliding_window: refused where a sequence is longer, for the window would be ignored.
        softcap: refused.
        s_aux: attention sinks, refused.

    Returns:
        (1, T, heads, d) and None for the weights.

    Raises:
        UserError: the model needs what this function does not do, or a sequence outgrows its sliding window.
        NotImplementedError: the row is not described as packed.
    """
    if attention_mask is not None or segment_lengths is None or dense_slots is None:
        raise NotImplementedError(f"{PACKED_SDPA} attention takes packed rows and no mask")
    if softcap is not None or s_aux is not None:
        raise UserError(
            f"model.path: {PACKED_SDPA} attention has neither score soft-capping nor attention sinks;"
            f" set model.attention={PADDED}"
        )
    longest = max(segment_lengths)
    if sliding_window is not None and longest > sliding_window:
        raise UserError(
            f"a sequence of {longest} tokens exceeds the sliding window of {sliding_window}, which {PACKED_SDPA}"
            f" attention does not have: lower data.max_sequence_tokens or set model.attention={PADDED}"
        )

    if query.dtype != value.dtype:  # under autocast, rotary embeddings leave queries and keys in fp32
        query, key = query.to(value.dtype), key.to(value.dtype)
    is_short = query.shape[2] < LONG * len(segment_lengths)
    if boundaries is not None and dropout == 0.0 and is_short and _has_flash(query):
        return _flash(query, key, value, boundaries, longest, scaling), None
    attend = partial(_attend, scale=scaling, dropout=dropout)
    if _is_grid_dearer(segment_lengths, query.device.type):
        parts = zip(*(torch.split(x, list(segment_lengths), dim=2) for x in (query, key, value)), strict=True)
        output = torch.cat([attend(q, k, v) for q, k, v in parts], dim=2)
        return output.transpose(1, 2), None

    q, k, v = (
        to_grid(x.squeeze(0).transpose(0, 1), dense_slots, segment_lengths).transpose(1, 2) for x in (query, key, value)
    )
    output = attend(q, k, v)  # (n, heads, longest, d)
    return from_grid(output.transpose(1, 2), dense_slots).unsqueeze(0), None


def _has_flash(query: Tensor) -> bool:
    """Whether torch has a flash attention kernel for heads like these, (1, heads, T, d)."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def _flash(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, scale: float | None) -> Tensor:
    """(1, heads, T, d) → (1, T, heads, d) in one call; `ends` (n + 1,) int32 says where sequences begin and end."""
    known = inspect.signature(varlen_attn).parameters  # torch has changed them from version to version
    options: dict[str, Any] = {"is_causal": True} if "is_causal" in known else {"window_size": (-1, 0)}
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    if q.shape[1] != k.shape[1] and "enable_gqa" in known:
        options["enable_gqa"] = True
    elif q.shape[1] != k.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    output = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scale, **options)
    assert isinstance(output, Tensor)  # log-sum-exps come with it on request alone
    return output.unsqueeze(0)


def _attend(query: Tensor, key: Tensor, value: Tensor, *, scale: float | None, dropout: float) -> Tensor:
    """(n, heads, L, d) causal attention, by the fastest way that computes it."""
    # Only under autocast: weights that are themselves bfloat16 are compared with the model's own attention, to the bit.
    if query.dtype == torch.bfloat16 and dropout == 0.0 and torch.is_autocast_enabled("cpu"):
        return blocked_causal_attention(query, key, value, scale)
    is_grouped = query.shape[1] != key.shape[1]
    # torch itself prefers the flash kernel, which took twice as long at 19,800 tokens.
    with sdpa_kernel(_FASTEST_FIRST, set_priority=True) if query.device.type == "cuda" else nullcontext():
        return scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=is_grouped
        )


def _is_grid_dearer(lengths: tuple[int, ...], device_type: str) -> bool:
    """Whether the padding of a grid costs more than a call for each sequence."""
    call = CELLS_OF_A_CALL.get(device_type, CELLS_OF_A_CALL["other"])
    return len(lengths) * max(lengths) ** 2 + call > sum(length**2 + call for length in lengths)


def to_grid(row: Tensor, slots: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(T, ...) of n sequences → (n, longest, ...), zeros where no token lies; `slots` (T,) says where each does."""
    grid = row.new_zeros(len(lengths) * max(lengths), *row.shape[1:]).index_copy(0, slots, row)
    return grid.view(len(lengths), max(lengths), *row.shape[1:])


def from_grid(grid: Tensor, slots: Tensor) -> Tensor:
    """(n, longest, ...) → (T, ...), the inverse of `to_grid`."""
    return grid.flatten(0, 1).index_select(0, slots)


# Without a mask function of that name: transformers then makes no mask, and does not ask the GPU whether it needs one.
AttentionInterface.register(PACKED_SDPA, packed_sdpa)
