"""Policy-gradient losses on any numbers of correct and incorrect traces: linear, so they cost what SFT costs.

Each is −Σ A_i · log π(y_i|x_i) over the traces of a batch, with an advantage A_i that is known beforehand. They differ
from unpaired REDI in what they divide by: REDI averages each side separately, these average over the whole batch, so
that the share of correct traces in the data counts.
"""

from __future__ import annotations

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def w_reinforce_loss(
    chosen: SequenceLogps, rejected: SequenceLogps, *, positive_weight: float, negative_weight: float, num_tokens: int
) -> Tensor:
    """() −(λ₊ Σ log π(y_w) − λ₋ Σ log π(y_l)) / N, averaged over all N tokens of the batch.

    (λ₊, λ₋) = (1, 0) is PSR, SFT on correct traces but for the divisor; (0, 1) NSR, which only pushes down;
    (0.1, 1) W-REINFORCE.

    Args:
        chosen: any number of correct completions.
        rejected: any number of incorrect completions.
        positive_weight: λ₊ ≥ 0.
        negative_weight: λ₋ ≥ 0.
        num_tokens: N, completion tokens of the whole batch, of which those given may be a part.

    Raises:
        ValueError: shapes differ or a completion has no tokens.

    References:
        Zhu et al., The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    return (negative_weight * rejected.logps.sum() - positive_weight * chosen.logps.sum()) / num_tokens


def asymre_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, baseline: float, num_sequences: int) -> Tensor:
    """() −Σ (r_i − V) m_i / n with reward r = 1 for correct and 0 for incorrect traces.

    Where a share p of the traces is correct, it is p(1 − V) times unpaired REDI with α = (1 − p)V / (p(1 − V)): V = p
    is symmetric, V < p is α < 1. TOPR's baseline c, on rewards of ±1, is V = (1 + c)/2.

    Args:
        chosen: any number of correct completions.
        rejected: any number of incorrect completions.
        baseline: V in [0, 1).
        num_sequences: n, traces of the whole batch, of which those given may be a part.

    Raises:
        ValueError: shapes differ or a completion has no tokens.

    References:
        Arnal et al., Asymmetric REINFORCE for off-policy RL, arXiv 2506.20520, with mean instead of summed log-probs.
        Le Roux et al., Tapered Off-Policy REINFORCE, arXiv 2503.14286.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    return (baseline * rejected.mean_logps.sum() - (1.0 - baseline) * chosen.mean_logps.sum()) / num_sequences
