"""One pass over [tokens, vocabulary] in chunks of tokens: the engine of `redi_lab.losses.logps`.

A chunk is projected, its log-probabilities and entropy are read and, where asked, the same buffer is turned into the
gradient of its projection. Nothing here knows of autograd.

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

from redi_lab.losses import softmax
from redi_lab.losses.sequences import compute_dtype

_ROWS = 4096  # of the head whose gradients are added at once


class Head(NamedTuple):
    """The LM head: logits = scale · (hidden · weightᵀ + bias), then softcap · tanh(logits / softcap) if capped."""

    weight: Tensor
    """(V, H). May be the embedding matrix itself (tied)."""
    bias: Tensor | None = None
    """(V,)"""
    softcap: float | None = None
    """Bound of the logits (Gemma 2 has 30), > 0."""
    scale: float = 1.0
    """Factor on the logits (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`), > 0."""
    chunk_size: int = 1024
    """Tokens projected at a time. Memory grows with chunk_size · V, results do not depend on it."""


TokenSlopes = Callable[[slice, Tensor], Tensor]
"""From the slice of some tokens and their log-probs (c,) to weights (c,) that each may have of its own."""


class Groups(NamedTuple):
    """Tokens that share a factor which is known only once all of them have been read, such as those of a pair."""

    lengths: Sequence[int]
    """Tokens of each group; groups lie one behind the other and make up all N tokens."""
    factors_of: TokenSlopes
    """Called once for each token, with the tokens of some whole groups. Its weights are the same within a group."""


@final
class VocabularyPass:
    """Hidden states and head in one dtype, the buffer that all chunks share, and what has been read so far.

    `logps` (N,) and `entropy` (N,) or None hold the result of `run`, in fp32, or fp64 where `hidden` is fp64.
    """

    def __init__(self, hidden: Tensor, head: Head, targets: Tensor, *, with_entropy: bool = False) -> None:
        weight, bias = head.weight, head.bias
        if weight.dtype != hidden.dtype:
            weight = _scratch("weight", weight.shape, hidden).copy_(weight)
        self.hidden = hidden
        self.head = head._replace(weight=weight, bias=None if bias is None else bias.to(hidden.dtype))
        self.targets = targets
        self.dtype = compute_dtype(hidden)
        self.logps = hidden.new_empty(len(hidden), dtype=self.dtype)
        self.entropy = torch.empty_like(self.logps) if with_entropy else None
        self._buffer = _scratch("projection", (min(len(hidden), head.chunk_size), len(weight)), hidden)

    def run(
        self, gradients: Gradients | None = None, groups: Groups | None = None, slopes_of: TokenSlopes | None = None
    ) -> Tensor | None:
        """Read all tokens; with `gradients`, fill them with those of Σ_t (f_t · g_t + h_t) · logp_t.

        Args:
            gradients: hold the g_t.
            groups: give the f_t; None: they are 1. Groups that fit into one chunk wait for theirs in its buffer. A
                longer one gathers separate head gradients, which are scaled when it ends.
            slopes_of: gives the h_t; None: they are 0.

        Returns:
            (N,) f_t · g_t + h_t, where there are gradients, and groups or slopes.
        """
        with torch.autocast(self.hidden.device.type, enabled=False):
            if gradients is not None and (groups is not None or slopes_of is not None):
                return self._run_weighing(gradients, groups, slopes_of)
            for tokens in _slices(0, len(self.hidden), self.head.chunk_size):
                if gradients is None:
                    self._project(tokens, None)
                else:
                    gradients.add(tokens, self._project(tokens, gradients.token_grads[tokens]))
        return None

    def _run_weighing(self, gradients: Gradients, groups: Groups | None, slopes_of: TokenSlopes | None) -> Tensor:
        """Weights that need a token's log-prob come after its softmax, whose gradient is then that of logp_t."""
        size, given, weights = self.head.chunk_size, gradients.token_grads, torch.zeros_like(self.logps)
        ones = torch.ones_like(given[:size])

        def project(tokens: slice) -> Tensor:
            projection = self._project(tokens, ones[: tokens.stop - tokens.start])
            if slopes_of is not None:
                weights[tokens] = slopes_of(tokens, self.logps[tokens])
            return projection

        runs = _slices(0, len(given), size) if groups is None else _whole_groups(groups.lengths, size)
        for tokens in runs:
            if tokens.stop - tokens.start <= size:
                projection = project(tokens)
                factors = 1.0 if groups is None else groups.factors_of(tokens, self.logps[tokens])
                weights[tokens] += factors * given[tokens]
                gradients.add(tokens, projection, weights[tokens])
                continue
            assert groups is not None
            apart = gradients.with_new_head()
            for chunk in _slices(tokens.start, tokens.stop, size):
                projection = project(chunk)
                gradients.add_states(chunk, projection)
                apart.add_head(chunk, projection, given[chunk])
                if slopes_of is not None:
                    gradients.add_head(chunk, projection, weights[chunk])
            factors = groups.factors_of(tokens, self.logps[tokens])
            weights[tokens] += factors * given[tokens]
            gradients.add_group(tokens, apart, factors[0], weights[tokens])
            del apart  # else two are alive when the next long group begins
        return weights

    def _project(self, tokens: slice, token_grads: Tensor | None) -> Tensor:
        """Project a chunk and keep its log-probs and entropy.

        Returns:
            (c, V) gradient of Σ_t token_grads_t · logp_t in the chunk's projection, valid until the next call; without
            `token_grads` it means nothing.
        """
        weight, bias, softcap, scale, _ = self.head
        projection = self._buffer[: tokens.stop - tokens.start]
        if bias is None:
            torch.mm(self.hidden[tokens], weight.T, out=projection)
        else:
            torch.addmm(bias, self.hidden[tokens], weight.T, out=projection)
        if _is_fused(projection):
            from redi_lab.losses.fused_softmax import softmax_
        else:
            softmax_ = softmax.softmax_
        entropy = None if self.entropy is None else self.entropy[tokens]
        logps, targets = self.logps[tokens], self.targets[tokens]
        softmax_(projection, targets, token_grads, logps, entropy, scale=scale, softcap=softcap)
        return projection


@final
class Gradients:
    """Gradients of Σ_t g_t · logp_t, filled chunk by chunk: `hidden` (N, H), `weight` (V, H) and `bias` (V,).

    Those of the head are added up in fp32, or fp64 where `hidden` is fp64; what is not needed is None.

    Args:
        of: the pass that fills them.
        token_grads: (N,) the g_t, fp32 or fp64.
        needs: whether those of hidden, weight and bias are needed.
    """

    def __init__(self, of: VocabularyPass, token_grads: Tensor, needs: Sequence[bool]) -> None:
        weight, bias = of.head.weight, of.head.bias
        self._of = of
        self.token_grads = token_grads
        self.hidden = torch.empty_like(of.hidden) if needs[0] else None
        self.weight = torch.zeros_like(weight, dtype=of.dtype) if needs[1] else None
        self.bias = torch.zeros_like(bias, dtype=of.dtype) if bias is not None and needs[2] else None
        # The CPU has no product of bf16 with an fp32 result: that of each chunk is rounded once.
        adds_up = weight.dtype == of.dtype or _adds_up_in_fp32(weight.device, weight.dtype)
        is_rounded = needs[1] and not adds_up
        self._rounded = _scratch("rounded", weight.shape, weight) if is_rounded else None

    def with_new_head(self) -> Gradients:
        """Head gradients that start from zero."""
        return Gradients(self._of, self.token_grads, (False, self.weight is not None, self.bias is not None))

    def add(self, tokens: slice, projection: Tensor, factors: Tensor | None = None) -> None:
        """Add a chunk.

        Args:
            tokens: which of the N.
            projection: (c, V) gradient of their projection.
            factors: (c,) of its rows. They are applied to the H columns beside it, which are fewer.
        """
        self.add_states(tokens, projection, factors)
        self.add_head(tokens, projection, factors)

    def add_states(self, tokens: slice, projection: Tensor, factors: Tensor | None = None) -> None:
        """Fill a chunk's rows of `hidden`, see `add`."""
        if self.hidden is not None:
            rows = self.hidden[tokens]
            torch.mm(projection, self._of.head.weight, out=rows)
            if factors is not None:
                rows.mul_(factors[:, None])

    def add_head(self, tokens: slice, projection: Tensor, factors: Tensor | None = None) -> None:
        """Add a chunk to the head's gradients, see `add`."""
        hidden = self._of.hidden[tokens]
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

    def add_group(self, tokens: slice, apart: Gradients, factor: Tensor, weights: Tensor) -> None:
        """Scale the rows of hidden of one group by their weights (c,), and add its head gradients times a factor ()."""
        if self.hidden is not None:
            self.hidden[tokens] *= weights[:, None]
        for total, part in ((self.weight, apart.weight), (self.bias, apart.bias)):
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
