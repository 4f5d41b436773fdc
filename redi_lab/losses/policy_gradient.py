"""Policy-gradient losses on any numbers of correct and incorrect traces: linear, so they cost what SFT costs.

Each is −Σ A_i · log π(y_i|x_i) over the traces of a batch, with an advantage A_i that is known beforehand. They differ
from unpaired REDI in what they divide by: REDI averages each side separately, these average over the whole batch, so
that the share of correct traces in the data counts.
"""

from __future__ import annotations

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def w_reinforce_loss(
    chosen: SequenceLogps, rejected: SequenceLogps, *, positive_weight: float, negative_weight: float, num_tokens: float
) -> Tensor:
    """() −(λ₊ Σ log π(y_w) − λ₋ Σ log π(y_l)) / N, averaged over all N tokens of the batch.

    (λ₊, λ₋) = (1, 0) is PSR, SFT on correct traces but for the divisor; (0, 1) NSR, which only pushes down;
    (0.1, 1) W-REINFORCE; (1, −1) SFT on all traces, which NAT (arXiv 2402.11651) parts by their prompts.

    Args:
        chosen: any number of correct completions.
        rejected: any number of incorrect completions.
        positive_weight: λ₊ ≥ 0.
        negative_weight: λ₋; incorrect traces are imitated where it is below 0.
        num_tokens: N, Σ|y| of the whole batch, of which those given may be a part.

    Raises:
        ValueError: shapes differ or a completion has no tokens.

    References:
        Zhu et al., The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning, arXiv 2506.01347.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    up, down = (side.total(side.logps) for side in (chosen, rejected))
    return (negative_weight * down - positive_weight * up) / num_tokens


def asymre_loss(
    chosen: SequenceLogps,
    rejected: SequenceLogps,
    *,
    baseline: float,
    num_sequences: int,
    is_relative: bool = False,
    strength: float = 1.0,
) -> Tensor:
    """() −Σ (r_i − V) m_i / n with reward r = 1 for correct and 0 for incorrect traces.

    Where a share p of the traces is correct, it is p(1 − V) times unpaired REDI with α = (1 − p)V / (p(1 − V)): V = p
    is symmetric, V < p is α < 1. TOPR's baseline c, on rewards of ±1, is V = (1 + c)/2.

    Args:
        chosen: any number of correct completions.
        rejected: any number of incorrect completions.
        baseline: V < 1.
        num_sequences: n, traces of the whole batch, of which those given may be a part.
        is_relative: whether V is the problem's share of right traces plus `baseline`, which is the paper's δV < 0.
        strength: factor in [0, 1] on V.

    Raises:
        ValueError: shapes differ, a completion has no tokens, or there are no pass rates and V is relative.

    References:
        Arnal et al., Asymmetric REINFORCE for off-policy RL, arXiv 2506.20520, with mean instead of summed log-probs.
        Le Roux et al., Tapered Off-Policy REINFORCE, arXiv 2503.14286.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    of_chosen, of_rejected = (
        strength * (side.required_pass_rates + baseline if is_relative else baseline) for side in (chosen, rejected)
    )
    up, down = chosen.total((1.0 - of_chosen) * chosen.mean_logps), rejected.total(of_rejected * rejected.mean_logps)
    return (down - up) / num_sequences


def oreal_loss(
    chosen: SequenceLogps,
    rejected: SequenceLogps,
    *,
    negative_weight: float,
    num_chosen_tokens: int,
    num_rejected_tokens: int,
) -> Tensor:
    """() −Σ A_w S_w / N₊ − η Σ A_l S_l / N₋ with the advantage A = r − r̄ over a problem's traces, r = ±1.

    So a correct trace weighs 2(1 − p) and an incorrect one −2p, where p is the share of correct traces: what is rare
    counts. Token weights are the paper's ω. Its leave-one-out advantage is this one times K/(K − 1) for K traces of a
    problem, the same factor for all where K is the same.

    Args:
        chosen: any number of correct completions, with the pass rates of their problems.
        rejected: any number of incorrect completions, likewise.
        negative_weight: η ≥ 0, in the authors' code 0.5.
        num_chosen_tokens: N₊, of all correct completions of the batch, of which those given may be a part; tokens
            count whatever they weigh.
        num_rejected_tokens: N₋, those of the incorrect ones.

    Raises:
        ValueError: shapes differ, a completion has no tokens, or there are no pass rates.

    References:
        Lyu et al., Exploring the Limit of Outcome Reward, arXiv 2502.06781, without its exp(ℓ − sg ℓ), whose gradient
        is that of ℓ.
    """
    check_sequences("chosen", chosen)
    check_sequences("rejected", rejected)
    up = chosen.total(2.0 * (1.0 - chosen.required_pass_rates) * chosen.logps)
    down = rejected.total(2.0 * rejected.required_pass_rates * rejected.logps)
    # A side without sequences adds nothing, whatever it is divided by.
    return negative_weight * down / max(num_rejected_tokens, 1) - up / max(num_chosen_tokens, 1)
