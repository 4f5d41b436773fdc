"""Kahneman-Tversky optimisation: right and wrong traces each against one point of reference, which need not pair up."""

from __future__ import annotations

import torch
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def kto_loss(
    sequences: SequenceLogps,
    is_chosen: Tensor,
    *,
    reference_point: Tensor,
    beta: float,
    chosen_weight: float,
    rejected_weight: float,
) -> Tensor:
    """(n,) λ_D (1 − σ(β(Δ − z₀))) of correct and λ_U (1 − σ(β(z₀ − Δ))) of incorrect completions.

    Args:
        sequences: n completions with their reference.
        is_chosen: (n,) bool, whether each is correct.
        reference_point: () z₀ ≥ 0 in nats, a constant.
        beta: scale β > 0 of the log-ratios.
        chosen_weight: λ_D ≥ 0.
        rejected_weight: λ_U ≥ 0.

    Raises:
        ValueError: shapes differ, a completion has no tokens, or there is no reference.

    References:
        Ethayarajh et al., KTO, arXiv 2402.01306, Eq. 8.
    """
    check_sequences("sequences", sequences)
    sign = torch.where(is_chosen, 1.0, -1.0)
    size = torch.where(is_chosen, chosen_weight, rejected_weight)
    return size * torch.sigmoid(-sign * beta * (sequences.log_ratios - reference_point))
