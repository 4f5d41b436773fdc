"""Direct preference optimisation (paper Eq. 2): the baseline that needs a frozen reference model."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.logps import SequenceLogps, check_pairs

Reference = tuple[Tensor, Tensor]
"""(n,) log π_ref of the chosen and (n,) of the rejected completions, summed over tokens."""


def dpo_loss(
    chosen: SequenceLogps,
    rejected: SequenceLogps,
    *,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> Tensor:
    """Logistic loss on the difference of the implicit rewards of each pair.

    Args:
        chosen: Policy log-probabilities of n correct completions y_w.
        rejected: Policy log-probabilities of n incorrect completions y_l, pair by pair.
        reference_chosen: (n,) log π_ref(y_w|x), summed over tokens.
        reference_rejected: (n,) log π_ref(y_l|x), summed over tokens.
        beta: Strength β > 0 of the pull towards the reference; the paper's best is 0.001.

    Returns:
        (n,) loss of each pair; log 2 where policy and reference agree.

    Raises:
        ValueError: If beta is not a positive finite number, shapes differ or a completion has no tokens.

    References:
        Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, Eq. 7.
        Reinforcement Distillation, arXiv 2505.24850, Eq. 2.
    """
    check_pairs(chosen, rejected)
    chosen_rewards = dpo_rewards(chosen, reference_chosen, beta=beta)
    rejected_rewards = dpo_rewards(rejected, reference_rejected, beta=beta)
    return -F.logsigmoid(chosen_rewards - rejected_rewards)  # Eq. 2


def dpo_rewards(policy: SequenceLogps, reference: Tensor, *, beta: float) -> Tensor:
    """Implicit reward β (log π(y|x) − log π_ref(y|x)) of each completion.

    Args:
        policy: Policy log-probabilities of n completions.
        reference: (n,) log π_ref(y|x) of the same completions, summed over tokens.
        beta: β > 0 of the DPO loss.

    Returns:
        (n,) rewards in nats times β, differentiable in the policy's logps.

    Raises:
        ValueError: If beta is not a positive finite number or shapes differ.

    References:
        Rafailov et al., Direct Preference Optimization, arXiv 2305.18290, Section 4.
    """
    if not (beta > 0.0 and math.isfinite(beta)):
        raise ValueError(f"beta must be a positive finite number, got {beta}")
    if policy.logps.shape != reference.shape:
        raise ValueError(
            f"reference logps must have the policy's shape {tuple(policy.logps.shape)}, got {tuple(reference.shape)}"
        )
    return beta * (policy.logps - reference)
