"""What an objective sees: sums over the tokens of each sequence, and the sequences of a batch with these sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sequences import SequenceLogps


class Examples(NamedTuple):
    """What an objective sees of s sequences; in a pair the chosen one comes first, directly before the rejected one."""

    sequences: SequenceLogps
    is_chosen: Tensor
    """(s,) bool: whether the sequence is to become likelier."""

    @property
    def chosen(self) -> SequenceLogps:
        """Log-probs of the chosen sequences, in order."""
        return self.sequences.at(self.is_chosen)

    @property
    def rejected(self) -> SequenceLogps:
        """Log-probs of the rejected sequences, in order."""
        return self.sequences.at(~self.is_chosen)


class TokenSums(NamedTuple):
    """Sums over the completion tokens of each of S sequences: all that a loss knows of the policy.

    Also the partial derivatives of a loss in these sums, see `CausalLMModule.slopes`.
    """

    logps: Tensor
    """(S,) Σ_t c_t ℓ_t with ℓ_t = log π(y_t | x, y_<t) and token weights c_t."""
    unweighted: Tensor
    """(S,) Σ_t ℓ_t, for curves; a loss does not depend on it."""
    terms: Tensor | None = None
    """(S,) Σ_t c_t φ(ℓ_t), where the objective has a `token_term` φ."""
    divergence: Tensor | None = None
    """(S,) Σ_t k3(log π_ref − log π), where the loss has that term."""

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenSums:
        """A function of each that there is, in order."""
        return TokenSums(*(None if values is None else function(values) for values in self))  # type: ignore[arg-type]

    def plus(self, other: TokenSums) -> TokenSums:
        """Those of both, which have the same columns."""
        both = zip(self, other, strict=True)
        return TokenSums(*(None if a is None or b is None else a + b for a, b in both))  # type: ignore[arg-type]


def k3(logps: Tensor, reference: Tensor | None) -> Tensor:
    """(c,) e^d − d − 1 ≥ 0 of d = log π_ref − log π of each token (Schulman's third estimator, as in GRPO)."""
    if reference is None:
        raise ValueError("kl_weight needs the reference's log-probs of tokens")
    distance = reference - logps
    return torch.expm1(distance) - distance


def examples_of(batch: Batch, sums: TokenSums, which: Tensor | None = None) -> Examples:
    """The batch's sequences with their sums, or those of them that `which` (n,) names."""
    sequences = SequenceLogps(
        sums.logps,
        batch.lengths,
        batch.reference_logps,
        batch.weights,
        batch.pass_rates,
        sums.terms,
        sums.divergence,
        sums.unweighted,
        batch.num_tokens_of,
    )
    if which is None:
        return Examples(sequences, batch.is_chosen)
    return Examples(sequences.at(which), batch.is_chosen[which])
