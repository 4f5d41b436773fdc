"""Softmax of a chunk of logits as one Triton kernel: log-probs, entropy, and the gradient in place of the logits.

What `redi_lab.losses.softmax` does in ten passes through memory is two here: one reads a row for its normaliser,
one overwrites it while it still is in the cache. No gradient is left out for being small: what a rejected token loses
goes to rare tokens.

Triton comes with torch's builds for GPUs. It is imported where the kernel is first wanted, never on a CPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 8192  # columns that a program holds at a time
WARPS = 16


@triton.jit
def _softmax(  # type: ignore[no-untyped-def]
    logits,
    targets,
    grads,
    logps,
    entropies,
    width: tl.constexpr,
    scale: tl.constexpr,
    softcap: tl.constexpr,  # 0: none
    has_grads: tl.constexpr,
    has_entropy: tl.constexpr,
    block: tl.constexpr,
):
    """One program a row of `width` columns; see `softmax_`."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * width
    target = tl.load(targets + row)
    # Read before the first reduction, at which all threads meet: later it may be overwritten already.
    chosen = _to_logits(tl.load(line + target).to(tl.float32), scale, softcap)
    largest = -float("inf")
    total = 0.0
    for start in range(0, width, block):
        columns = start + tl.arange(0, block)
        x = tl.load(line + columns, mask=columns < width, other=0.0).to(tl.float32)
        x = tl.where(columns < width, _to_logits(x, scale, softcap), -float("inf"))
        higher = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(x - higher), 0)
        largest = higher
    tl.store(logps + row, chosen - largest - tl.log(total))

    if has_grads or has_entropy:
        entropy = 0.0
        for start in range(0, width, block):
            columns = start + tl.arange(0, block)
            x = tl.load(line + columns, mask=columns < width, other=0.0).to(tl.float32)
            x = _to_logits(x, scale, softcap)
            share = tl.exp(x - largest) / total
            if has_entropy:
                terms = share * (largest + tl.log(total) - x)
                entropy += tl.sum(tl.where(columns < width, terms, 0.0), 0)
            if has_grads:
                gradient = tl.load(grads + row) * scale * ((columns == target).to(tl.float32) - share)
                if softcap > 0.0:
                    gradient = gradient * (1.0 - (x / softcap) * (x / softcap))
                tl.store(line + columns, gradient.to(logits.dtype.element_ty), mask=columns < width)
        if has_entropy:
            tl.store(entropies + row, entropy)


@triton.jit
def _to_logits(x, scale: tl.constexpr, softcap: tl.constexpr):  # type: ignore[no-untyped-def]
    x = x * scale
    if softcap > 0.0:
        x = softcap * (2.0 * tl.sigmoid(2.0 * x / softcap) - 1.0)  # tanh
    return x


def softmax_(
    projection: Tensor,
    targets: Tensor,
    token_grads: Tensor | None,
    logps: Tensor,
    entropy: Tensor | None,
    *,
    scale: float,
    softcap: float | None,
) -> None:
    """As `redi_lab.losses.softmax.softmax_`.

    Args:
        projection: (c, V) contiguous, fp32, bf16 or fp16; left alone without `token_grads`.
        targets: (c,) int64.
        token_grads: (c,).
        logps: (c,) fp32.
        entropy: (c,) fp32.
        scale: factor on the projections.
        softcap: bound of the logits.
    """
    if not len(projection):
        return
    grads = logps if token_grads is None else token_grads.to(torch.float32).contiguous()
    with torch.cuda.device(projection.device):
        _softmax[(len(projection),)](
            projection,
            targets.contiguous(),
            grads,
            logps,
            logps if entropy is None else entropy,
            width=projection.shape[1],
            scale=scale,
            softcap=softcap or 0.0,
            has_grads=token_grads is not None,
            has_entropy=entropy is not None,
            block=min(BLOCK, triton.next_power_of_2(projection.shape[1])),
            num_warps=WARPS,
        )
