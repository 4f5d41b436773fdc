"""Simple preference optimisation (paper Eq. 3): a reference-free, length-normalised logistic loss with a margin."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_pairs


def simpo_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float, gamma: float) -> Tensor:
    """Logistic loss on the difference of mean log-probs of each pair, less a margin.

    As β → 0 with a learning rate of c/β, a gradient step tends to one of the symmetric REDI loss with learning rate
    c·σ(γ) (paper Prop. B.3).

    Args:
        chosen: Policy log-probabilities of n correct completions y_w.
        rejected: Policy log-probabilities of n incorrect completions y_l, pair by pair.
        beta: Scale β > 0 of the length-normalised log-probs; the paper's best is 2.
        gamma: Target margin γ ≥ 0 between the two scaled rewards; the paper's best is 1.

    Returns:
        (n,) loss of each pair; log(1 + e^γ) where both completions are equally likely per token.

    Raises:
        ValueError: If shapes differ or a completion has no tokens.

    References:
        Meng et al., SimPO: Simple Preference Optimization with a Reference-Free Reward, arXiv 2405.14734, Eq. 6.
        Reinforcement Distillation, arXiv 2505.24850, Eq. 3.
    """
    check_pairs(chosen, rejected)
    return -F.logsigmoid(beta * chosen.mean_logps - beta * rejected.mean_logps - gamma)  # Eq. 3
