"""Softmax of a chunk of logits in plain torch: log-probs, entropy, and the gradient in place of the logits.

It takes a few rows of the chunk at a time, because each of its steps goes through memory unless the rows stay in the
cache. `redi_lab.losses.fused_softmax` does the same in one kernel on a GPU, and is tested against this.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}  # of the rows taken at a time


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
    """Read a chunk of projections x and, with `token_grads`, turn it into the gradient in them.

    Args:
        projection: (c, V), of which the logits are softcap · tanh(scale · x / softcap). Overwritten with the gradient
            of Σ_t token_grads_t · logp_t; without `token_grads` it means nothing afterwards.
        targets: (c,) int64.
        token_grads: (c,) fp32 or fp64.
        logps: (c,) fp32 or fp64, filled; softmax is computed in this dtype.
        entropy: (c,) of the same dtype, filled; None where not wanted.
        scale: factor on the projections.
        softcap: bound of the logits.
    """
    limit = _BLOCK_BYTES.get(projection.device.type, _BLOCK_BYTES["other"])
    size = max(1, limit // (projection.shape[1] * logps.dtype.itemsize))
    for start in range(0, len(projection), size):
        rows = slice(start, start + size)
        block = projection[rows]
        logits = block.to(logps.dtype)  # the block itself, where the dtype is the same
        if scale != 1.0:
            logits.mul_(scale)
        if softcap is not None:
            logits.div_(softcap).tanh_().mul_(softcap)
        slope = None if token_grads is None or softcap is None else _softcap_slope(logits, softcap)
        logps[rows] = _to_probabilities_(logits, targets[rows])
        if entropy is not None:
            entropy[rows] = torch.special.entr(logits).sum(-1)
        if token_grads is not None:
            _to_projection_gradient_(logits, targets[rows], token_grads[rows] * scale, slope)
            if logits is not block:
                block.copy_(logits)


def _softcap_slope(logits: Tensor, softcap: float) -> Tensor:
    """Derivative (c, V) of the soft-cap, 1 − tanh² written with the capped logits."""
    return (logits / softcap).square_().neg_().add_(1.0)


def _to_probabilities_(logits: Tensor, targets: Tensor) -> Tensor:
    """Overwrite logits (c, V) with their softmax and return the log-probabilities (c,) of the targets."""
    # By hand, because logsumexp and softmax would each allocate one more (c, V).
    logits.sub_(logits.amax(-1, keepdim=True))
    target_logits = logits.gather(-1, targets[:, None])
    normaliser = logits.exp_().sum(-1, keepdim=True)
    logits.div_(normaliser)
    return (target_logits - normaliser.log()).squeeze(-1)


def _to_projection_gradient_(probabilities: Tensor, targets: Tensor, token_grads: Tensor, slope: Tensor | None) -> None:
    """Overwrite softmax (c, V) with g_t · (onehot(y_t) − softmax) · slope."""
    rows = torch.arange(targets.shape[0], device=targets.device)
    probabilities[rows, targets] -= 1.0
    probabilities.mul_(-token_grads[:, None])
    if slope is not None:
        probabilities.mul_(slope)
