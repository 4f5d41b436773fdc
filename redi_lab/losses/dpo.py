"""Direct preference optimisation (paper Eq. 2): the baseline that needs a frozen reference model."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_pairs


def dpo_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float) -> Tensor:
    """Logistic loss on the difference of the implicit rewards of each pair.

    Args:
        chosen: Log-probabilities of n correct completions y_w under policy and reference.
        rejected: Those of n incorrect completions y_l, pair by pair.
        beta: Strength β > 0 of the pull towards the reference; the paper's best is 0.001.

    Returns:
        (n,) loss of each pair; log 2 where policy and reference agree.

    Raises:
        ValueError: If shapes differ, a completion has no tokens or there is no reference.

    References:
        Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, Eq. 7.
        Reinforcement Distillation, arXiv 2505.24850, Eq. 2.
    """
    check_pairs(chosen, rejected)
    return -F.logsigmoid(dpo_rewards(chosen, beta=beta) - dpo_rewards(rejected, beta=beta))  # Eq. 2


def dpo_rewards(sequences: SequenceLogps, *, beta: float) -> Tensor:
    """(n,) implicit reward β (log π(y|x) − log π_ref(y|x)) of each completion, differentiable in the policy's logps.

    References:
        Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, Section 4.
    """
    return beta * sequences.log_ratios
