"""Reinforcement distillation (paper Eq. 5): raise chosen traces, lower rejected ones with a smaller weight."""

from __future__ import annotations

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_pairs


def redi_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float) -> Tensor:
    """Asymmetrically weighted, length-normalised likelihood difference of each pair.

    Needs no reference model and is linear in the token log-probs: a chosen token weighs −1/|y_w|, a rejected one
    α/|y_l|, which is what `redi_lab.losses.logps.weighted_logp_sum` makes use of.

    Args:
        chosen: Policy log-probabilities of n correct completions y_w.
        rejected: Policy log-probabilities of n incorrect completions y_l, pair by pair.
        alpha: Weight α of the negative term in [0, 1]. 0 is length-normalised SFT on the chosen completions, 1 the
            symmetric loss (Eq. 4); the paper's best is 0.8.

    Returns:
        (n,) loss of each pair in nats per token. Unbounded below for α > 0.

    Raises:
        ValueError: If shapes differ or a completion has no tokens.

    References:
        Reinforcement Distillation, arXiv 2505.24850, Eq. 4 and 5.
    """
    check_pairs(chosen, rejected)
    return -chosen.mean_logps + alpha * rejected.mean_logps  # Eq. 5
