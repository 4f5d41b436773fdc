"""Supervised fine-tuning on chosen completions (paper Eq. 1): the first stage of every recipe, and the baseline."""

from __future__ import annotations

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def sft_loss(sequences: SequenceLogps) -> Tensor:
    """Negative log-likelihood of each completion.

    Args:
        sequences: Policy log-probabilities of n completions y_w.

    Returns:
        (n,) loss of each sequence in nats, summed over its tokens. The token mean that is minimised in practice is the
        sum of these over the number of completion tokens of the global batch, which only the caller knows.

    Raises:
        ValueError: If shapes differ or a completion has no tokens.

    References:
        Reinforcement Distillation, arXiv 2505.24850, Eq. 1.
    """
    check_sequences("sequences", sequences)
    return -sequences.logps  # Eq. 1
