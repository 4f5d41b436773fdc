"""Log-probabilities of target tokens straight from hidden states and the LM head, in chunks of tokens.

Every objective is made from log π(y_t | x, y_<t). With a vocabulary of 152k and a trace of 19k tokens, the logits alone
would fill 11 GB in fp32, so [tokens, vocabulary] never exists here: one chunk of tokens is projected, normalised and
dropped before the next. Two entries:

* `weighted_logp_sum` for objectives whose token weights are known beforehand (SFT, REDI), or up to one scalar a group
  that is known once the group has been read (DPO and SimPO: a pair), or are functions of the token's own log-prob
  (unlikelihood). The gradients are taken inside the forward loop, so one pass over the vocabulary does the whole work.
* `token_logps` for scoring, and for any other use of the values: backward makes a second pass.

    head = Head(lm_head.weight)
    logps, _ = token_logps(hidden[is_completion], head, targets[is_completion])
    sequences = SequenceLogps(sum_by_sequence(logps, sequence_index, n), lengths)

Shape suffixes: N completion tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from redi_lab.losses.sequences import check_indices
from redi_lab.losses.vocabulary import Gradients, Groups, Head, TokenSlopes, VocabularyPass

_HeadOptions = tuple[float | None, float, int]  # a `Head` without its tensors, which autograd has to see by themselves


class TokenLogps(NamedTuple):
    """What the model says about each of N target tokens."""

    logps: Tensor
    """(N,) log π(y_t | x, y_<t) in nats."""
    entropy: Tensor | None
    """(N,) detached entropy of the whole next-token distribution in nats, None unless asked for."""


class WeightedLogpSum(NamedTuple):
    """A weighted sum of token log-probs, and these themselves."""

    total: Tensor
    """() Σ_t (f_t · w_t + h_t) · log π(y_t | x, y_<t), the only differentiable field."""
    logps: Tensor
    """(N,) detached log π(y_t | x, y_<t) in nats."""


def token_logps(hidden: Tensor, head: Head, targets: Tensor, *, with_entropy: bool = False) -> TokenLogps:
    """Log-probability of each target token, differentiable in `hidden` and in the head's weight and bias.

    The matrix products run in the dtype of `hidden` (autocast is switched off inside; the head is cast once where its
    dtype differs), everything after them in fp32, or fp64 where `hidden` is fp64. Gradients leave in their input's
    dtype; the head's are added up over chunks in fp32.

    Args:
        hidden: (N, H) last hidden states at the positions that predict completion tokens; N may be 0.
        head: the LM head.
        targets: (N,) int64 token ids in [0, V). Completion positions only.
        with_entropy: Also return the entropy of each distribution (one more buffer of a chunk).

    Returns:
        `logps` (N,) fp32 (fp64 from fp64) and, where asked for, `entropy` (N,) detached.

    Raises:
        ValueError: If shapes do not fit together or a target is out of range. On a GPU the latter ends the process.
    """
    _check_inputs(hidden, head, targets)
    return TokenLogps(
        *_TokenLogps.apply(hidden, head.weight, head.bias, targets, head[2:], with_entropy)  # type: ignore[no-untyped-call]
    )


def weighted_logp_sum(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    token_weights: Tensor,
    *,
    groups: Groups | None = None,
    slopes_of: TokenSlopes | None = None,
) -> WeightedLogpSum:
    """Σ_t (f_t · w_t + h_t) · log π(y_t | x, y_<t), with its gradients taken in the same pass over the vocabulary.

    By default all f_t are 1 and all h_t 0: equal in value and gradients to
    `(token_weights * token_logps(...).logps).sum()`, and cheaper by one projection. The gradient of a chunk's logits is
    w_t (onehot(y_t) − softmax), all known in the forward, so the logits buffer is turned into it on the spot. Backward
    only multiplies by the incoming scalar and hands the gradients over, once. Between the two, the gradients of
    `hidden` and of the head are held. Where nothing asks for gradients, none are computed.

    With `groups`: a loss L(m) of a linear form m = Σ_t w_t log π(y_t | x, y_<t) of each group has the gradient
    L'(m) Σ_t w_t ∇ log π. With f = L'(m) this sum has the same gradient, but another value, which is of no use. So it
    is with `slopes_of`: a loss Σ_t φ(log π(y_t | x, y_<t)) has the gradient of this sum where h = φ'.

    Args:
        hidden: As for `token_logps`.
        head: As for `token_logps`. A group longer than its `chunk_size` takes one more (V, H) buffer.
        targets: As for `token_logps`.
        token_weights: (N,) floating point, e.g. −1/|y_w| on chosen and α/|y_l| on rejected tokens over the number of
            pairs. A constant: it must not require grad.
        groups: give the factors f_t.
        slopes_of: gives the h_t; constants, as `token_weights`.

    Returns:
        `total` () fp32 (fp64 from fp64), differentiable; `logps` (N,), detached.

    Raises:
        ValueError: As for `token_logps`, or `token_weights` requires grad, or the groups do not make up the tokens.
    """
    _check_inputs(hidden, head, targets)
    if token_weights.shape != targets.shape:
        raise ValueError(f"token_weights must be ({len(targets)},) like targets, got {tuple(token_weights.shape)}")
    if token_weights.requires_grad:
        raise ValueError("token_weights must be constants, got a tensor that requires grad: use token_logps instead")
    if groups is not None and (sum(groups.lengths) != len(targets) or min(groups.lengths, default=0) < 0):
        raise ValueError(f"groups must have lengths that add up to {len(targets)}, got {list(groups.lengths)}")
    # Inside an autograd.Function grad mode is always off, so whether gradients are wanted is asked here.
    wants_gradients = torch.is_grad_enabled()
    return WeightedLogpSum(
        *_WeightedLogpSum.apply(  # type: ignore[no-untyped-call]
            hidden,
            head.weight,
            head.bias,
            targets,
            token_weights,
            head[2:],
            groups,
            slopes_of,
            wants_gradients,
        )
    )


class _TokenLogps(torch.autograd.Function):
    """Forward keeps its inputs alone; backward makes a second pass over the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        options: _HeadOptions,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        once = VocabularyPass(hidden, Head(weight, bias, *options), targets, with_entropy=with_entropy)
        once.run()
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.options = options
        if once.entropy is not None:
            ctx.mark_non_differentiable(once.entropy)
        return once.logps, once.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logps: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        again = VocabularyPass(hidden, Head(weight, bias, *ctx.options), targets)
        gradients = Gradients(again, grad_logps, ctx.needs_input_grad)
        again.run(gradients)
        return *_in_dtypes_of((hidden, weight, bias), gradients), None, None, None


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
        options: _HeadOptions,
        groups: Groups | None,
        slopes_of: TokenSlopes | None,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        once = VocabularyPass(hidden, Head(weight, bias, *options), targets)
        token_weights = token_weights.to(once.dtype)
        if wants_gradients and any(ctx.needs_input_grad):
            # Held at unit size until backward: weights near 1e-7 would underflow where the gradients are fp16.
            size = ctx.size = _largest_magnitude(token_weights)
            gradients = Gradients(once, token_weights / size, ctx.needs_input_grad)
            at_unit_size = slopes_of and (lambda tokens, logps: slopes_of(tokens, logps) / size)
            found = once.run(gradients, groups, at_unit_size)
            token_weights = token_weights if found is None else found * size
            ctx.gradients = _in_dtypes_of((hidden, weight, bias), gradients)
        else:
            once.run()
            everything = slice(0, len(targets))
            if groups is not None:
                token_weights = token_weights * groups.factors_of(everything, once.logps)
            if slopes_of is not None:
                token_weights = token_weights + slopes_of(everything, once.logps)
        ctx.mark_non_differentiable(once.logps)
        return (token_weights * once.logps).sum(), once.logps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # No saved tensors: those outlive this call, and beside the scaled copy the head's would be held twice.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradients of this sum were handed over by an earlier backward pass")
        factor = grad_total * ctx.size
        return *(None if gradient is None else gradient.mul_(factor) for gradient in gradients), *(None,) * 6


def _in_dtypes_of(inputs: Sequence[Tensor | None], gradients: Gradients) -> list[Tensor | None]:
    """The gradients of hidden, weight and bias, each in the dtype of its input."""
    found = (gradients.hidden, gradients.weight, gradients.bias)
    return [
        None if value is None or gradient is None else gradient.to(value.dtype)
        for value, gradient in zip(inputs, found, strict=True)
    ]


def _largest_magnitude(values: Tensor) -> Tensor:
    """() max |v|; 1 where all are 0, or for no values."""
    if values.numel() == 0:
        return values.new_ones(())
    largest = values.abs().amax()
    return torch.where(largest == 0, 1.0, largest)


def _check_inputs(hidden: Tensor, head: Head, targets: Tensor) -> None:
    weight = head.weight
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be (N, H) and weight (V, H), got {tuple(hidden.shape)} and {tuple(weight.shape)}"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(
            f"targets must be ({hidden.shape[0]},) like the rows of hidden, got shape {tuple(targets.shape)}"
        )
    if head.chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {head.chunk_size}")
    check_indices("targets", targets, weight.shape[0])
