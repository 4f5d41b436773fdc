"""Log-probabilities of target tokens straight from hidden states and the LM head, in chunks of tokens.

Every objective is made from log π(y_t | x, y_<t). With a vocabulary of 152k and a trace of 19k tokens, the logits alone
would fill 11 GB in fp32, so [tokens, vocabulary] never exists here: one chunk of tokens is projected, normalised and
dropped before the next. Three entries:

* `weighted_logp_sum` for objectives linear in the token log-probs (SFT, REDI): weights are known beforehand, so the
  gradients are taken inside the forward loop and one pass over the vocabulary does the whole work.
* `grouped_logp_sum` for objectives of one linear form a pair (DPO, SimPO): up to one scalar a pair the weights are
  known beforehand, and the scalar is once the pair has been read. One pass as well, for one more copy of the head.
* `token_logps` for scoring, and for any other use of the values: backward projects each chunk a second time.

    logps, _ = token_logps(hidden[is_completion], lm_head.weight, targets[is_completion])
    sequences = SequenceLogps(sum_by_sequence(logps, sequence_index, n), lengths)

Shape suffixes: N completion tokens, H hidden size, V vocabulary, n sequences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redi_lab.losses.vocabulary import (
    FactorsOf,
    Gradients,
    HeadOptions,
    Operands,
    TokenStatistics,
    compute_dtype,
    sweep,
    sweep_groups,
)

IGNORE_INDEX = -100
"""Label of positions that carry no loss (prompt, padding), as in `torch.nn.functional.cross_entropy`."""


class SequenceLogps(NamedTuple):
    """Log-probabilities of n completions under one model."""

    logps: Tensor
    """(n,) fp32, log π(y|x) in nats, summed over the completion's tokens."""
    lengths: Tensor
    """(n,) number of completion tokens that the sum runs over, |y| ≥ 1."""

    @property
    def mean_logps(self) -> Tensor:
        """(n,) log π(y|x) / |y| in nats per token, the LogPS of the paper's figures."""
        return self.logps / self.lengths


class WeightedLogpSum(NamedTuple):
    """A weighted sum of token log-probs, and the (detached) terms for the curves."""

    total: Tensor
    """() Σ_t w_t · log π(y_t | x, y_<t), the only differentiable field."""
    logps: Tensor
    """(N,) detached log π(y_t | x, y_<t) in nats."""
    entropy: Tensor | None
    """(N,) detached entropy in nats, None unless asked for."""


def token_logps(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 1024,
    with_entropy: bool = False,
) -> TokenStatistics:
    """Log-probability of each target token, differentiable in `hidden`, `weight` and `bias`.

    logits = scale · (hidden · weightᵀ + bias), then softcap · tanh(logits / softcap) where a softcap is set. The matrix
    products run in the dtype of `hidden` (autocast is switched off inside; `weight` is cast once where it differs),
    everything after them in fp32, or fp64 where `hidden` is fp64. Gradients leave in their input's dtype; the head's
    are added up over chunks in fp32.

    Args:
        hidden: (N, H) last hidden states at the positions that predict completion tokens; N may be 0.
        weight: (V, H) LM head. May be the embedding matrix itself (tied).
        targets: (N,) int64 token ids in [0, V). Completion positions only: IGNORE_INDEX is refused.
        bias: (V,) bias of the LM head.
        softcap: Bound of the logits (Gemma 2 has 30), > 0.
        scale: Factor on the logits (Cohere's `logit_scale`, the inverse of Granite's `logits_scaling`), > 0.
        chunk_size: Tokens projected at a time. Memory grows with chunk_size · V, results do not depend on it.
        with_entropy: Also return the entropy of each distribution (one more buffer of a chunk).

    Returns:
        `logps` (N,) fp32 (fp64 from fp64) and, where asked for, `entropy` (N,) detached.

    Raises:
        ValueError: If shapes, dtypes, options or a target are out of line. On a GPU a target that is ends the process.
    """
    options = HeadOptions(softcap, scale, chunk_size, with_entropy)
    _check_inputs(hidden, weight, targets, bias, options)
    logps, entropy = _TokenLogps.apply(hidden, weight, bias, targets, options)  # type: ignore[no-untyped-call]
    return TokenStatistics(logps, entropy)


def weighted_logp_sum(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_weights: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 1024,
    with_entropy: bool = False,
) -> WeightedLogpSum:
    """Σ_t w_t · log π(y_t | x, y_<t), with its gradients taken in the same pass over the vocabulary.

    Equal in value and gradients to `(token_weights * token_logps(...).logps).sum()` and cheaper by one projection:
    the gradient of a chunk's logits is w_t (onehot(y_t) − softmax), all known in the forward, so the logits buffer is
    turned into it on the spot. Backward only multiplies by the incoming scalar and hands the gradients over, once.
    Between the two, the gradients of `hidden` and of the head are held. Where nothing asks for gradients, none are
    computed.

    Args:
        hidden: As for `token_logps`.
        weight: As for `token_logps`.
        targets: As for `token_logps`.
        token_weights: (N,) floating point, e.g. −1/|y_w| on chosen and α/|y_l| on rejected tokens over the number of
            pairs. A constant: it must not require grad.
        bias: As for `token_logps`.
        softcap: As for `token_logps`.
        scale: As for `token_logps`.
        chunk_size: As for `token_logps`.
        with_entropy: As for `token_logps`.

    Returns:
        `total` () fp32 (fp64 from fp64), differentiable; `logps` (N,) and `entropy` (N,) or None, both detached.

    Raises:
        ValueError: If shapes, dtypes, options or a target are out of line, or `token_weights` requires grad.
    """
    options = HeadOptions(softcap, scale, chunk_size, with_entropy)
    return _weighted(hidden, weight, bias, targets, token_weights, options, None)


def grouped_logp_sum(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    token_weights: Tensor,
    *,
    group_lengths: Sequence[int],
    factors_of: FactorsOf,
    bias: Tensor | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_size: int = 1024,
    with_entropy: bool = False,
) -> WeightedLogpSum:
    """Σ_t f_t · w_t · log π(y_t | x, y_<t), whose factors f_t are found out on the way, in one pass.

    A loss L(m) of the linear form m = Σ_t w_t log π(y_t | x, y_<t) of each pair has the gradient L'(m) Σ_t w_t ∇ log π.
    With f = L'(m) that of this sum is the same. The value is not: it is of no use but for its gradient.

    Args:
        hidden: As for `token_logps`.
        weight: As for `token_logps`.
        targets: As for `token_logps`.
        token_weights: As for `weighted_logp_sum`.
        group_lengths: Tokens of each group (pair); groups lie one behind the other and make up all N tokens.
        factors_of: Called with the slice of some whole groups' tokens and their log-probs (c,), tells the factor of
            each of these tokens (c,), the same within a group. Every token is asked for once.
        bias: As for `token_logps`.
        softcap: As for `token_logps`.
        scale: As for `token_logps`.
        chunk_size: As for `token_logps`. A group longer than that takes one more (V, H) buffer.
        with_entropy: As for `token_logps`.

    Returns:
        As `weighted_logp_sum`.

    Raises:
        ValueError: As `weighted_logp_sum`, or the groups do not make up the tokens.
    """
    options = HeadOptions(softcap, scale, chunk_size, with_entropy)
    if sum(group_lengths) != len(targets) or min(group_lengths, default=0) < 0:
        raise ValueError(f"group_lengths must be counts that add up to {len(targets)}, got {list(group_lengths)}")
    return _weighted(hidden, weight, bias, targets, token_weights, options, _Groups(tuple(group_lengths), factors_of))


def sum_by_sequence(token_values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Sum token values into the sequences that they belong to; differentiable and the same on every run.

    Args:
        token_values: (N,) floating point.
        sequence_index: (N,) int64 in [0, num_sequences), in any order.
        num_sequences: n. A sequence without tokens sums to 0.

    Returns:
        (n,) fp32 (fp64 from fp64).

    Raises:
        ValueError: If shapes differ, or an index is not int64 or out of range.
    """
    if token_values.dim() != 1 or token_values.shape != sequence_index.shape:
        raise ValueError(
            f"token_values and sequence_index must share one shape (N,), "
            f"got {tuple(token_values.shape)} and {tuple(sequence_index.shape)}"
        )
    _check_indices("sequence_index", sequence_index, num_sequences)
    # fp64, because a running fp32 sum over a long trace loses digits. index_put rather than index_add, because with
    # accumulate=True it sorts on CUDA and is serial for fp64 on CPU: deterministic without a global switch.
    totals = torch.zeros(num_sequences, dtype=torch.float64, device=token_values.device)
    totals = totals.index_put((sequence_index,), token_values.double(), accumulate=True)
    return totals.to(compute_dtype(token_values))


def check_sequences(name: str, sequences: SequenceLogps) -> None:
    """Raise ValueError unless `logps` and `lengths` share one shape (n,) and every length is at least 1."""
    logps, lengths = sequences
    if logps.dim() != 1 or logps.shape != lengths.shape:
        raise ValueError(
            f"{name}: logps and lengths must share one shape (n,), got {tuple(logps.shape)} and {tuple(lengths.shape)}"
        )
    if _is_any(lengths < 1, f"{name}: every sequence needs a completion token"):
        row = int((lengths < 1).int().argmax())
        raise ValueError(f"{name}: sequence {row} has {lengths[row].item()} completion tokens, at least 1 is needed")


def check_pairs(chosen: SequenceLogps, rejected: SequenceLogps) -> None:
    """Raise ValueError unless both sides are valid (`check_sequences`) and hold the same number of sequences."""
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    if chosen.logps.shape != rejected.logps.shape:
        raise ValueError(
            f"chosen and rejected must pair up, got {chosen.logps.shape[0]} chosen and "
            f"{rejected.logps.shape[0]} rejected sequences"
        )


class _Groups(NamedTuple):
    lengths: tuple[int, ...]
    factors_of: FactorsOf


def _weighted(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    token_weights: Tensor,
    options: HeadOptions,
    groups: _Groups | None,
) -> WeightedLogpSum:
    _check_inputs(hidden, weight, targets, bias, options)
    if token_weights.shape != targets.shape or not token_weights.is_floating_point():
        raise ValueError(
            f"token_weights must be floating point of shape {tuple(targets.shape)} like targets, "
            f"got {token_weights.dtype} of shape {tuple(token_weights.shape)}"
        )
    if token_weights.requires_grad:
        raise ValueError("token_weights must be constants, got a tensor that requires grad: use token_logps instead")
    # Inside an autograd.Function grad mode is always off, so whether gradients are wanted is asked here.
    return WeightedLogpSum(
        *_WeightedLogpSum.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, targets, token_weights, options, groups, torch.is_grad_enabled()
        )
    )


class _TokenLogps(torch.autograd.Function):
    """Forward keeps its inputs alone; backward sweeps the vocabulary again."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: HeadOptions
    ) -> tuple[Tensor, Tensor | None]:
        statistics = sweep(Operands(hidden, weight, bias, targets, options))
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.options = options
        if statistics.entropy is not None:
            ctx.mark_non_differentiable(statistics.entropy)
        return statistics.logps, statistics.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        operands = Operands(hidden, weight, bias, targets, ctx.options._replace(with_entropy=False))
        gradients = Gradients(operands, needs=ctx.needs_input_grad)
        sweep(operands, gradients, grad_logps)
        return *_in_dtypes_of((hidden, weight, bias), gradients), None, None


class _WeightedLogpSum(torch.autograd.Function):
    """Forward takes the gradients as well; backward rescales them in place and lets go of them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        token_weights: Tensor,
        options: HeadOptions,
        groups: _Groups | None,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        operands = Operands(hidden, weight, bias, targets, options)
        token_weights = token_weights.to(operands.dtype)
        if wants_gradients and any(ctx.needs_input_grad):
            # Held at unit size until backward: weights near 1e-7 would underflow where the gradients are fp16.
            ctx.size = _largest_magnitude(token_weights)
            gradients = Gradients(operands, needs=ctx.needs_input_grad)
            if groups is None:
                statistics = sweep(operands, gradients, token_weights / ctx.size)
            else:
                statistics, factors = sweep_groups(operands, gradients, token_weights / ctx.size, *groups)
                token_weights = token_weights * factors
            ctx.gradients = _in_dtypes_of((hidden, weight, bias), gradients)
        else:
            statistics = sweep(operands)
            if groups is not None:
                token_weights = token_weights * groups.factors_of(slice(0, len(targets)), statistics.logps)
        ctx.mark_non_differentiable(*(value for value in statistics if value is not None))
        return (token_weights * statistics.logps).sum(), statistics.logps, statistics.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        # No saved tensors: those outlive this call, and beside the scaled copy the head's would be held twice.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this sum were handed over by an earlier backward pass")
        factor = grad_total * ctx.size
        return *(None if gradient is None else gradient.mul_(factor) for gradient in gradients), *(None,) * 5


def _in_dtypes_of(inputs: Sequence[Tensor | None], gradients: Gradients) -> list[Tensor | None]:
    """The gradients of hidden, weight and bias, each in the dtype of its input."""
    found = (gradients.hidden, gradients.weight, gradients.bias)
    return [
        None if value is None or gradient is None else gradient.to(value.dtype)
        for value, gradient in zip(inputs, found, strict=True)
    ]


def _largest_magnitude(values: Tensor) -> Tensor:
    """() max |v|, never 0; 1 for no values."""
    if values.numel() == 0:
        return values.new_ones(())
    return values.abs().amax().clamp_min(torch.finfo(values.dtype).tiny)


def _check_inputs(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, options: HeadOptions) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (N, H) and weight (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if not (hidden.is_floating_point() and weight.is_floating_point()):
        raise ValueError(f"hidden and weight must be floating point, got {hidden.dtype} and {weight.dtype}")
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets must be ({hidden.shape[0]},) like the rows of hidden, got shape {tuple(targets.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},) like the rows of weight, got shape {tuple(bias.shape)}")
    _check_options(options)
    _check_indices("targets", targets, weight.shape[0])


def _check_options(options: HeadOptions) -> None:
    if options.softcap is not None and not (options.softcap > 0.0 and math.isfinite(options.softcap)):
        raise ValueError(f"softcap must be None or a positive finite number, got {options.softcap}")
    if not (options.scale > 0.0 and math.isfinite(options.scale)):
        raise ValueError(f"scale must be a positive finite number, got {options.scale}")
    if options.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {options.chunk_size}")


def _check_indices(name: str, indices: Tensor, bound: int) -> None:
    """Raise ValueError unless `indices` are int64 in [0, bound)."""
    if indices.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {indices.dtype}")
    is_wrong = (indices < 0) | (indices >= bound)
    if not _is_any(is_wrong, f"{name} must lie in [0, {bound})"):
        return
    position = int(is_wrong.int().argmax())
    value = int(indices[position])
    hint = " (IGNORE_INDEX: select the completion positions first)" if value == IGNORE_INDEX else ""
    raise ValueError(f"{name} must lie in [0, {bound}), got {value} at position {position} of {len(indices)}{hint}")


def _is_any(is_wrong: Tensor, message: str) -> bool:
    """Whether a value of (n,) is wrong.

    To ask a GPU that would be to wait for all that it has to do. There the answer is always no, and where that is not
    true the GPU itself ends the process with the message.
    """
    if is_wrong.device.type == "cpu":
        return bool(is_wrong.any())
    torch._assert_async(~is_wrong.any(), message)
    return False
