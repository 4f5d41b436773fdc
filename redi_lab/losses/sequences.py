"""Log-probabilities of whole completions: what every objective is a function of.

    sequences = SequenceLogps(sum_by_sequence(token_logps, sequence_index, n), lengths)
    sequences.mean_logps

Shape suffixes: N completion tokens, n sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SequenceLogps(NamedTuple):
    """Log-probabilities of n completions under one model.

    Where tokens have weights c_t, each sum is over c_t · log π(y_t | x, y_<t), and |y| is Σ|c_t|, so that
    `mean_logps` is a weighted mean.
    """

    logps: Tensor
    """(n,) fp32, log π(y|x) in nats, summed over the completion's tokens."""
    lengths: Tensor
    """(n,) number of completion tokens that the sum runs over, |y| > 0."""
    reference: Tensor | None = None
    """(n,) log π_ref(y|x) of the same completions, for objectives that need a reference model."""
    weights: Tensor | None = None
    """(n,) factor ≥ 0 of each completion's (or its pair's) term in the loss; None: 1."""
    pass_rates: Tensor | None = None
    """(n,) share of right traces among the graded ones of its problem, for objectives that need it."""
    token_terms: Tensor | None = None
    """(n,) Σ_t c_t φ(log π(y_t | x, y_<t)), for objectives with a function φ of single tokens' log-probs."""
    divergence: Tensor | None = None
    """(n,) Σ_t e^{d_t} − d_t − 1 ≥ 0 with d_t = log π_ref − log π of a token, where the loss has that term."""
    unweighted_logps: Tensor | None = None
    """(n,) log π(y|x) whatever the tokens weigh; None: `logps`."""
    num_tokens: Tensor | None = None
    """(n,) completion tokens whatever they weigh; None: `lengths`."""

    @property
    def mean_logps(self) -> Tensor:
        """(n,) log π(y|x) / |y| in nats per token, the LogPS of the paper's figures."""
        return self.logps / self.lengths

    @property
    def log_ratios(self) -> Tensor:
        """(n,) log π(y|x) − log π_ref(y|x) in nats; raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("this objective needs reference log-probs")
        return self.logps - self.reference

    @property
    def mean_terms(self) -> Tensor:
        """(n,) Σ_t c_t φ / |y|; raises ValueError where there is no φ."""
        if self.token_terms is None:
            raise ValueError("this objective needs a function of single tokens")
        return self.token_terms / self.lengths

    @property
    def required_pass_rates(self) -> Tensor:
        """(n,) share of right traces of each problem; raises ValueError where there is none."""
        if self.pass_rates is None:
            raise ValueError("this objective needs the pass rates of problems")
        return self.pass_rates

    @property
    def unweighted(self) -> SequenceLogps:
        """The log-probs and lengths alone, whatever the tokens weigh."""
        if self.unweighted_logps is None or self.num_tokens is None:
            return SequenceLogps(self.logps, self.lengths)
        return SequenceLogps(self.unweighted_logps, self.num_tokens)

    def total(self, values: Tensor) -> Tensor:
        """() sum of a value (n,) of each completion, times its weight."""
        return values.sum() if self.weights is None else (self.weights * values).sum()

    def at(self, index: Tensor | slice) -> SequenceLogps:
        """Those of the completions that `index` selects."""
        return SequenceLogps(*(None if values is None else values[index] for values in self))  # type: ignore[arg-type]


def sum_by_sequence(token_values: Tensor, sequence_index: Tensor, num_sequences: int) -> Tensor:
    """Sum token values into the sequences that they belong to; differentiable, and the same on every run.

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
    check_indices("sequence_index", sequence_index, num_sequences)
    # fp64, because a running fp32 sum over a long trace loses digits. index_put rather than index_add, because with
    # accumulate=True it sorts on CUDA and is serial for fp64 on CPU: deterministic without a global switch.
    totals = torch.zeros(num_sequences, dtype=torch.float64, device=token_values.device)
    totals = totals.index_put((sequence_index,), token_values.double(), accumulate=True)
    return totals.to(compute_dtype(token_values))


def compute_dtype(values: Tensor) -> torch.dtype:
    """Dtype of softmax and sums: fp64 for fp64, else fp32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def check_sequences(name: str, sequences: SequenceLogps) -> None:
    """Raise ValueError unless all fields share one shape (n,) and every length is above 0."""
    shapes = [tuple(values.shape) for values in sequences if values is not None]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1:
        raise ValueError(f"{name}: logps, lengths and reference must share one shape (n,), got {shapes}")
    lengths = sequences.lengths
    if is_any(lengths <= 0, f"{name}: every sequence needs a completion token"):
        row = int((lengths <= 0).int().argmax())
        raise ValueError(f"{name}: sequence {row} has {lengths[row].item():g} completion tokens, at least 1 is needed")


def check_pairs(chosen: SequenceLogps, rejected: SequenceLogps) -> None:
    """Raise ValueError unless both sides are valid (`check_sequences`) and hold the same number of sequences."""
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    if chosen.logps.shape != rejected.logps.shape:
        raise ValueError(
            f"chosen and rejected must pair up, got {chosen.logps.shape[0]} chosen and "
            f"{rejected.logps.shape[0]} rejected sequences"
        )


def check_indices(name: str, indices: Tensor, bound: int) -> None:
    """Raise ValueError unless `indices` are int64 in [0, bound)."""
    if indices.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {indices.dtype}")
    is_wrong = (indices < 0) | (indices >= bound)
    if is_any(is_wrong, f"{name} must lie in [0, {bound})"):
        position = int(is_wrong.int().argmax())
        raise ValueError(
            f"{name} must lie in [0, {bound}), got {int(indices[position])} at position {position} of {len(indices)}"
        )


def is_any(is_wrong: Tensor, message: str) -> bool:
    """Whether a value of (n,) is wrong.

    Asking a GPU would mean waiting for all of its queued work. So there the answer is always no, and where that is
    false the GPU itself ends the process with the message.
    """
    if is_wrong.device.type == "cpu":
        return bool(is_wrong.any())
    torch._assert_async(~is_wrong.any(), message)
    return False
