"""One pass over [tokens, vocabulary] in chunks of tokens: the engine of `redi_lab.losses.logps`.

Projects a chunk, reads log-probabilities and entropy from it and, where asked, turns the same buffer into the gradient
of its logits. Knows nothing of autograd: scoring, the recomputing backward and the gradient-in-forward sum all call
`sweep`.

Shape suffixes: N tokens, c tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor


class HeadOptions(NamedTuple):
    """How hidden states become logits, and how many at a time; see `redi_lab.losses.logps.token_logps`."""

    softcap: float | None
    scale: float
    chunk_size: int
    with_entropy: bool


class TokenStatistics(NamedTuple):
    """What the model says about each of N target tokens."""

    logps: Tensor
    """(N,) log π(y_t | x, y_<t) in nats."""
    entropy: Tensor | None
    """(N,) detached entropy of the whole next-token distribution in nats, None unless asked for."""


@final
class HeadGradients:
    """Gradients of Σ_t token_grads_t · logp_t in hidden, weight and bias, filled chunk by chunk.

    `token_grads` is (N,) in fp32 or fp64; `needs` says which of the three are wanted, the others stay None.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        token_grads: Tensor,
        needs: tuple[bool, bool, bool],
    ) -> None:
        self.token_grads = token_grads
        accumulator = compute_dtype(hidden)
        self._dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        self._hidden = torch.empty_like(hidden) if needs[0] else None
        self._weight = torch.zeros_like(weight, dtype=accumulator) if needs[1] else None
        self._bias = torch.zeros_like(bias, dtype=accumulator) if bias is not None and needs[2] else None

    def add(self, tokens: slice, grad_projection: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Add the chunk `tokens`, given the gradient (c, V) of its projection and the operands of that projection."""
        if self._bias is not None:
            self._bias += grad_projection.sum(0)
        grad_projection = grad_projection.to(hidden.dtype)
        if self._hidden is not None:
            torch.mm(grad_projection, weight, out=self._hidden[tokens])
        if self._weight is None:
            return
        if self._weight.dtype == hidden.dtype:
            self._weight.addmm_(grad_projection.T, hidden)
        else:
            self._weight += grad_projection.T @ hidden

    def in_input_dtypes(self) -> tuple[Tensor | None, ...]:
        """The gradients of hidden (N, H), weight (V, H) and bias (V,), each in the dtype of its input."""
        gradients = (self._hidden, self._weight, self._bias)
        return tuple(g if g is None else g.to(dtype) for g, dtype in zip(gradients, self._dtypes, strict=True))


def sweep(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    options: HeadOptions,
    gradients: HeadGradients | None = None,
) -> TokenStatistics:
    """Go once over [tokens, vocabulary], chunk by chunk, and fill `gradients` if given."""
    weight = weight.to(hidden.dtype)
    bias = None if bias is None else bias.to(hidden.dtype)
    logps = torch.empty(hidden.shape[0], dtype=compute_dtype(hidden), device=hidden.device)
    entropy = torch.empty_like(logps) if options.with_entropy else None
    with torch.autocast(hidden.device.type, enabled=False):
        for tokens in _chunks(hidden.shape[0], options.chunk_size):
            logits = _logits(hidden[tokens], weight, bias, options)
            slope = _softcap_slope(logits, options.softcap) if gradients is not None else None
            logps[tokens] = _to_probabilities_(logits, targets[tokens])
            if entropy is not None:
                entropy[tokens] = torch.special.entr(logits).sum(-1)
            if gradients is not None:
                _to_projection_gradient_(logits, targets[tokens], gradients.token_grads[tokens] * options.scale, slope)
                gradients.add(tokens, logits, hidden[tokens], weight)
            del logits, slope  # else two chunks are alive while the next one is projected
    return TokenStatistics(logps, entropy)


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, options: HeadOptions) -> Tensor:
    """Logits (c, V) in fp32 or fp64, in a buffer that the caller may overwrite."""
    logits = F.linear(hidden, weight, bias).to(compute_dtype(hidden))
    if options.scale != 1.0:
        logits.mul_(options.scale)
    if options.softcap is not None:
        logits.div_(options.softcap).tanh_().mul_(options.softcap)
    return logits


def _softcap_slope(logits: Tensor, softcap: float | None) -> Tensor | None:
    """Derivative (c, V) of the soft-cap, 1 − tanh² written with the capped logits, or None without a cap."""
    return None if softcap is None else (logits / softcap).square_().neg_().add_(1.0)


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


def compute_dtype(values: Tensor) -> torch.dtype:
    """Dtype of softmax and sums: fp64 for fp64, else fp32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
