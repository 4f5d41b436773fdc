"""Passes over [tokens, vocabulary] in chunks of tokens: the engine of `redi_lab.losses.logps`.

A chunk is projected, its log-probabilities and entropy are read and, where asked, the same buffer is turned into the
gradient of its projection. Nothing here knows of autograd: scoring, the recomputing backward and the sums that take
their gradients in the forward pass all call `sweep` or `sweep_groups`.

A chunk is large, because matrix products want many rows; softmax and what follows take a few of its rows at a time,
because each of their steps is a way through memory unless the rows stay in the cache. On a GPU one kernel takes all
those steps (`redi_lab.losses.fused_softmax`); what is written here is the reference that it is tested against.

Shape suffixes: N tokens, c tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple, final

import torch
from torch import Tensor

_BLOCK_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}  # of the rows that softmax takes at once

_ROWS = 4096  # of the head whose gradients are added at once

FactorsOf = Callable[[slice, Tensor], Tensor]
"""From whole groups, named by the slice of their c tokens, and their log-probs (c,) to a factor for each token (c,)."""


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
class Operands:
    """What is projected: hidden states and the head in their dtype, with the one buffer that all chunks share.

    Args:
        hidden: (N, H).
        weight: (V, H).
        bias: (V,).
        targets: (N,).
        options: of the head.
    """

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: HeadOptions
    ) -> None:
        self.hidden = hidden
        self.weight = weight
        if weight.dtype != hidden.dtype:
            self.weight = _scratch("weight", weight.shape, hidden).copy_(weight)
        self.bias = None if bias is None else bias.to(hidden.dtype)
        self.targets = targets
        self.options = options
        self.dtype = compute_dtype(hidden)
        self.logps = hidden.new_empty(len(hidden), dtype=self.dtype)
        self.entropy = torch.empty_like(self.logps) if options.with_entropy else None
        self._buffer = _scratch("projection", (min(len(hidden), options.chunk_size), len(weight)), hidden)
        limit = _BLOCK_BYTES.get(hidden.device.type, _BLOCK_BYTES["other"])
        self._block = max(1, limit // (len(weight) * self.dtype.itemsize))

    def project(self, tokens: slice, token_grads: Tensor | None = None) -> Tensor:
        """Project a chunk and keep its log-probs and entropy.

        Args:
            tokens: at most `chunk_size` of them.
            token_grads: (c,) gradient g_t of each log-prob.

        Returns:
            (c, V) gradient of Σ_t g_t · logp_t in the chunk's projection, valid until the next call; without
            `token_grads` it means nothing.
        """
        projection = self._buffer[: tokens.stop - tokens.start]
        if self.bias is None:
            torch.mm(self.hidden[tokens], self.weight.T, out=projection)
        else:
            torch.addmm(self.bias, self.hidden[tokens], self.weight.T, out=projection)
        if _is_fused(projection):
            self._read_fused(projection, tokens, token_grads)
            return projection
        for rows in _slices(0, len(projection), self._block):
            block = projection[rows]
            logits = block.to(self.dtype)  # the block itself, where the dtype is the same
            here = slice(tokens.start + rows.start, tokens.start + rows.stop)
            self._read(logits, here, None if token_grads is None else token_grads[rows])
            if token_grads is not None and logits is not block:
                block.copy_(logits)
        return projection

    def _read(self, logits: Tensor, tokens: slice, token_grads: Tensor | None) -> None:
        """Keep log-probs and entropy of a block; overwrite it with the gradient of its projection."""
        options, targets = self.options, self.targets[tokens]
        if options.scale != 1.0:
            logits.mul_(options.scale)
        if options.softcap is not None:
            logits.div_(options.softcap).tanh_().mul_(options.softcap)
        slope = None if token_grads is None else _softcap_slope(logits, options.softcap)
        self.logps[tokens] = _to_probabilities_(logits, targets)
        if self.entropy is not None:
            self.entropy[tokens] = torch.special.entr(logits).sum(-1)
        if token_grads is not None:
            _to_projection_gradient_(logits, targets, token_grads * options.scale, slope)

    def _read_fused(self, projection: Tensor, tokens: slice, token_grads: Tensor | None) -> None:
        """The same for a whole chunk by one kernel."""
        from redi_lab.losses.fused_softmax import softmax_

        entropy = None if self.entropy is None else self.entropy[tokens]
        options = self.options
        softmax_(
            projection,
            self.targets[tokens],
            token_grads,
            self.logps[tokens],
            entropy,
            scale=options.scale,
            softcap=options.softcap,
        )


@final
class Gradients:
    """Gradients in hidden (N, H), weight (V, H) and bias (V,), filled chunk by chunk; None where not needed.

    Those of the head are added up in fp32, or fp64 where `hidden` is fp64.
    """

    def __init__(self, operands: Operands, *, needs: Sequence[bool]) -> None:
        weight, bias = operands.weight, operands.bias
        self.hidden = torch.empty_like(operands.hidden) if needs[0] else None
        self.weight = torch.zeros_like(weight, dtype=operands.dtype) if needs[1] else None
        self.bias = torch.zeros_like(bias, dtype=operands.dtype) if bias is not None and needs[2] else None
        # The CPU has no product of bf16 with an fp32 result: that of each chunk is rounded once.
        adds_up = weight.dtype == operands.dtype or _adds_up_in_fp32(weight.device, weight.dtype)
        is_rounded = needs[1] and not adds_up
        self._rounded = _scratch("rounded", weight.shape, weight) if is_rounded else None

    def add(self, operands: Operands, tokens: slice, projection: Tensor, factors: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            operands: of the projection.
            tokens: which of the N.
            projection: (c, V) gradient of their projection.
            factors: (c,) of its rows. They are applied to the H columns beside it, which are fewer.
        """
        if self.hidden is not None:
            rows = self.hidden[tokens]
            torch.mm(projection, operands.weight, out=rows)
            if factors is not None:
                rows.mul_(factors[:, None])
        hidden = operands.hidden[tokens]
        ones = projection.new_ones(len(projection)) if factors is None else factors.to(projection.dtype)
        if self.bias is not None:
            self.bias += projection.T @ ones
        if self.weight is None:
            return
        if factors is not None:
            hidden = hidden * ones[:, None]
        if self._rounded is None:
            _add_product_(self.weight, projection.T, hidden)
            return
        torch.mm(projection.T, hidden, out=self._rounded)
        for total, part in zip(torch.split(self.weight, _ROWS), torch.split(self._rounded, _ROWS), strict=True):
            total.add_(part)  # in pieces, because the conversion makes a copy

    def add_group(self, tokens: slice, head: Gradients, factor: Tensor) -> None:
        """Scale the rows of hidden of one group by its factor (), and add its head gradients, scaled by it as well."""
        if self.hidden is not None:
            self.hidden[tokens] *= factor
        for total, part in ((self.weight, head.weight), (self.bias, head.bias)):
            if total is not None and part is not None:
                total.add_(part.mul_(factor))


@cache
def _adds_up_in_fp32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device can add a product of matrices of `dtype` to an fp32 one without rounding it on the way."""
    if device.type != "cuda":
        return False
    total, ones = torch.ones(16, 16, device=device), torch.ones(16, 16, dtype=dtype, device=device)
    try:
        _add_product_(total, ones, ones)
    except RuntimeError:  # a torch whose addmm wants all of one dtype
        return False
    return True


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a · b (V, H) in the dtype of `total`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)


def _is_fused(projection: Tensor) -> bool:
    """Whether the kernel reads a chunk: on a GPU, in all dtypes that it knows, where Triton is installed."""
    return projection.device.type == "cuda" and projection.dtype != torch.float64 and _has_triton()


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


_kept = threading.local()


def _scratch(name: str, shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised memory of a shape in the dtype of `like`, valid until this thread asks for `name` again.

    On a CPU it is kept. The system would clear such blocks page by page in every step, which takes as long as the
    products that fill them. On a GPU torch's allocator does the same.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    size, key = math.prod(shape), f"{name}/{like.dtype}"
    memory: Tensor | None = getattr(_kept, key, None)
    if memory is None or memory.numel() < size:
        setattr(_kept, key, None)  # first, else both would be alive
        memory = torch.empty(size, dtype=like.dtype)
        setattr(_kept, key, memory)
    return memory[:size].view(*shape)


def sweep(operands: Operands, gradients: Gradients | None = None, token_grads: Tensor | None = None) -> TokenStatistics:
    """Go once over [tokens, vocabulary]; with `gradients`, fill them with those of Σ_t token_grads_t · logp_t.

    Args:
        operands: what is projected.
        gradients: to be filled.
        token_grads: (N,) fp32 or fp64, given with `gradients`.
    """
    with torch.autocast(operands.hidden.device.type, enabled=False):
        for tokens in _slices(0, len(operands.hidden), operands.options.chunk_size):
            projection = operands.project(tokens, None if token_grads is None else token_grads[tokens])
            if gradients is not None:
                gradients.add(operands, tokens, projection)
    return TokenStatistics(operands.logps, operands.entropy)


def sweep_groups(
    operands: Operands,
    gradients: Gradients,
    token_grads: Tensor,
    group_lengths: Sequence[int],
    factors_of: FactorsOf,
) -> tuple[TokenStatistics, Tensor]:
    """Go once over [tokens, vocabulary] and fill `gradients` with those of Σ_t f_t · token_grads_t · logp_t.

    The factor f_t is shared by the tokens of a group and known once all of them are read. Groups that fit into one
    chunk wait for theirs in its buffer. A longer one gathers head gradients of its own, to be scaled when it ends.

    Args:
        operands: what is projected.
        gradients: to be filled.
        token_grads: (N,) fp32 or fp64.
        group_lengths: tokens of each group; groups lie one behind the other and make up all N.
        factors_of: asked once for each token.

    Returns:
        What was read, and (N,) the factors.
    """
    size = operands.options.chunk_size
    factors = torch.empty_like(operands.logps)
    with torch.autocast(operands.hidden.device.type, enabled=False):
        for tokens in _whole_groups(group_lengths, size):
            if tokens.stop - tokens.start <= size:
                projection = operands.project(tokens, token_grads[tokens])
                factors[tokens] = factors_of(tokens, operands.logps[tokens])
                gradients.add(operands, tokens, projection, factors[tokens])
                continue
            head = Gradients(operands, needs=(False, gradients.weight is not None, gradients.bias is not None))
            head.hidden = gradients.hidden
            for chunk in _slices(tokens.start, tokens.stop, size):
                head.add(operands, chunk, operands.project(chunk, token_grads[chunk]))
            factors[tokens] = factors_of(tokens, operands.logps[tokens])
            gradients.add_group(tokens, head, factors[tokens.start])
            del head  # else two are alive when the next long group begins
    return TokenStatistics(operands.logps, operands.entropy), factors


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(begin, min(begin + size, stop)) for begin in range(start, stop, size))


def _whole_groups(lengths: Sequence[int], size: int) -> Iterator[slice]:
    """Runs of neighbouring groups of at most `size` tokens together; a longer group alone."""
    start = stop = 0
    for length in lengths:
        if stop > start and stop + length - start > size:
            yield slice(start, stop)
            start = stop
        stop += length
    if stop > start:
        yield slice(start, stop)


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
