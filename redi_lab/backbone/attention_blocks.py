"""Causal attention by blocks of queries, for reduced precision on a CPU.

torch's own kernel for the CPU computes bfloat16 little faster than fp32. Plain matrix products over a block of queries
and the keys that it may see do better, for the forward and backward pass together: no score above the diagonal is
computed, and no more than a block of scores exists at a time. Scores and softmax are fp32, the products with
probabilities are in the dtype of the inputs, the backward pass recomputes the probabilities.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 64  # queries: more of them compute more above the diagonal, fewer are too few rows for a matrix product


def blocked_causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """softmax(scale · QKᵀ) V, where a token sees those before it and itself.

    Args:
        query: (n, heads, L, d).
        key: (n, kv_heads, L, d); heads are a multiple of kv_heads.
        value: (n, kv_heads, L, d).
        scale: factor of the scores; default 1/√d.

    Returns:
        (n, heads, L, d) in the dtype of `query`, which the others share.
    """
    batch, heads, length, width = query.shape
    groups = batch * key.shape[1]  # of query heads that share keys and values
    output: Tensor = _BlockedAttention.apply(  # type: ignore[no-untyped-call]
        query.reshape(groups, -1, length, width),
        key.reshape(groups, length, width),
        value.reshape(groups, length, width),
        width**-0.5 if scale is None else scale,
    )
    return output.view(batch, heads, length, width)


class _BlockedAttention(torch.autograd.Function):
    """Queries (g, r, L, d), keys and values (g, L, d); g groups of r heads."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        output = torch.empty_like(query)
        normalisers = query.new_empty(*query.shape[:3], 1, dtype=torch.float32)  # log Σ exp of each query's scores
        keys = key.float().transpose(1, 2)
        with torch.autocast("cpu", enabled=False):
            for start in range(0, query.shape[2], _BLOCK):
                rows = slice(start, min(start + _BLOCK, query.shape[2]))
                scores = _scores(query, keys, rows, scale)
                _mask_(scores, -math.inf)
                largest = scores.amax(-1, keepdim=True)
                total = scores.sub_(largest).exp_().sum(-1, keepdim=True)
                normalisers[:, :, rows] = largest + total.log()
                seen = torch.bmm(scores.to(value.dtype).flatten(1, 2), value[:, : rows.stop])
                output[:, :, rows] = seen.view_as(output[:, :, rows]) / total
        ctx.save_for_backward(query, key, value, output, normalisers)
        ctx.scale = scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, normalisers = ctx.saved_tensors
        keys, values = key.float().transpose(1, 2), value.transpose(1, 2)
        query_grad = torch.empty_like(query)
        key_grad, value_grad = (torch.zeros_like(x, dtype=torch.float32) for x in (key, value))
        # Σ_j p_j ∂p_j, which the softmax's gradient subtracts.
        means = (gradient.float() * output).sum(-1, keepdim=True)
        for start in range(0, query.shape[2], _BLOCK):
            rows = slice(start, min(start + _BLOCK, query.shape[2]))
            probabilities = _scores(query, keys, rows, ctx.scale).sub_(normalisers[:, :, rows]).exp_()
            _mask_(probabilities, 0.0)
            queries, gradients = (x[:, :, rows].flatten(1, 2) for x in (query, gradient))
            value_grad[:, : rows.stop] += torch.bmm(
                probabilities.to(value.dtype).flatten(1, 2).transpose(1, 2), gradients
            )
            scores = torch.bmm(gradients, values[:, :, : rows.stop]).float().view_as(probabilities)
            scores.sub_(means[:, :, rows]).mul_(probabilities).mul_(ctx.scale)
            scores_grad = scores.to(query.dtype).flatten(1, 2)
            query_grad[:, :, rows] = torch.bmm(scores_grad, key[:, : rows.stop]).view_as(query_grad[:, :, rows])
            key_grad[:, : rows.stop] += torch.bmm(scores_grad.transpose(1, 2), queries)
        return query_grad, key_grad.to(key.dtype), value_grad.to(value.dtype), None


def _scores(query: Tensor, keys: Tensor, rows: slice, scale: float) -> Tensor:
    """(g, r, b, stop) fp32 scores of a block of queries with all keys up to its last one; keys are (g, d, L) fp32."""
    queries = query[:, :, rows].float() * scale
    return torch.bmm(queries.flatten(1, 2), keys[:, :, : rows.stop]).view(*queries.shape[:3], rows.stop)


def _mask_(scores: Tensor, value: float) -> None:
    """Overwrite what lies above the diagonal of the block's last, square part."""
    square = scores[..., -scores.shape[2] :]
    square.masked_fill_(torch.ones(square.shape[-2:], dtype=torch.bool).triu_(1), value)
